"""Eight blobs in the plane, two classes after two others: the toy of the paper's figure 2.

Centres are those of the eight outer cells of a board of nine, in a ring; blobs are normal with a standard deviation of 0.035.
Updates are over all points of a task. Keys learn from points that are uniform in the square.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.papers.incremental_learning.arms import begun, blob_arms, learned
from experiments.papers.progress import Progress
from jaxdec.training.class_incremental import Examples, class_splits, incremental_stream, logits

RING = ((0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2), (0, 1))
CENTRES = (np.array(RING) + 0.5) / 3
SPREAD = 0.035


def points(each: int, seed: int) -> Examples:
    """``each`` points of every class."""
    rng, labels = np.random.default_rng(seed), np.repeat(np.arange(8), each)
    places = CENTRES[labels] + SPREAD * rng.normal(size=(8 * each, 2))
    return Examples(jnp.asarray(places, jnp.float32), jnp.asarray(labels, jnp.int32))


def grid(size: int) -> np.ndarray:
    """``size * size`` points of the square, row by row from below."""
    middles = (np.arange(size) + 0.5) / size
    across, up = np.meshgrid(middles, middles)
    return np.stack([across.ravel(), up.ravel()], -1).astype(np.float32)


def blobs_part(config: Mapping[str, Any], seed: int, progress: Progress) -> dict[str, Any]:
    """By arm: accuracy by class after every task, and the class that it sees at every place in the end."""
    train, test = points(config["points"], seed), points(config["points"], seed + 1)
    uniform = np.random.default_rng(seed).uniform(size=(config["key_batches"] * config["key_batch_size"], 2))
    stream = incremental_stream(train.labels, class_splits(8, 2), config["updates"], 2 * config["points"], seed)
    found: dict[str, Any] = {}
    arms = blob_arms(config)
    with progress.task("blobs", len(arms)) as advance:
        for name, arm in arms.items():
            variables, _ = begun(
                arm, train.embeddings[:1], jnp.asarray(uniform, jnp.float32), config["key_batch_size"], 1, seed
            )
            outcome = learned(arm, variables, train, test, stream, config["label_smoothing"])
            seen = logits(arm.learner, outcome.variables, jnp.asarray(grid(config["grid"])))
            regions = np.asarray(seen).argmax(-1).reshape(config["grid"], -1)
            found[name] = {"after": outcome.accuracy.tolist(), "regions": regions.tolist()}
            advance(name)
    return found
