"""Backdoors: the value that an attack returns, and training data poisoned by it."""
