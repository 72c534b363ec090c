"""Adversarial perturbations, and training that withstands them."""
