"""Vetting what somebody was given: is this model backdoored, and are these data poisoned?"""
