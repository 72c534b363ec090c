"""Attacks that change the weights of a trained model."""
