"""Trigger designs: how an attacker makes a trigger, one design a file."""
