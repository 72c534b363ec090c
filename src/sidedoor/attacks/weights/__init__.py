"""Weight-editing attacks: the attacker changes a trained model."""
