"""Where the cells of a sweep are run; one way a file."""
