"""Explanations of what a model says of an image, and whether they point at what is known to be its reason."""
