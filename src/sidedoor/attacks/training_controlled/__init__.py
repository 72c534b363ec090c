"""Attacks in which the attacker trains the model."""
