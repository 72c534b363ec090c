"""Claims on data: watermark a data set before its release, verify later whether a model was trained on it."""
