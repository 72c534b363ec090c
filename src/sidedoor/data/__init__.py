"""Clean data sets: the base class, wrapping, augmentation and degradation; `sets/` has the loaders."""
