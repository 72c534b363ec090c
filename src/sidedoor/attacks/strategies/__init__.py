"""Ways of training on what another data-poisoning attack poisons."""
