"""Training: the loop (pure torch), checkpoints, and the warm worker group that runs the loop on Ray Train."""
