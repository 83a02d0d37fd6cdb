"""A draft model made of some of the layers of its target, without training and without memory of its own.

Skipping layers of the target to draft for it: Zhang et al. 2023, "Draft & Verify" (arXiv 2309.08168); exits after the first
layers: Elhoushi et al. 2024, "LayerSkip" (arXiv 2404.16710). Embeddings, final norm and head are the target's. A target that
was not trained for it agrees with such a draft less often than with a distilled one.
"""

import dataclasses
from collections.abc import Sequence

from jaxdec.language_model import LanguageModel
from jaxdec.models.transformer import Transformer


def skip_layers(model: LanguageModel, layers: Sequence[int]) -> LanguageModel:
    """Return a language model of the given layers of ``model``, in order; parameters are shared, not copied.

    Raises:
      ValueError: the model is no :class:`Transformer`, or ``layers`` is empty, not increasing, or out of range.
    """
    module = model.module
    if not isinstance(module, Transformer):
        raise ValueError(f"layers can be skipped in a Transformer, and the model is a {type(module).__name__}")
    layers, count = tuple(layers), module.config.num_layers
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= count:
        raise ValueError(f"layers must be increasing numbers between 0 and {count - 1}, got {layers}")
    config = dataclasses.replace(module.config, num_layers=len(layers))
    shared = {name: value for name, value in model.params.items() if not name.startswith("layer_")}
    kept = {f"layer_{new}": model.params[f"layer_{old}"] for new, old in enumerate(layers)}
    return LanguageModel(dataclasses.replace(module, config=config), {**shared, **kept})
