"""Replicas of papers, for ``python -m experiments.reproduce``.

``experiments/papers/NAME.py`` has ``run(config, out_dir, progress) -> metrics``; ``configs/papers/NAME.py`` its config. What
``metrics`` holds is said in :mod:`experiments.papers.report`. Work is cut into parts (:mod:`experiments.papers.parts`): a
replica that was interrupted goes on with the parts that are missing.
"""
