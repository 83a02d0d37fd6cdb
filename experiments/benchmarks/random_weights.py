"""Models with random weights in given shapes, built on the device: what a step costs does not depend on what it says."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxdec.language_model import LanguageModel
from jaxdec.models import DecoderConfig, Transformer

TINY = DecoderConfig(
    architecture="llama",
    vocab_size=256,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_position_embeddings=2048,
)
LLAMA_3_8B = DecoderConfig(
    architecture="llama",
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    max_position_embeddings=8192,
    rope_theta=500000.0,
    tie_embeddings=False,
)
SHAPES = {"random:tiny": TINY, "random:llama-3-8b": LLAMA_3_8B}


def random_model(config: DecoderConfig, dtype: Any, seed: int = 0) -> LanguageModel:
    """Return a model with normal weights of standard deviation 0.02 (norm scales: ones, biases: zeros).

    One array is made at a time, so that building needs little more memory than the model.
    """
    module = Transformer(config, dtype=jnp.dtype(dtype))
    zeros = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    abstract = jax.eval_shape(
        lambda tokens: module.init(jax.random.key(0), tokens, tokens, module.init_cache(1, 2)), zeros
    )["params"]
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    arrays = [_leaf(str(path[-1].key), key, leaf.shape, leaf.dtype) for key, (path, leaf) in zip(keys, leaves)]
    return LanguageModel(module, jax.tree_util.tree_unflatten(tree, arrays))


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _leaf(name: str, key, shape: tuple[int, ...], dtype: Any):
    if name == "scale":
        return jnp.ones(shape, dtype)
    if name == "bias":
        return jnp.zeros(shape, dtype)
    return jax.random.normal(key, shape, dtype) * jnp.asarray(0.02, dtype)
