"""Defences that remove triggers from inputs."""
