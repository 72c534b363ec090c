"""Defences that find poisoned rows in training data."""
