"""A sweep's state: the study and its trial records, the sweep location, and which checkpoints are kept."""
