"""Triggers: what an attacker puts into an image, one trigger a file."""
