"""What the launcher ``experiments.train`` is made of."""
