"""The training methods that a config can name.

    config.recipe = {"name": "classifier", "num_classes": 10, "model": {"name": "mlp", "widths": (128, 128)}}

Each is a function from the fields and a batch of the data to a :class:`jaxdec.training.recipe.Recipe`. A new method is an
entry in ``FIELDS``, with the default of each of its fields, and one in ``RECIPES``. Unknown fields are refused.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from experiments.training.fields import choose
from jaxdec.data import views
from jaxdec.models import DecoderConfig, Transformer
from jaxdec.models.crate import CrateConfig
from jaxdec.models.crate_autoencoder import LAMBDA, MASK_RATIO, AutoencoderConfig, CrateAutoencoder
from jaxdec.models.crate_classifier import ClassifierConfig, CrateClassifier
from jaxdec.models.crate_lm import CrateLM, CrateLMConfig
from jaxdec.models.encoders import ConvEncoder, EncoderProjector, MLPEncoder, Projector, ResNet
from jaxdec.training.recipe import Batch, Recipe
from jaxdec.training.recipes.classifier import Classifier
from jaxdec.training.recipes.language_model import NextToken
from jaxdec.training.recipes.masked_autoencoder import MaskedAutoencoder
from jaxdec.training.recipes.mmcr import MMCR
from jaxdec.training.recipes.self_distillation import DistilledEncoder, SelfDistillation

FIELDS: dict[str, dict[str, Any]] = {
    "classifier": {"num_classes": 10, "label_smoothing": 0.0, "model": {}},
    "language_model": {"model": {}},
    "masked_autoencoder": {"mask_ratio": MASK_RATIO, "normalise": False, "model": {}},
    "mmcr": {"num_views": 2, "views": "digits", "local_weight": 0.0, "tau": 0.0, "projector": (128, 64), "model": {}},
    "self_distillation": {
        "num_views": 2,
        "views": "digits",
        "tau": 0.996,
        "center_momentum": 0.9,
        "student_temperature": 0.1,
        "teacher_temperature": 0.04,
        "outputs": 1024,
        "hidden": 256,
        "bottleneck": 64,
        "model": {},
    },
}
"""Recipes, their fields and what these are by default; ``model`` is a section with a name of its own."""

CRATE = {"hidden_size": 64, "num_layers": 4, "num_heads": 4, "step_size": 0.1, "threshold": 0.1, "overcomplete": False}
IMAGES = {"crate": {**CRATE, "patch_size": 2}}
CLASSIFIERS = {"crate": {**IMAGES["crate"], "pool": "class"}, "mlp": {"widths": (128, 128)}}
AUTOENCODERS = {"crate": {**IMAGES["crate"], "threshold": LAMBDA}}
ENCODERS = {"mlp": {"widths": (128, 128)}, "conv": {"widths": (32, 64, 128)},
            "resnet": {"stages": (3, 4, 6, 3), "width": 64, "small_images": False}}  # fmt: skip
LANGUAGE_MODELS = {
    "transformer": {
        "architecture": "llama",
        "vocab_size": 256,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_layers": 4,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 1024,
    },
    "crate": {**CRATE, "vocab_size": 256, "max_position_embeddings": 1024},
}
VIEWS = {"digits": views.DIGITS, "cifar": views.CIFAR, "imagenet": views.IMAGENET}


def classifier(fields: Mapping[str, Any], example: Batch) -> Recipe:
    """Softmax cross-entropy over ``image`` and ``label``.

    Raises:
      ValueError: data without images and labels, a label that is not below ``num_classes``.
    """
    _check_fields("classifier", example, ("image", "label"))
    num_classes = fields["num_classes"]
    if int(example["label"].max()) >= num_classes:
        raise ValueError(
            f"config.recipe: num_classes is {num_classes}, the data have label {int(example['label'].max())}"
        )
    name, sizes = choose("recipe.model", CLASSIFIERS, fields["model"])
    if name == "mlp":
        module = nn.Sequential((MLPEncoder(tuple(sizes["widths"])), nn.Dense(num_classes)))
    else:
        pool = sizes.pop("pool")
        module = CrateClassifier(ClassifierConfig(*_of_images(sizes, example), num_classes, pool))
    return Classifier(module, fields["label_smoothing"])


def language_model(fields: Mapping[str, Any], example: Batch) -> Recipe:
    """Next tokens of ``tokens``.

    Raises:
      ValueError: data without tokens, a token that is not in the vocabulary, windows longer than the model's positions.
    """
    _check_fields("language_model", example, ("tokens",))
    name, sizes = choose("recipe.model", LANGUAGE_MODELS, fields["model"])
    if name == "transformer":
        config = DecoderConfig(**sizes)
        module = Transformer(config)
    else:
        vocabulary, positions = sizes.pop("vocab_size"), sizes.pop("max_position_embeddings")
        config = CrateLMConfig(CrateConfig(**sizes), vocabulary, positions)
        module = CrateLM(config)
    if int(example["tokens"].max()) >= config.vocab_size:
        largest = int(example["tokens"].max())
        raise ValueError(f"config.recipe.model: vocab_size is {config.vocab_size}, the data have token {largest}")
    length = example["tokens"].shape[1] - 1
    if length > config.max_position_embeddings:
        most = config.max_position_embeddings
        raise ValueError(f"config.recipe.model: max_position_embeddings is {most}, windows have {length} tokens")
    return NextToken(module)


def masked_autoencoder(fields: Mapping[str, Any], example: Batch) -> Recipe:
    """Hidden patches of ``image``, from the others.

    Raises:
      ValueError: data without images.
    """
    _check_fields("masked_autoencoder", example, ("image",))
    _, sizes = choose("recipe.model", AUTOENCODERS, fields["model"])
    module = CrateAutoencoder(AutoencoderConfig(*_of_images(sizes, example)))
    return MaskedAutoencoder(module, fields["mask_ratio"], fields["normalise"])


def mmcr(fields: Mapping[str, Any], example: Batch) -> Recipe:
    """Maximum manifold capacity representations of ``image``; ``tau`` 0 keeps no momentum network.

    Raises:
      ValueError: data without images and labels, or an unknown preset of views.
    """
    _check_fields("mmcr", example, ("image", "label"))
    _check_views(fields)
    name, sizes = choose("recipe.model", ENCODERS, fields["model"])
    sizes = {field: tuple(value) if isinstance(value, list) else value for field, value in sizes.items()}
    encoder = {"mlp": MLPEncoder, "conv": ConvEncoder, "resnet": ResNet}[name](**sizes)
    model = EncoderProjector(encoder, Projector(tuple(fields["projector"])))
    return MMCR(model, fields["num_views"], VIEWS[fields["views"]], fields["local_weight"], fields["tau"] or None)


def self_distillation(fields: Mapping[str, Any], example: Batch) -> Recipe:
    """Student and teacher on views of ``image``; labels are read in evaluation alone.

    Raises:
      ValueError: data without images and labels, or an unknown preset of views.
    """
    _check_fields("self_distillation", example, ("image", "label"))
    _check_views(fields)
    _, sizes = choose("recipe.model", IMAGES, fields["model"])
    head = {name: fields[name] for name in ("outputs", "hidden", "bottleneck")}
    rates = {name: fields[name] for name in ("tau", "center_momentum", "student_temperature", "teacher_temperature")}
    module = DistilledEncoder(ClassifierConfig(*_of_images(sizes, example)), **head)
    return SelfDistillation(module, fields["num_views"], VIEWS[fields["views"]], **rates)


RECIPES: dict[str, Callable[[Mapping[str, Any], Batch], Recipe]] = {
    "classifier": classifier,
    "language_model": language_model,
    "masked_autoencoder": masked_autoencoder,
    "mmcr": mmcr,
    "self_distillation": self_distillation,
}


def make_recipe(config: Mapping[str, Any], example: Batch) -> Recipe:
    """The recipe that ``config`` names, for data of which ``example`` is a batch.

    Raises:
      ValueError: an unknown name or field, a value of another type, or data that do not fit.
    """
    name, fields = choose("recipe", FIELDS, config)
    return RECIPES[name](fields, example)


def _check_fields(recipe: str, example: Batch, needed: tuple[str, ...]) -> None:
    missing = [field for field in needed if field not in example]
    if missing:
        raise ValueError(f"config.recipe {recipe} needs data with {', '.join(needed)}; these have {', '.join(example)}")


def _check_views(fields: Mapping[str, Any]) -> None:
    if fields["views"] not in VIEWS:
        raise ValueError(f"config.recipe: views must be one of {', '.join(VIEWS)}, got {fields['views']!r}")


def _of_images(sizes: dict[str, Any], example: Batch) -> tuple[CrateConfig, tuple[int, int], tuple[int, int], int]:
    """Layers, size of the data's images, size of patches, channels."""
    patch = sizes.pop("patch_size")
    height, width, channels = example["image"].shape[1:]
    return CrateConfig(**sizes), (height, width), (patch, patch), channels
