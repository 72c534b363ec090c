"""Uses of the toolbox with a command of their own."""
