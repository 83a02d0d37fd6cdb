"""Losses and norms that are somebody's paper."""
