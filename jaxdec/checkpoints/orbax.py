"""Orbax checkpoints: our own parameter tree, with config and tokenizer as JSON beside it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxdec.checkpoints.files import replace_folder
from jaxdec.checkpoints.hf_directory import read_json
from jaxdec.checkpoints.param_layout import param_shapes
from jaxdec.errors import CheckpointError
from jaxdec.models.config import DecoderConfig, RopeScaling
from jaxdec.tokenizers import Tokenizer, tokenizer_from_folder
from jaxdec.typing import PyTree

CONFIG_FILE = "jaxdec_config.json"


def save_orbax(
    folder: Path, config: DecoderConfig, params: PyTree, tokenizer: Tokenizer, *, overwrite: bool = False
) -> None:
    """Write a checkpoint; ``folder`` appears whole or not at all.

    Raises:
      FileExistsError: ``folder`` exists and ``overwrite`` is False.
    """
    with replace_folder(folder, overwrite=overwrite) as target:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(target / "params", params)
        (target / CONFIG_FILE).write_text(json.dumps(dataclasses.asdict(config), indent=2))
        tokenizer.save(target)


def read_orbax(folder: Path, dtype: Any = jnp.float32) -> tuple[DecoderConfig, PyTree, Tokenizer]:
    """Read what :func:`save_orbax` wrote, cast to ``dtype``.

    Raises:
      CheckpointError: a missing or unreadable file, or arrays that do not fit the config.
    """
    settings = read_json(folder / CONFIG_FILE)
    try:
        scaling = settings.pop("rope_scaling", None)
        config = DecoderConfig(**settings, rope_scaling=RopeScaling(**scaling) if scaling else None)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from None
    wanted = param_shapes(config, dtype)
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            stored = checkpointer.metadata((folder / "params").absolute())
            _check_shapes(wanted, getattr(stored, "item_metadata", stored))
            placed = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
                ),
                wanted,
            )
            params = checkpointer.restore((folder / "params").absolute(), placed)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from None
        except (ValueError, FileNotFoundError, OSError, KeyError) as error:
            raise CheckpointError(f"{folder}/params is cut short or corrupt: {error}") from None
    return config, params, tokenizer_from_folder(folder)


def _check_shapes(wanted: PyTree, stored: PyTree) -> None:
    """Compare stored arrays with what the config asks for, by name."""

    def shapes(tree):
        leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))[0]
        return {"/".join(str(key.key) for key in path): tuple(leaf.shape) for path, leaf in leaves}

    have, need = shapes(stored), shapes(wanted)
    for name, shape in need.items():
        if name not in have:
            raise CheckpointError(f"array {name} is missing")
        if have[name] != shape:
            raise CheckpointError(f"array {name} has shape {have[name]}, the config asks for {shape}")
    if extra := sorted(set(have) - set(need)):
        raise CheckpointError(f"array {extra[0]} has no place in the config")
