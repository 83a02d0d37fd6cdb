"""One module per paper: ``run(config, out_dir) -> metrics`` for ``python -m experiments.reproduce``."""
