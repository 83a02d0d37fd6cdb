"""Who is measured at what.

jaxdec-BACKEND   our operation, by one of its backends
copied-BACKEND   our attention to rows that have a copy of the prefix each: what sharing is worth to us
jax.nn-xla       jax.nn.dot_product_attention, over a copied prefix
jax.nn-cudnn     the same through cuDNN
torch-sdpa       torch's scaled_dot_product_attention, over a copied prefix
flashinfer       FlashInfer's merge of two attention states
device           a copy, a read and a product of matrices: what the machine can do at all
"""

import jax

from experiments.benchmarks.kernels.shapes import LISTED, OPERATIONS
from pallas_kernels import backends
from pallas_kernels.block_sparse_attention import BACKENDS as BLOCK_SPARSE_BACKENDS
from pallas_kernels.decode_attention import BACKENDS as DECODE_BACKENDS
from pallas_kernels.merge import BACKENDS as MERGE_BACKENDS
from pallas_kernels.prefix_attention import BACKENDS as PREFIX_BACKENDS
from pallas_kernels.sparse_decode_attention import BACKENDS as SPARSE_DECODE_BACKENDS

OWN = {
    "merge": tuple(MERGE_BACKENDS),
    "prefix_attention": tuple(PREFIX_BACKENDS),
    "decode_attention": tuple(DECODE_BACKENDS),
    "whole_attention": tuple(name for name in PREFIX_BACKENDS if name in DECODE_BACKENDS),
    "block_sparse_attention": tuple(BLOCK_SPARSE_BACKENDS),
    "sparse_decode_attention": tuple(SPARSE_DECODE_BACKENDS),
}
"""Backends of every operation; the whole has those that both of its parts have."""

BACKENDS = tuple(dict.fromkeys(name for names in OWN.values() for name in names))
DENSE = ("jax.nn-xla", "jax.nn-cudnn", "torch-sdpa")
TORCH_SIDES = ("torch-sdpa", "flashinfer")


def sides_of(operation: str) -> tuple[str, ...]:
    """All sides that an operation has, ours first."""
    ours = tuple(f"jaxdec-{name}" for name in OWN[operation])
    if operation == "merge":
        return (*ours, "flashinfer")
    if operation in LISTED:
        return ours
    copied = tuple(f"copied-{name}" for name in OWN[operation]) if operation == "whole_attention" else ()
    return (*ours, *copied, *DENSE)


def jax_sides() -> dict[str, str]:
    """The sides that are jax programs, each with the reason why it cannot take part on this machine, or an empty string.

    Ours are named to the operations, so that what has been run on no device yet is measured too.
    """
    platform = jax.default_backend()
    known = dict.fromkeys(side for operation in OPERATIONS for side in sides_of(operation))
    found = {"device": ""}
    for side in known:
        if side not in TORCH_SIDES:
            backend = side.rpartition("-")[2]
            wanted = "gpu" if backend == "cudnn" else backends.PLATFORMS[backend]
            found[side] = "" if wanted in (None, platform) else f"runs on {wanted}, and jax sees {platform}"
    return found
