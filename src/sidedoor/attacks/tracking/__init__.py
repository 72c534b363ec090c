"""Attacks on trackers, which follow one object through a video."""
