"""What the rest stands on and what knows nothing of backdoors: files, checkpoints, random streams, progress."""
