"""Recipes: one training method a file, for :func:`jaxdec.training.trainer.train`."""
