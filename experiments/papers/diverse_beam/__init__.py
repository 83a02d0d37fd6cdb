"""What the replica of diverse beam search is made of; see :mod:`experiments.papers.diverse_beam_search`."""
