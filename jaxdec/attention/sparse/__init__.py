"""Sparse attention without training: what each query reads, and the attention to it."""
