"""Attacks that poison training data; the victim trains."""
