"""Defences that say whether a model has a backdoor."""
