"""Defences that remove a backdoor from a model."""
