"""Where a sweep is kept: its study, its location, and the checkpoints that stay."""
