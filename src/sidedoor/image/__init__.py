"""Windows, resizing, rotation and edges of batches of images."""
