"""What a defender does about it, at six stages; one defence a file."""
