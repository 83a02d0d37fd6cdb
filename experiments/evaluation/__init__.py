"""Evaluation of decoding methods on tasks: what ``python -m experiments.evaluate`` runs."""
