"""Training: the loop in pure torch, checkpoints, and the warm worker group that runs the loop on Ray Train."""
