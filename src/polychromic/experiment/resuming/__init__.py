"""Going on with a run folder: its lock, its inputs, what it was made with."""
