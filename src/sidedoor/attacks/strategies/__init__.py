"""Training strategies around an attack that poisons data."""
