"""How a scanner or camera samples an image; one operator a file."""
