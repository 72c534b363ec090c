"""Statistics, and measures of images and detections."""
