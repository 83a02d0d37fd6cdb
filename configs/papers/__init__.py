"""One config per paper, for ``python -m experiments.reproduce``; a config's ``smoke`` holds what a smoke run changes."""
