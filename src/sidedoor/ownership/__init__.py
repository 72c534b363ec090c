"""Tests of whether a model was trained on a watermarked data set; one per file."""
