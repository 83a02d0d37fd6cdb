"""Handwritten digits, two classes after two others: accuracy after each split, and which pairs were used for it."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.papers.incremental_learning.arms import begun, digits_arms, learned, probes_by_rate
from experiments.papers.progress import Progress
from jaxdec.data import digits
from jaxdec.models.key_value_bottleneck import key_usage
from jaxdec.training.class_incremental import (
    Examples,
    accuracy_by_class,
    class_splits,
    iid_stream,
    incremental_stream,
    logits,
)

IN_ORDER = (0, 42)
"""Seeds under which classes come in their order; others shuffle them, as in the authors' code."""
BINS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Lower bounds of how often a pair was fetched."""


def divided(num_test: int, seed: int) -> tuple[Examples, Examples]:
    """Pixels in [0, 1] as embeddings (the encoder is the identity), and classes: for training, and the rest for testing."""
    images, labels = digits()
    order = np.random.default_rng(seed).permutation(len(labels))
    pixels, classes = np.asarray(images, np.float32).reshape(len(labels), -1)[order], np.asarray(labels)[order]
    parts = [
        Examples(jnp.asarray(pixels[part]), jnp.asarray(classes[part], jnp.int32))
        for part in (slice(num_test, None), slice(num_test))
    ]
    return parts[0], parts[1]


def digits_part(config: Mapping[str, Any], seed: int, progress: Progress) -> dict[str, Any]:
    """By arm: accuracy by class after every split, and of the same learner on all classes at once."""
    train, test = divided(config["test"], seed)
    splits = class_splits(10, config["classes_per_split"], None if seed in IN_ORDER else seed)
    sizes = (config["updates"], config["batch_size"])
    incremental = incremental_stream(train.labels, splits, *sizes, seed=seed)
    at_once = iid_stream(train.labels, len(splits), *sizes, seed=seed)
    found: dict[str, Any] = {}
    arms = digits_arms(config)
    with progress.task(f"digits, seed {seed}", len(arms)) as advance:
        for name, arm in arms.items():
            begin = time.perf_counter()
            variables, errors = begun(
                arm, train.embeddings[:1], train.embeddings, config["batch_size"], config["key_epochs"], seed
            )
            after, whole = (
                learned(arm, variables, train, test, stream, config["label_smoothing"])
                for stream in (incremental, at_once)
            )
            found[name] = {"after": after.accuracy.tolist(), "iid": whole.accuracy[-1].tolist()}
            if arm.is_bottleneck:
                shorter = dataclasses.replace(incremental, parts=incremental.parts[:-1])
                before = learned(arm, variables, train, test, shorter, config["label_smoothing"])
                found[name] |= {"errors": errors, **memory(before.variables, after.variables)}
                everywhere = dataclasses.replace(arm.learner, evaluate="__call__")
                reached = logits(everywhere, after.variables, test.embeddings)
                found[name]["all_pairs"] = accuracy_by_class(reached, test.labels).tolist()
            found[name]["seconds"] = time.perf_counter() - begin
            advance(name)
    rates = []
    for (name, rate), arm in probes_by_rate(config).items():
        variables, _ = begun(arm, train.embeddings[:1], train.embeddings, config["batch_size"], 0, seed)
        last, whole = (
            learned(arm, variables, train, test, stream, config["label_smoothing"]).accuracy[-1].mean()
            for stream in (incremental, at_once)
        )
        rates.append({"learner": name, "rate": rate, "last": float(last), "iid": float(whole)})
    return {"splits": [list(split) for split in splits], "arms": found, "rates": rates}


def memory(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What became of the pairs.

    Args:
      before: variables before the last split.
      after: variables after it.

    Returns:
      How many pairs the last split did not fetch, and how many of their values it changed all the same; and over all splits,
      how much of the memory was used, and how often.
    """
    hits = np.asarray(after["usage"]["hits"])
    resting = hits == np.asarray(before["usage"]["hits"])
    moved = (np.asarray(before["params"]["values"]) != np.asarray(after["params"]["values"])).any(-1)
    histogram = np.histogram(hits, bins=[*BINS, np.iinfo(hits.dtype).max])[0]
    counts = {"pairs": hits.size, "resting": int(resting.sum()), "resting_moved": int(moved[resting].sum())}
    return {**counts, **key_usage(after), "histogram": histogram.tolist()}
