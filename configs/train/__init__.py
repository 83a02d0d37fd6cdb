"""Configs of training runs, for ``python -m experiments.train --config=configs/train/NAME.py``."""
