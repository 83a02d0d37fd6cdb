"""Classifiers and a masked auto-encoder of digits: accuracy, and what the layers look like."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.papers.progress import Progress
from experiments.papers.white_box.vit import VisionTransformer
from jaxdec.data import ArraySource, InOrder, batches, digits
from jaxdec.data.sources import stratified_split
from jaxdec.evaluation.linear_probe import fit_linear_probe
from jaxdec.models.crate import CrateConfig, attention_map
from jaxdec.models.crate_autoencoder import AutoencoderConfig, CrateAutoencoder
from jaxdec.models.crate_classifier import ClassifierConfig, CrateClassifier
from jaxdec.objectives.coding_rate import layer_rate, nonzero_fraction
from jaxdec.training.optimizers import make_optimizer
from jaxdec.training.recipes.classifier import Classifier
from jaxdec.training.recipes.masked_autoencoder import MaskedAutoencoder
from jaxdec.training.trainer import TrainState, train

ARMS = ("crate", "crate tied", "crate-alpha", "vit")
CLASSES = 10


def sources(test_fraction: float) -> tuple[ArraySource, ArraySource]:
    """Digits to train on, and to test on."""
    images, labels = (np.asarray(array) for array in digits())
    learnt, tested = stratified_split(labels, test_fraction, 0)
    whole = ArraySource({"image": images, "label": labels})
    return whole.subset(learnt), whole.subset(tested)


def layers_of(config: Mapping[str, Any], arm: str = "crate") -> CrateConfig:
    """Shape of the layers of an arm."""
    layers = CrateConfig(config["hidden_size"], config["num_layers"], config["num_heads"])
    if arm == "crate-alpha":
        return dataclasses.replace(layers, overcomplete=True, output_bias=False, norm_eps=1e-6)
    return dataclasses.replace(layers, tie_output=arm == "crate tied")


def module_of(config: Mapping[str, Any], arm: str) -> Any:
    """The classifier of an arm: four patches across, an image of 8 x 8."""
    shape = ClassifierConfig(layers_of(config, arm), (8, 8), (2, 2), 1, CLASSES)
    return VisionTransformer(shape) if arm == "vit" else CrateClassifier(shape)


def optimizer_of(config: Mapping[str, Any]) -> Any:
    """AdamW under a cosine, from the config's fields."""
    fields = {
        "name": "adamw",
        "learning_rate": config["learning_rate"],
        "weight_decay": config["weight_decay"],
        "clip": 1.0,
    }
    return make_optimizer({**fields, "schedule": {"name": "cosine", "warmup": config["warmup"]}}, config["steps"])


def trained_classifier(config: Mapping[str, Any], arm: str, seed: int, on_step: Any) -> tuple[Any, TrainState]:
    """One classifier: the module and its last state."""
    learnt, _ = sources(config["test_fraction"])
    recipe = Classifier(module_of(config, arm), config["label_smoothing"])
    state = train(
        recipe, optimizer_of(config), batches(learnt, config["batch_size"], seed), config["steps"],
        key=jax.random.key(seed), on_step=on_step,
    )  # fmt: skip
    return recipe.module, state


def classifier_part(config: Mapping[str, Any], arm: str, seed: int, progress: Progress) -> dict[str, Any]:
    """Accuracy on the test images, parameters, and of CRATE's own layers the probes before and after training.

    ``probes``: by ``"untrained"`` and ``"trained"``, per layer, means over the test images: ``rate`` (nats) and ``nonzero``.
    """
    _, tested = sources(config["test_fraction"])
    with progress.task(f"{arm}, seed {seed}", config["steps"]) as advance:
        module, state = trained_classifier(config, arm, seed, lambda step, metrics: advance(""))
    examples = InOrder(tested, len(tested))[0]
    logits = jax.jit(module.apply)({"params": state.params}, jnp.asarray(examples["image"]))
    found: dict[str, Any] = {
        "accuracy": float((np.asarray(logits).argmax(-1) == examples["label"]).mean()),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "per_layer": per_layer(state.params, config["num_layers"]),
    }
    if arm == "vit":
        return found
    fresh = module.init(jax.random.key(seed), jnp.asarray(examples["image"][:1]))["params"]
    images = jnp.asarray(examples["image"])
    found["probes"] = {
        name: probes(module, params, images) for name, params in (("untrained", fresh), ("trained", state.params))
    }
    if arm == "crate":
        found["maps"] = maps(module, state.params, images[: config["maps"]])
    return found


