"""Forward operators of inverse problems: how a scanner or camera samples an image; one per file."""
