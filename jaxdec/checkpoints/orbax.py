"""Orbax checkpoints: our own parameter tree, with config, tokenizer and checksums as JSON beside it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxdec.checkpoints.files import ORBAX_CONFIG, check_checksums, replace_folder, write_checksums
from jaxdec.checkpoints.param_layout import param_shapes
from jaxdec.errors import CheckpointError
from jaxdec.json_files import read_json
from jaxdec.models.config import DecoderConfig, RopeScaling
from jaxdec.tokenizers import Tokenizer, tokenizer_from_folder
from jaxdec.typing import PyTree

PARAMS = "params"


def save_orbax(
    folder: Path, config: DecoderConfig, params: PyTree, tokenizer: Tokenizer, *, overwrite: bool = False
) -> None:
    """Write a checkpoint; ``folder`` appears whole or not at all.

    Raises:
      FileExistsError: ``folder`` exists and ``overwrite`` is False, or it is not a checkpoint.
    """
    with replace_folder(folder, overwrite=overwrite) as target:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(target / PARAMS, params)
        (target / ORBAX_CONFIG).write_text(json.dumps(dataclasses.asdict(config), indent=2))
        tokenizer.save(target)
        write_checksums(target, PARAMS)


def read_orbax(folder: Path, dtype: Any = jnp.float32) -> tuple[DecoderConfig, PyTree, Tokenizer]:
    """Read what :func:`save_orbax` wrote, cast to ``dtype``.

    Raises:
      CheckpointError: a file that is missing, unreadable, or not as it was written; arrays that do not fit the config.
    """
    check_checksums(folder)
    settings = read_json(folder / ORBAX_CONFIG)
    try:
        scaling = settings.pop("rope_scaling", None)
        config = DecoderConfig(**settings, rope_scaling=RopeScaling(**scaling) if scaling else None)
        wanted = param_shapes(config, dtype)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / ORBAX_CONFIG}: {error}") from None
    tokenizer = tokenizer_from_folder(folder)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            _check_shapes(wanted, checkpointer.metadata((folder / PARAMS).absolute()).item_metadata)
            placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), wanted)
            params = checkpointer.restore((folder / PARAMS).absolute(), placed)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from None
        except Exception as error:  # Orbax raises whatever its storage raises, bare Exception included
            reason = str(error).split("\n", 1)[0]
            raise CheckpointError(f"{folder / PARAMS} is cut short or corrupt: {reason}") from None
    return config, params, tokenizer


def _check_shapes(wanted: PyTree, stored: PyTree) -> None:
    """Compare stored arrays with what the config asks for, by name."""
    if stored is None:
        raise CheckpointError("params is missing, cut short or corrupt: its metadata cannot be read")

    def shapes(tree):
        leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))[0]
        return {"/".join(str(getattr(key, "key", key)) for key in path): tuple(leaf.shape) for path, leaf in leaves}

    have, need = shapes(stored), shapes(wanted)
    for name, shape in need.items():
        if name not in have:
            raise CheckpointError(f"array {name} is missing")
        if have[name] != shape:
            raise CheckpointError(f"array {name} has shape {have[name]}, the config asks for {shape}")
    if extra := sorted(set(have) - set(need)):
        raise CheckpointError(f"array {extra[0]} has no place in the config")
