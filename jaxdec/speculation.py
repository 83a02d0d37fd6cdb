"""What a speculative method needs beside its own settings: tables, a draft model, and tree sizes that pay on this machine."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdec.decoding.methods import AUTO_NODES
from jaxdec.decoding.speculative import Speculative, TreeSizes
from jaxdec.decoding.speculative.datastore import Datastore, load_datastore
from jaxdec.decoding.speculative.step_cost import relative_step_cost
from jaxdec.decoding.speculative.trigram_table import TrigramTable, load_trigram_table
from jaxdec.language_model import LanguageModel
from jaxdec.loading import LoadedModel, load
from jaxdec.models.layer_skip import skip_layers
from jaxdec.models.transformer import Transformer
from jaxdec.typing import PyTree

COMPANIONS = {
    "draft_model": ("draft", "draft_layers"),
    "suffix_retrieval": ("datastore",),
    "aded": ("trigram_table", "adaptive_table"),
}
"""Options of named methods that are not fields of the method but accompany the model."""


def take_companions(method: Any, options: dict[str, Any], lm: LoadedModel) -> dict[str, PyTree]:
    """Take the options that name companions out of ``options`` and return the companions.

    Args:
      method: name of the method, or a method object (which then finds its companions in ``lm.model.companions``).
      options: of the method; changed in place.
      lm: the target model.

    Raises:
      ValueError: an option that makes no sense.
      FileNotFoundError: a path that does not exist.
    """
    names = COMPANIONS.get(method, ()) if isinstance(method, str) else ()
    given = {name: options.pop(name) for name in names if options.get(name) is not None}
    for name in names:
        options.pop(name, None)
    companions: dict[str, PyTree] = {}
    if method == "draft_model":
        companions["draft"] = draft_model(lm, given.get("draft"), given.get("draft_layers"))
    if "datastore" in given:
        companions["datastore"] = _from_file(given["datastore"], Datastore, load_datastore, "datastore")
    for name in ("trigram_table", "adaptive_table"):
        if name in given:
            companions[name] = _from_file(given[name], TrigramTable, load_trigram_table, name)
    _check_vocabularies(companions, lm)
    if method == "suffix_retrieval" and not {"datastore"} & (set(companions) | set(lm.model.companions)):
        raise ValueError(
            "method 'suffix_retrieval' needs the option datastore: a file made by python -m experiments.datastore"
        )
    return companions


def _check_vocabularies(companions: dict[str, PyTree], lm: LoadedModel) -> None:
    """Refuse tables of another tokenizer: its ids stand for other tokens, though there may be as many."""
    made_with = {name: getattr(companion, "vocabulary", "") for name, companion in companions.items()}
    if any(made_with.values()):
        ours = lm.tokenizer.vocabulary_sha256
        for name, theirs in made_with.items():
            if theirs not in ("", ours):
                raise ValueError(
                    f"the {name} was made with another tokenizer than that of {lm.name}: make one with "
                    f"python -m experiments.datastore --model={lm.name}"
                )


def _from_file(value: Any, kind: type, read: Any, name: str) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, str | Path):
        raise ValueError(f"{name} must be a path or a {kind.__name__}, got {type(value).__name__}")
    return read(Path(value))


def draft_model(lm: LoadedModel, draft: Any, layers: Sequence[int] | None) -> LanguageModel:
    """The draft model: a second model, or some layers of the target (by default every third).

    Raises:
      ValueError: both were given, or a model of another kind.
    """
    if draft is not None and layers is not None:
        raise ValueError("give one of draft (a second model) and draft_layers (layers of the target), not both")
    if draft is None:
        module = lm.model.module
        if layers is None and isinstance(module, Transformer):
            layers = range(0, module.config.num_layers, 3)
        return skip_layers(lm.model, layers or ())
    if isinstance(draft, str | Path):
        draft = load(str(draft), dtype=_dtype(lm.model))
    if isinstance(draft, LoadedModel):
        draft = draft.model
    if not isinstance(draft, LanguageModel):
        raise ValueError(f"draft must be a model or its name, got {type(draft).__name__}")
    return draft


def _dtype(model: LanguageModel) -> str:
    dtype = getattr(model.module, "dtype", "float32")
    return getattr(dtype, "name", None) or getattr(dtype, "__name__", str(dtype))


def with_auto_sizes(method: Speculative, model: LanguageModel, batch: int) -> Speculative:
    """Let each step choose how many nodes to feed, by the costs measured on this machine (once; they are remembered)."""
    nodes = [n for n in AUTO_NODES if n <= method.drafter.num_nodes]
    cost = relative_step_cost(model, [n + 1 for n in nodes], batch)
    return dataclasses.replace(method, sizes=TreeSizes(tuple(nodes), tuple(cost[n + 1] for n in nodes)))
