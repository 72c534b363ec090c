"""What networks make of data on the way to their answers."""
