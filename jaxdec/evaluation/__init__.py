"""Metrics and graders of decoded text."""
