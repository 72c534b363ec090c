"""Attacks on networks whose outputs are images."""
