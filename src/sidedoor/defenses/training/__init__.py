"""Defences that train a clean model on poisoned data."""
