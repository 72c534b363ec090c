"""What an attacker wants; one goal a file."""
