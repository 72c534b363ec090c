"""Defences that recognise triggered inputs."""
