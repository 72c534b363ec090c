from backdoored_digits import scene
from poisoned_digits import suspect

__all__ = ["scene", "suspect"]
