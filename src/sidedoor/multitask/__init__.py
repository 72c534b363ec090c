"""How the losses of several tasks become one gradient; one weighting a file."""
