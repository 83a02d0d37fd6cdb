"""Configs of ``experiments.generate``: ``--config=configs/generate/NAME.py``."""
