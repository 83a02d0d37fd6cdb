"""Decode sequence models in JAX, fast and provably right.

    import jaxdec
    lm = jaxdec.load("smollm2-135m-instruct")
    print(jaxdec.generate(lm, "What is the capital of France?").text)

Public names are loaded when first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "load": "jaxdec.loading",
    "LoadedModel": "jaxdec.loading",
    "generate": "jaxdec.generation",
    "Generation": "jaxdec.generation",
    "Run": "jaxdec.generation",
    "decode": "jaxdec.decoding",
    "stream": "jaxdec.decoding",
    "Prompt": "jaxdec.decoding",
    "Sampling": "jaxdec.decoding",
    "Autoregressive": "jaxdec.decoding",
    "Guarantee": "jaxdec.decoding",
    "LanguageModel": "jaxdec.language_model",
    "enable_compilation_cache": "jaxdec.compat",
}

__all__ = [*_HOME, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from jaxdec.compat import enable_compilation_cache
    from jaxdec.decoding import Autoregressive, Guarantee, Prompt, Sampling, decode, stream
    from jaxdec.generation import Generation, Run, generate
    from jaxdec.language_model import LanguageModel
    from jaxdec.loading import LoadedModel, load


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'jaxdec' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__():
    return sorted(__all__)
