"""Multi-task weightings, which turn several losses into one gradient; one per file."""
