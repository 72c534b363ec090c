"""Reconstruction of triggers from a model: what sends every input to a class."""
