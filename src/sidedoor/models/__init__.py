"""Networks; one family a file, the file name is the name of its builder."""
