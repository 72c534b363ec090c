"""Networks that follow one object through a video."""
