"""Channels: learned gates on them, which layers belong together, and how they are cut off."""
