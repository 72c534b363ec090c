"""One loader a file; the file name is the name of the data set."""
