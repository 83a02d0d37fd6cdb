"""Pallas kernels, one folder per operation; this package knows nothing of jaxdec."""