def per_layer(params: Any, num_layers: int) -> float:
    """Scalars of a layer: those of everything whose name ends in a layer's number, over the layers."""

    def numbered(path: Any) -> bool:
        return any(str(getattr(key, "key", "")).rsplit("_", 1)[-1].isdigit() for key in path)

    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(leaf.size for path, leaf in leaves if numbered(path)) / num_layers


def notes_of(module: Any, params: Any, images: Any) -> list[dict[str, Any]]:
    """What each layer notes."""
    _, noted = jax.jit(lambda p, x: module.apply({"params": p}, x, mutable=["intermediates"]))(params, images)
    layers: Any = noted["intermediates"]["encoder"]
    return [
        {
            "subspace_tokens": layers[name]["attention"]["subspace_tokens"][0],
            "codes": layers[name]["coding"]["codes"][0],
        }
        for name in sorted(layers, key=lambda name: int(name.rsplit("_", 1)[1]))
    ]


def probes(module: Any, params: Any, images: Any) -> dict[str, list[float]]:
    """Coding rate and share of non-zero codes, layer by layer."""
    layers = notes_of(module, params, images)
    return {
        "rate": [float(layer_rate(layer["subspace_tokens"]).mean()) for layer in layers],
        "nonzero": [float(nonzero_fraction(layer["codes"]).mean()) for layer in layers],
    }


def maps(module: Any, params: Any, images: Any) -> dict[str, Any]:
    """Attention of the class token to the patches in the last layer, by image and head, and the images."""
    last = notes_of(module, params, images)[-1]["subspace_tokens"].swapaxes(1, 2)
    weights = np.asarray(attention_map(last))[:, :, 0, 1:]
    return {"weights": weights.round(4).tolist(), "images": np.asarray(images)[..., 0].round(3).tolist()}


def floor_part(config: Mapping[str, Any]) -> dict[str, float]:
    """Linear classifiers that bound what learning layers is worth: of the pixels, and of untrained CRATE tokens."""
    learnt, tested = (InOrder(source, len(source))[0] for source in sources(config["test_fraction"]))
    module = module_of(config, "crate")
    params = module.init(jax.random.key(0), jnp.asarray(learnt["image"][:1]))["params"]

    def tokens(images: np.ndarray) -> np.ndarray:
        codes = notes_of(module, params, jnp.asarray(images))[-1]["codes"]
        return np.asarray(codes[:, 0])  # the class token, which a trained head reads

    found = {}
    for name, features in (("pixels", lambda x: x.reshape(len(x), -1)), ("untrained", tokens)):
        probe = fit_linear_probe(jnp.asarray(features(learnt["image"])), jnp.asarray(learnt["label"]), CLASSES)
        predicted = np.asarray(probe.predict(jnp.asarray(features(tested["image"]))))
        found[name] = float((predicted == tested["label"]).mean())
    return found


def autoencoder_part(config: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """A masked auto-encoder: error in hidden patches beside the best constant, and linear probes of its tokens by labels."""
    own = {**config, **config["autoencoder"]}
    learnt, tested = sources(config["test_fraction"])
    layers = dataclasses.replace(layers_of(config), threshold=own["threshold"])
    recipe = MaskedAutoencoder(CrateAutoencoder(AutoencoderConfig(layers, (8, 8), (2, 2), 1)), own["mask_ratio"])
    with progress.task("masked auto-encoder", own["steps"]) as advance:
        state = train(
            recipe, optimizer_of(own), batches(learnt, own["batch_size"], 0), own["steps"],
            key=jax.random.key(0), on_step=lambda step, metrics: advance(""),
        )  # fmt: skip
    train_set, test_set = (InOrder(source, len(source))[0] for source in (learnt, tested))
    error = float(recipe.evaluate(state.params, {}, {"image": jnp.asarray(test_set["image"])})["error"])
    constant = float(((test_set["image"] - train_set["image"].mean(0)) ** 2).mean())
    fresh = recipe.init(jax.random.key(1), {"image": jnp.asarray(train_set["image"][:1])})["params"]

    def features(params: Any, images: np.ndarray) -> np.ndarray:
        latent = jax.jit(recipe.module.apply)({"params": params}, jnp.asarray(images)).latent
        return np.asarray(latent[:, 1:].mean(1))

    accuracy = {}
    for name, params in (("untrained", fresh), ("trained", state.params)):
        probe = fit_linear_probe(
            jnp.asarray(features(params, train_set["image"])), jnp.asarray(train_set["label"]), CLASSES
        )
        predicted = np.asarray(probe.predict(jnp.asarray(features(params, test_set["image"]))))
        accuracy[name] = float((predicted == test_set["label"]).mean())
    return {"error": error, "constant": constant, "probe": accuracy}
