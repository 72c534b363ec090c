"""Algorithms that two or more methods are made of."""
