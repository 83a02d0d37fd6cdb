"""From Hugging Face tensor names to our parameter tree, and back.

The tree keeps query, key and value rows in one matrix and gate and up rows in another; weights are (out, in).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdec.errors import CheckpointError
from jaxdec.models.config import DecoderConfig
from jaxdec.typing import PyTree

TensorReader = Callable[[str], np.ndarray]


def assemble_params(config: DecoderConfig, read: TensorReader, dtype: Any = jnp.float32) -> PyTree:
    """Build the parameter tree, one tensor in host memory at a time.

    Args:
      config: shape of the model.
      read: returns the tensor of a Hugging Face name such as ``model.layers.0.self_attn.q_proj.weight``; it raises
        ``KeyError`` for a name it does not have.
      dtype: type of weights and biases. Norm scales stay float32 (float64 in a float64 model).

    Raises:
      CheckpointError: a missing tensor, or one whose shape does not fit ``config``.
    """
    norm_dtype = jnp.promote_types(dtype, jnp.float32)

    def rows(names: list[str], shapes: list[tuple[int, ...]], to: jnp.dtype) -> jax.Array:
        parts = [_checked(read, name, shape) for name, shape in zip(names, shapes)]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return jnp.asarray(joined.astype(to, copy=False))

    params: dict = {}
    for path, names, shapes, is_norm in _entries(config):
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = rows(names, shapes, norm_dtype if is_norm else dtype)
    return params


def param_shapes(config: DecoderConfig, dtype: Any = jnp.float32) -> PyTree:
    """Shapes and types of the tree, as ``jax.ShapeDtypeStruct``."""
    norm_dtype = jnp.promote_types(dtype, jnp.float32)
    shapes: dict = {}
    for path, _, parts, is_norm in _entries(config):
        node = shapes
        for key in path[:-1]:
            node = node.setdefault(key, {})
        stacked = (sum(shape[0] for shape in parts), *parts[0][1:])
        node[path[-1]] = jax.ShapeDtypeStruct(stacked, norm_dtype if is_norm else dtype)
    return shapes


def params_to_hf_tensors(config: DecoderConfig, params: PyTree) -> dict[str, np.ndarray]:
    """The converse: tensors under their Hugging Face names."""
    tensors = {}
    for path, names, shapes, _ in _entries(config):
        node = params
        for key in path:
            node = node[key]
        ends = np.cumsum([shape[0] for shape in shapes])[:-1]
        for name, part in zip(names, np.split(np.asarray(node), ends)):
            tensors[name] = np.ascontiguousarray(part)
    return tensors


def _checked(read: TensorReader, name: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        tensor = read(name)
    except KeyError:
        raise CheckpointError(f"tensor {name} is missing") from None
    if tensor.shape != shape:
        raise CheckpointError(f"tensor {name} has shape {tensor.shape}, the config asks for {shape}")
    return tensor


def _entries(config: DecoderConfig):
    """Yield ``(path in the tree, Hugging Face names stacked along rows, their shapes, is a norm scale)``."""
    width, ff, head = config.hidden_size, config.intermediate_size, config.head_dim
    q_rows, kv_rows = config.num_heads * head, config.num_kv_heads * head
    yield ("embed", "embedding"), ["model.embed_tokens.weight"], [(config.vocab_size, width)], False
    for index in range(config.num_layers):
        layer, hf = f"layer_{index}", f"model.layers.{index}"
        yield (layer, "attention_norm", "scale"), [f"{hf}.input_layernorm.weight"], [(width,)], True
        yield (layer, "mlp_norm", "scale"), [f"{hf}.post_attention_layernorm.weight"], [(width,)], True
        if config.qk_norm:
            yield (layer, "attention", "query_norm", "scale"), [f"{hf}.self_attn.q_norm.weight"], [(head,)], True
            yield (layer, "attention", "key_norm", "scale"), [f"{hf}.self_attn.k_norm.weight"], [(head,)], True
        matrices = [
            (("attention", "qkv"), ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
             [q_rows, kv_rows, kv_rows], width, config.attention_bias),
            (("attention", "output"), ["self_attn.o_proj"], [width], q_rows, config.output_bias),
            (("mlp", "gate_up"), ["mlp.gate_proj", "mlp.up_proj"], [ff, ff], width, config.mlp_bias),
            (("mlp", "down"), ["mlp.down_proj"], [width], ff, config.mlp_bias),
        ]  # fmt: skip
        for path, names, out_features, in_features, has_bias in matrices:
            weights = [f"{hf}.{name}.weight" for name in names]
            yield (layer, *path, "weight"), weights, [(out, in_features) for out in out_features], False
            if has_bias:
                yield (layer, *path, "bias"), [f"{hf}.{n}.bias" for n in names], [(out,) for out in out_features], False
    yield ("final_norm", "scale"), ["model.norm.weight"], [(width,)], True
    if not config.tie_embeddings:
        yield ("head", "weight"), ["lm_head.weight"], [(config.vocab_size, width)], False
