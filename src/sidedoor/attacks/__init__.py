"""How a backdoor is planted; one attack a file."""
