"""Training-controlled attacks: the attacker trains the model and delivers it."""
