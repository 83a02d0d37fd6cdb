"""SmolLM2-135M-Instruct for tests marked ``model``: loaded once a session; tests skip where it cannot be had."""

import functools
from pathlib import Path

import pytest

import jaxdec
from jaxdec.checkpoints import CheckpointError
from jaxdec.checkpoints.registry import resolve
from jaxdec.loading import LoadedModel

NAME = "smollm2-135m-instruct"


@functools.cache
def _path() -> Path | str:
    try:
        return resolve(NAME)
    except CheckpointError as error:
        if "could not be fetched" in str(error) or "cannot be written to" in str(error):
            return str(error)
        raise  # a damaged file is no reason to skip


def real_model_path() -> Path:
    """The GGUF file; skips the test without it."""
    path = _path()
    if isinstance(path, str):
        pytest.skip(path)
    return path


@functools.cache
def real_model() -> LoadedModel:
    """The model in float32; skips the test without it."""
    return jaxdec.load(real_model_path())
