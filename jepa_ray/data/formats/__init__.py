"""One module per on-disk format, each yielding the same `Trajectories`."""
