"""Parts of the replica of MMCR: :mod:`experiments.papers.mmcr`."""
