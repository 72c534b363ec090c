"""Vetting training data that somebody was given: which rows are poisoned, and what shows it."""
