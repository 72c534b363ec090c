from backdoored_digits import scene

__all__ = ["scene"]
