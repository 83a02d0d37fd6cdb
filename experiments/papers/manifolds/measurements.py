"""What is measured: losses of training, linear probes with few labels, and the geometry of manifolds of features."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.papers.progress import Progress
from jaxdec.data import ArraySource, batches, digits
from jaxdec.data.views import DIGITS, make_views
from jaxdec.evaluation.linear_probe import fit_linear_probe
from jaxdec.evaluation.manifold_geometry import centroid_correlation, manifold_geometry
from jaxdec.models.encoders import EncoderProjector, MLPEncoder, Projector
from jaxdec.training.recipes.mmcr import MMCR
from jaxdec.training.trainer import train

CLASSES = 10
PIXELS, RANDOM, ALL = "pixels", "a random encoder", "all"
WINDOWS = 50
"""Points of a curve of losses."""


class Digits(NamedTuple):
    """Images ``[N, 8, 8, 1]`` and labels, to train on and to test on."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def mmcr_arm(num_views: int) -> str:
    """Name of an encoder trained on so many views."""
    return f"MMCR, {num_views} views"


def split_digits(count: int) -> Digits:
    """The same ``count`` digits to train on for all seeds, in random order: neighbours are of one writer."""
    images, labels = digits()
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order]
    return Digits(images[:count], labels[:count], images[count:], labels[count:])


def make_recipe(config: Mapping[str, Any], num_views: int, dimension: int) -> MMCR:
    """The recipe on digits."""
    encoder = MLPEncoder(tuple(config["encoder"]))
    return MMCR(EncoderProjector(encoder, Projector((config["hidden"], dimension))), num_views, DIGITS)


@functools.cache
def adam(learning_rate: float) -> optax.GradientTransformation:
    """One object for one rate, so that one program is compiled for all seeds."""
    return optax.adam(learning_rate)


def trained(
    recipe: MMCR, data: Digits, config: Mapping[str, Any], steps: int, seed: int, progress: Progress, name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train; returns variables, and what the losses were."""
    losses, bounds = [], []
    source = ArraySource({"image": data.images, "label": data.labels})
    with progress.task(name, steps) as advance:

        def note(step: int, metrics: Mapping[str, float]) -> None:
            losses.append(metrics["loss"])
            bounds.append(metrics["bound"])
            advance(f"loss {metrics['loss']:.1f} of {metrics['bound']:.1f}")

        drawn = batches(source, config["batch_size"], seed)
        optimizer = adam(config["learning_rate"])
        state = train(recipe, optimizer, drawn, steps, key=jax.random.key(seed), on_step=note)
    return {"params": state.params, **state.state}, summary(losses, bounds[-1])


def summary(losses: Sequence[float], bound: float) -> dict[str, Any]:
    """Losses in windows, the means of the first ten and of the last tenth, and the lowest."""
    tail = max(1, len(losses) // 10)
    windows = np.array_split(np.asarray(losses), min(WINDOWS, len(losses)))
    ends = np.cumsum([len(window) for window in windows])
    return {
        "curve": [[int(end), float(window.mean())] for end, window in zip(ends, windows)],
        "first": float(np.mean(losses[:10])),
        "last": float(np.mean(losses[-tail:])),
        "lowest": float(min(losses)),
        "bound": bound,
    }


def arm_part(
    data: Digits, config: Mapping[str, Any], arm: str, num_views: int | None, seed: int, progress: Progress
) -> dict[str, Any]:
    """One arm and seed: ``losses`` (None without training), ``probes``, ``classes``, ``views``."""
    losses = None
    if arm == PIXELS:
        encode = flat
    else:
        recipe = make_recipe(config, num_views or 1, config["dimension"])
        if num_views is None:
            variables = recipe.init(jax.random.key(seed), {"image": data.images[:2]})
        else:
            variables, losses = trained(recipe, data, config, config["steps"], seed, progress, f"{arm}, seed {seed}")
        encode = functools.partial(features_of, recipe, variables)
    features, test_features = encode(data.images), encode(data.test_images)
    geometry = config["geometry"]
    return {
        "losses": losses,
        "probes": probes(features, test_features, data, config, seed),
        "classes": geometry_of(by_class(test_features, data.test_labels), geometry["directions"]),
        "views": geometry_of(view_manifolds(encode, data.test_images, geometry, seed), geometry["directions"]),
    }


def flat(images: np.ndarray) -> np.ndarray:
    """Pixels as features."""
    return np.asarray(images).reshape(len(images), -1)


@functools.partial(jax.jit, static_argnums=0)
def _features(recipe: MMCR, variables: Any, images: jax.Array) -> jax.Array:
    return recipe.features(variables, images)[0]


def features_of(recipe: MMCR, variables: Any, images: np.ndarray) -> np.ndarray:
    """Features of the encoder, before the projector."""
    return np.asarray(_features(recipe, variables, jnp.asarray(images)))


def probes(
    features: np.ndarray, test_features: np.ndarray, data: Digits, config: Mapping[str, Any], seed: int
) -> dict[str, list[float]]:
    """Test accuracies by number of labels, one for each draw; the draws of a seed are the same for all arms."""

    def accuracy(chosen: np.ndarray) -> float:
        known, labels = jnp.asarray(features[chosen]), jnp.asarray(data.labels[chosen])
        probe = fit_linear_probe(known, labels, CLASSES, l2=config["l2"])
        found = np.asarray(probe.predict(jnp.asarray(test_features)))
        return float(np.mean(found == data.test_labels))

    rng = np.random.default_rng(seed)
    found = {}
    for count in config["labels"]:
        found[str(count)] = [accuracy(balanced(data.labels, count // CLASSES, rng)) for _ in range(config["draws"])]
    return {**found, ALL: [accuracy(np.arange(len(data.labels)))]}


def balanced(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Places of ``per_class`` random items of each class."""
    return np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in range(CLASSES)])


def by_class(features: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """A manifold for each class."""
    return [features[labels == label] for label in range(CLASSES)]


def view_manifolds(
    encode: Callable[[np.ndarray], np.ndarray], images: np.ndarray, geometry: Mapping[str, int], seed: int
) -> list[np.ndarray]:
    """A manifold for each of some images: the features of its views."""
    count, num_views = geometry["images"], geometry["views"]
    draw_views = jax.jit(make_views, static_argnums=(2, 3))
    views = draw_views(jnp.asarray(images[:count]), jax.random.key(seed), num_views, DIGITS)
    return list(encode(np.asarray(views)).reshape(count, num_views, -1))


def geometry_of(manifolds: Sequence[np.ndarray], directions: int) -> dict[str, float]:
    """Means over manifolds, and the correlation of their centres."""
    found = manifold_geometry(manifolds, directions=directions)
    return {
        "capacity": found.mean_capacity,
        "radius": found.mean_radius,
        "dimension": found.mean_dimension,
        "correlation": centroid_correlation(manifolds),
    }


def sweep_part(
    data: Digits, config: Mapping[str, Any], dimension: int, seed: int, progress: Progress
) -> dict[str, Any]:
    """Losses with an embedding of another width."""
    sweep = config["sweep"]
    recipe = make_recipe(config, sweep["views"], dimension)
    name = f"dimension {dimension}, seed {seed}"
    return trained(recipe, data, config, sweep["steps"], seed, progress, name)[1]
