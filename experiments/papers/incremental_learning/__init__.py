"""Parts of the replica of the Discrete Key-Value Bottleneck: :mod:`experiments.papers.dkvb`."""
