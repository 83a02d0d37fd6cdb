"""From the published CRATE checkpoints to our parameters: names, shapes, transposes.

Layouts: the classifiers and the masked auto-encoder of Ma-Lab-Berkeley/CRATE (PyTorch), CRATE-BERT of the port to Hugging Face
transformers (PyTorch), the classifiers of UCSC-VLAA/CRATE-alpha (Flax). The functions take a flat mapping from names to arrays;
published files are pickles, which this library does not open: save their tensors as safetensors first,

    state = torch.load("ckpt.pth")["state_dict"]
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state.items()}, "ckpt.safetensors")

and read them with ``safetensors.numpy.load_file``.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdec.errors import CheckpointError
from jaxdec.models.crate import CrateConfig
from jaxdec.models.crate_autoencoder import AutoencoderConfig, CrateAutoencoder
from jaxdec.models.crate_bert import CrateBert, CrateBertConfig
from jaxdec.models.crate_classifier import ClassifierConfig, CrateClassifier
from jaxdec.models.patches import grid, sincos_positions
from jaxdec.typing import PyTree

WRAPPER = "module."
"""What ``DistributedDataParallel`` puts before every name."""


class _Entry(NamedTuple):
    """One of our arrays: its path, the published name, and how the published array becomes ours."""

    path: tuple[str, ...]
    name: str
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray


def classifier_params(tensors: Mapping[str, np.ndarray], config: ClassifierConfig) -> PyTree:
    """Parameters of a :class:`CrateClassifier`; with ``config.layers.overcomplete`` from the layout of CRATE-alpha.

    Args:
      tensors: by published name. Those of CRATE-alpha are joined by ``/``.
      config: the shape that the checkpoint has.

    Raises:
      CheckpointError: a tensor that is missing, has no place, another shape, or holds infinity or NaN.
    """
    images = jax.ShapeDtypeStruct((1, *config.image_size, config.channels), jnp.float32)
    shapes = jax.eval_shape(CrateClassifier(config).init, jax.random.key(0), images)["params"]
    entries = _alpha(config) if config.layers.overcomplete else _classifier(config)
    return _converted(tensors, entries, shapes)


def autoencoder_params(tensors: Mapping[str, np.ndarray], config: AutoencoderConfig) -> PyTree:
    """Parameters of a :class:`CrateAutoencoder`. The stored positions must be the fixed ones; ``decoder_embed`` is never used.

    Raises:
      CheckpointError: see :func:`classifier_params`; positions that were trained.
    """
    tensors = _unwrapped(tensors)
    places = sincos_positions(config.layers.hidden_size, *grid(config.image_size, config.patch_size))
    stored = tensors.pop("decoder_pos_embed", None)
    if stored is not None and (stored.shape != (1, *places.shape) or not np.allclose(stored[0], places, atol=1e-5)):
        raise CheckpointError("decoder_pos_embed is not the fixed sine-cosine table of the config's patches")
    for unused in ("pos_embed", "decoder_embed.weight", "decoder_embed.bias"):
        tensors.pop(unused, None)
    images = jax.ShapeDtypeStruct((1, *config.image_size, config.channels), jnp.float32)
    shapes = jax.eval_shape(CrateAutoencoder(config).init, jax.random.key(0), images)["params"]
    return _converted(tensors, _autoencoder(config), shapes)


def bert_params(tensors: Mapping[str, np.ndarray], config: CrateBertConfig) -> PyTree:
    """Parameters of a :class:`CrateBert`. Its pooler, if there is one, has no place and is left out.

    Raises:
      CheckpointError: see :func:`classifier_params`.
    """
    tensors = {name: array for name, array in _unwrapped(tensors).items() if not name.startswith("crate.pooler.")}
    for tied in ("lm_head.decoder.weight", "lm_head.decoder.bias"):
        tensors.pop(tied, None)
    shapes = jax.eval_shape(CrateBert(config).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), jnp.int32))[
        "params"
    ]
    return _converted(tensors, _bert(config), shapes)


def _unwrapped(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(WRAPPER): np.asarray(array) for name, array in tensors.items()}


def _converted(tensors: Mapping[str, np.ndarray], entries: Iterator[_Entry], shapes: PyTree) -> PyTree:
    """Check names and shapes, then build the tree."""
    left, params = _unwrapped(tensors), {}
    for path, name, convert in entries:
        if name not in left:
            raise CheckpointError(f"tensor {name!r} is missing")
        array, wanted = np.asarray(convert(left.pop(name)), np.float32), shapes
        for key in path:
            wanted = wanted[key]
        if array.shape != wanted.shape:
            raise CheckpointError(f"tensor {name!r} becomes {array.shape}, and the config asks for {wanted.shape}")
        if not np.isfinite(array).all():
            raise CheckpointError(f"tensor {name!r} holds infinity or NaN")
        place = params
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = jnp.asarray(array)
    if left:
        raise CheckpointError(f"tensor {min(left)!r} has no place in the model ({len(left)} of them)")
    return params


def _norm(path: tuple[str, ...], name: str, weight: str = ".weight", bias: str = ".bias") -> Iterator[_Entry]:
    yield _Entry((*path, "scale"), name + weight)
    yield _Entry((*path, "bias"), name + bias)


def _affine(path: tuple[str, ...], name: str) -> Iterator[_Entry]:
    yield _Entry((*path, "weight"), f"{name}.weight")
    yield _Entry((*path, "bias"), f"{name}.bias")


def _attention(path: tuple[str, ...], name: str, config: CrateConfig) -> Iterator[_Entry]:
    """``Attention`` of the PyTorch code behind its ``PreNorm``."""
    yield _Entry((*path, "attention", "bases"), f"{name}.fn.qkv.weight")
    yield _Entry((*path, "attention", "output"), f"{name}.fn.to_out.0.weight")
    if config.output_bias:
        yield _Entry((*path, "attention", "output_bias"), f"{name}.fn.to_out.0.bias")
    yield from _norm((*path, "attention_norm"), f"{name}.norm")


def _layer(path: tuple[str, ...], name: str, config: CrateConfig) -> Iterator[_Entry]:
    yield from _attention(path, f"{name}.0", config)
    yield from _norm((*path, "coding_norm"), f"{name}.1.norm")
    yield _Entry((*path, "coding", "dictionary"), f"{name}.1.fn.weight")


def _first(array: np.ndarray) -> np.ndarray:
    """Without the leading axes of length one."""
    return array[0]


def _classifier(config: ClassifierConfig) -> Iterator[_Entry]:
    yield from _norm(("encoder", "patch_norm"), "to_patch_embedding.1")
    yield from _affine(("encoder", "embed"), "to_patch_embedding.2")
    yield from _norm(("encoder", "embed_norm"), "to_patch_embedding.3")
    yield _Entry(("encoder", "class_token"), "cls_token", lambda array: array[0, 0])
    yield _Entry(("encoder", "positions"), "pos_embedding", _first)
    for layer in range(config.layers.num_layers):
        yield from _layer(("encoder", f"layer_{layer}"), f"transformer.layers.{layer}", config.layers)
    yield from _norm(("head_norm",), "mlp_head.0")
    yield from _affine(("head",), "mlp_head.1")


def _autoencoder(config: AutoencoderConfig) -> Iterator[_Entry]:
    def flat(array: np.ndarray) -> np.ndarray:  # a convolution's [D, C, y, x], and patches are y, x, C
        return array.transpose(0, 2, 3, 1).reshape(array.shape[0], -1)

    yield _Entry(("embed", "weight"), "patch_embed.proj.weight", flat)
    yield _Entry(("embed", "bias"), "patch_embed.proj.bias")
    yield _Entry(("class_token",), "cls_token", lambda array: array[0, 0])
    yield _Entry(("mask_token",), "mask_token", lambda array: array[0, 0])
    for layer in range(config.layers.num_layers):
        yield from _layer((f"encoder_{layer}",), f"blocks.{layer}.layers.0", config.layers)
        ours, theirs = (f"decoder_{layer}",), f"decoder_blocks.{layer}.layers.0"
        yield from _norm((*ours, "synthesis_norm"), f"{theirs}.0.norm")
        yield _Entry((*ours, "synthesis"), f"{theirs}.0.fn.weight")
        yield from _attention(ours, f"{theirs}.1", config.layers)
    yield from _norm(("encoder_norm",), "norm")
    yield from _norm(("decoder_norm",), "decoder_norm")
    yield from _affine(("pixels",), "decoder_pred")


def _bert(config: CrateBertConfig) -> Iterator[_Entry]:
    yield _Entry(("token_table",), "crate.embeddings.word_embeddings.weight")
    yield _Entry(("position_table",), "crate.embeddings.position_embeddings.weight")
    yield _Entry(("segment",), "crate.embeddings.token_type_embeddings.weight", _first)
    yield from _norm(("embedding_norm",), "crate.embeddings.LayerNorm")
    for layer in range(config.layers.num_layers):
        ours, theirs = (f"layer_{layer}",), f"crate.encoder.layer.{layer}"
        yield _Entry((*ours, "attention", "bases"), f"{theirs}.attention.self.qkv.weight")
        yield _Entry((*ours, "attention", "output"), f"{theirs}.attention.output.dense.weight")
        yield from _norm((*ours, "attention_norm"), f"{theirs}.attention.self.prenorm")
        yield from _norm((*ours, "coding_norm"), f"{theirs}.output.prenorm")
        yield _Entry((*ours, "coding", "dictionary"), f"{theirs}.output.weight")
    yield from _affine(("head",), "lm_head.dense")
    yield from _norm(("head_norm",), "lm_head.layer_norm")
    yield _Entry(("head_bias",), "lm_head.bias")


def _alpha(config: ClassifierConfig) -> Iterator[_Entry]:
    """Flax: kernels are (in, out), heads an axis of their own."""

    def transposed(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, array.shape[-1]).T

    def heads_first(array: np.ndarray) -> np.ndarray:  # [D, H, E] -> [H E, D]
        return array.reshape(array.shape[0], -1).T

    yield _Entry(("encoder", "embed", "weight"), "embedding/kernel", transposed)
    yield _Entry(("encoder", "embed", "bias"), "embedding/bias")
    yield _Entry(("encoder", "class_token"), "cls", lambda array: array[0, 0])
    yield _Entry(("encoder", "positions"), "pos_embedding", _first)
    for layer in range(config.layers.num_layers):
        ours, theirs = ("encoder", f"layer_{layer}"), f"Transformer/encoderblock_{layer}"
        attention = f"{theirs}/MultiHeadDotProductSubspaceAttention_0"
        yield _Entry((*ours, "attention", "bases"), f"{attention}/proj/kernel", heads_first)
        yield _Entry((*ours, "attention", "output"), f"{attention}/out/kernel", transposed)
        yield from _norm((*ours, "attention_norm"), f"{theirs}/LayerNorm_0", "/scale", "/bias")
        yield from _norm((*ours, "coding_norm"), f"{theirs}/LayerNorm_1", "/scale", "/bias")
        yield _Entry((*ours, "coding", "dictionary"), f"{theirs}/OvercompleteISTABlock_0/D")
        yield _Entry((*ours, "coding", "decoder"), f"{theirs}/OvercompleteISTABlock_0/D1")
    yield from _norm(("head_norm",), "encoder_norm", "/scale", "/bias")
    yield _Entry(("head", "weight"), "head/kernel", np.transpose)
    yield _Entry(("head", "bias"), "head/bias")
