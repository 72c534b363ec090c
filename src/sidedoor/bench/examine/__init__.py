"""Applying and evaluating defences, one stage per file."""
