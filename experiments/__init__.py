"""Launchers: ``python -m experiments.NAME --help``."""
