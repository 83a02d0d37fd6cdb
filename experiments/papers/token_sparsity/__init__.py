"""Parts of the replica of ZipVL: :mod:`experiments.papers.zipvl`."""
