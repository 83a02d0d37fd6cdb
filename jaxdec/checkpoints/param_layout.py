"""From Hugging Face tensor names to our parameter tree, and back.

The tree keeps query, key and value rows in one matrix and gate and up rows in another; weights are (out, in).
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdec.errors import CheckpointError
from jaxdec.models.config import DecoderConfig
from jaxdec.typing import PyTree

READERS = 2  # threads; each holds one array on the host beside those that are finished


@runtime_checkable
class TensorStore(Protocol):
    """Tensors on disk. It may call them as it likes; we ask for Hugging Face names."""

    def stored_name(self, name: str) -> str:
        """The store's own name of the Hugging Face tensor ``name``."""
        ...

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of all tensors that ought to have a place in the model, by the store's names."""
        ...

    def read(self, name: str) -> np.ndarray:
        """Values of the Hugging Face tensor ``name``, in a floating type."""
        ...


class _Entry(NamedTuple):
    """One array of the tree: its path, the Hugging Face tensors stacked along rows, their shapes, is it a norm scale."""

    path: tuple[str, ...]
    names: list[str]
    shapes: list[tuple[int, ...]]
    is_norm: bool


def assemble_params(config: DecoderConfig, store: TensorStore, dtype: Any = jnp.float32) -> PyTree:
    """Build the parameter tree. All names and shapes are checked before the first tensor is read.

    Args:
      config: shape of the model.
      store: the tensors.
      dtype: type of weights and biases. Norm scales stay float32 (float64 in a float64 model).

    Raises:
      CheckpointError: a tensor that is missing, has another shape than ``config`` asks for, has no place in it, or holds
        infinity or NaN.
    """
    _check_shapes(_entries(config), store)  # one by one: a damaged config may ask for billions of layers
    entries = list(_entries(config))
    norm_dtype = jnp.promote_types(dtype, jnp.float32)

    def read(entry: _Entry) -> np.ndarray:
        parts = [_finite(store, name) for name in entry.names]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return joined.astype(norm_dtype if entry.is_norm else dtype, copy=False)

    params: dict = {}
    for entry, array in zip(entries, _ahead(read, entries)):
        _insert(params, entry.path, jnp.asarray(array))  # in this thread, to which jax's settings belong
    return params


def _ahead(function: Callable[[_Entry], np.ndarray], entries: list[_Entry]) -> Iterator[np.ndarray]:
    """Map in threads that stay a few results ahead, not more: the memory is needed."""
    with ThreadPoolExecutor(READERS) as pool:
        pending = deque()
        for entry in entries:
            pending.append(pool.submit(function, entry))
            if len(pending) > READERS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def param_shapes(config: DecoderConfig, dtype: Any = jnp.float32) -> PyTree:
    """Shapes and types of the tree, as ``jax.ShapeDtypeStruct``."""
    norm_dtype = jnp.promote_types(dtype, jnp.float32)
    shapes: dict = {}
    for path, _, parts, is_norm in _entries(config):
        stacked = (sum(shape[0] for shape in parts), *parts[0][1:])
        _insert(shapes, path, jax.ShapeDtypeStruct(stacked, norm_dtype if is_norm else dtype))
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


def _finite(store: TensorStore, name: str) -> np.ndarray:
    """Read a tensor; a damaged scale or exponent gives values that are not finite, and nothing but NaN ever after."""
    tensor = store.read(name)
    if tensor.dtype == jnp.bfloat16:
        bits = tensor.view(np.uint16) & 0x7F80  # NumPy's isfinite is slow here: all exponent bits set
        damaged = bool((bits == 0x7F80).any())
    else:
        damaged = not np.isfinite(tensor).all()
    if damaged:
        raise CheckpointError(f"tensor {store.stored_name(name)} holds values that are not finite: the file is damaged")
    return tensor


def _insert(tree: dict, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _check_shapes(entries: Iterator[_Entry], store: TensorStore) -> None:
    stored = dict(store.shapes())
    for entry in entries:
        for name, shape in zip(entry.names, entry.shapes):
            own = store.stored_name(name)
            if own not in stored:
                raise CheckpointError(f"tensor {own} is missing")
            if (found := stored.pop(own)) != shape:
                raise CheckpointError(f"tensor {own} has shape {found}, the config asks for {shape}")
    if stored:
        # A bias or a norm that we left out would give a model that runs, and says something else.
        others = f" (and {len(stored) - 1} others)" if len(stored) > 1 else ""
        raise CheckpointError(f"tensor {sorted(stored)[0]}{others} has no place in a model of this config")


def _entries(config: DecoderConfig) -> Iterator[_Entry]:
    width, ff, head = config.hidden_size, config.intermediate_size, config.head_dim
    q_rows, kv_rows = config.num_heads * head, config.num_kv_heads * head
    yield _Entry(("embed", "embedding"), ["model.embed_tokens.weight"], [(config.vocab_size, width)], False)
    for index in range(config.num_layers):
        layer, hf = f"layer_{index}", f"model.layers.{index}"
        yield _Entry((layer, "attention_norm", "scale"), [f"{hf}.input_layernorm.weight"], [(width,)], True)
        yield _Entry((layer, "mlp_norm", "scale"), [f"{hf}.post_attention_layernorm.weight"], [(width,)], True)
        if config.qk_norm:
            yield _Entry(
                (layer, "attention", "query_norm", "scale"), [f"{hf}.self_attn.q_norm.weight"], [(head,)], True
            )
            yield _Entry((layer, "attention", "key_norm", "scale"), [f"{hf}.self_attn.k_norm.weight"], [(head,)], True)
        matrices = [
            (("attention", "qkv"), ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
             [q_rows, kv_rows, kv_rows], width, config.attention_bias),
            (("attention", "output"), ["self_attn.o_proj"], [width], q_rows, config.output_bias),
            (("mlp", "gate_up"), ["mlp.gate_proj", "mlp.up_proj"], [ff, ff], width, config.mlp_bias),
            (("mlp", "down"), ["mlp.down_proj"], [width], ff, config.mlp_bias),
        ]  # fmt: skip
        for path, names, rows, columns, has_bias in matrices:
            weights, biases = [[f"{hf}.{name}.{kind}" for name in names] for kind in ("weight", "bias")]
            yield _Entry((layer, *path, "weight"), weights, [(row, columns) for row in rows], False)
            if has_bias:
                yield _Entry((layer, *path, "bias"), biases, [(row,) for row in rows], False)
    yield _Entry(("final_norm", "scale"), ["model.norm.weight"], [(width,)], True)
    if not config.tie_embeddings:
        yield _Entry(("head", "weight"), ["lm_head.weight"], [(config.vocab_size, width)], False)
