"""Data sets: base class, wrapping, poisoning, selection of rows, augmentation, export; `sets/` has the loaders."""
