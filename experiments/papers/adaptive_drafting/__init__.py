"""Parts of the replica of ADED (:mod:`experiments.papers.aded`)."""
