"""What is measured, and the least that it takes: shapes, layouts of the arrays, bytes and floating-point operations.

An operation can be given its keys in several layouts, and how many bytes must move depends on the layout:

    states   parts of a merge                     o [B, Hq, D], lse [B, Hq]
    shared   queries and one prefix for all       q [B, Hq, D], k [1, P, Hkv, D]
    rows     queries and a cache for each row     q [B, 1, Hq, D], k [B, S, Hkv, D]
    split    one prefix, and a cache for each row that holds only what is its own
    lists    prompts, and blocks of keys that every block of queries reads
    pages    queries and a cache for each row, heads first, and pages of it that each reads

Attention of ``B`` rows to a prefix of ``P`` tokens and ``S`` of their own takes ``4 B Hq D (P + S)`` operations in any layout,
and reads ``P + B S`` keys where the prefix is shared, ``B (P + S)`` where every row has a copy (Hydragen: Juravsky et al. 2024,
arXiv 2402.05099, section 3). Lists are spread evenly over what there is, and what they say is all that is read. Nobody else is
measured at them: dense attention to the same cache is ``decode_attention``.
"""

from typing import Any, NamedTuple

import numpy as np

from pallas_kernels.prefix_attention.shapes import SHAPES

LISTED = {"block_sparse_attention": 128, "sparse_decode_attention": 16}
"""Operations that read what lists say, and how many keys an entry stands for."""

OPERATIONS = ("merge", "prefix_attention", "decode_attention", "whole_attention", *LISTED)
PARTS = 2  # of a merge
ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}
"""A result that is further from the reference is wrong, and what computes it is not timed."""


class Heads(NamedTuple):
    """Query heads, key/value heads, width of a head."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


def heads_of(model: str) -> Heads:
    """Heads of a model in :data:`pallas_kernels.prefix_attention.shapes.SHAPES`."""
    shape = SHAPES[model]
    return Heads(shape.num_heads, shape.num_kv_heads, shape.head_dim)


HYDRAGEN_HEADS = Heads(8, 1, 128)
"""Those of Hydragen's measurements of attention alone (section 4.2)."""


class KernelShape(NamedTuple):
    """One thing to measure.

    ``prefix`` is the length of the shared prefix, of ``decode_attention`` that of every row's cache, new token included, of
    ``block_sparse_attention`` that of prompts, of ``sparse_decode_attention`` that of caches; 0 for ``merge``. ``suffix`` is
    how many tokens of ``whole_attention`` are a row's own, the new one included; ``read`` how many keys a list has, if there
    are so many.
    """

    operation: str
    batch: int
    prefix: int
    suffix: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    read: int = 0

    @property
    def name(self) -> str:
        """As a case is named: ``prefix_attention_q32_kv8_d128_b256_p8192``."""
        heads = f"q{self.num_heads}_kv{self.num_kv_heads}_d{self.head_dim}"
        prefix = f"_p{self.prefix}" if self.prefix else ""
        read = f"_r{self.read}" if self.read else ""
        return f"{self.operation}_{heads}_b{self.batch}{prefix}{read}"

    def small(self) -> "KernelShape":
        """The same heads with at most 3 rows, 300 keys and 40 own keys: what is compared with the reference."""
        keys = {"prefix": min(self.prefix, 288), "read": min(self.read, 256)} if self.read else {}
        small = {"prefix": min(self.prefix, 300), "suffix": min(self.suffix, 40), **keys}
        return self._replace(batch=min(self.batch, 3), **small)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "KernelShape":
        """From a dictionary that may hold more."""
        return cls(**{name: fields[name] for name in cls._fields})


def shapes(platform: str, *, smoke: bool) -> list[KernelShape]:
    """Everything that is measured on a platform, operation by operation."""
    if smoke:
        heads = Heads(4, 2, 16)
        found = _grid([heads], batches=(3,), prefixes=(24,), suffix=5, dtype="float32")
        return found + [KernelShape(operation, 3, 288, 0, *heads, "float32", 256) for operation in LISTED]
    prompts, rows = LISTED
    if platform == "cpu":
        heads = heads_of("smollm2-135m")
        found = _grid([heads], batches=(1, 4, 16), prefixes=(1024,), suffix=32, dtype="float32")
        listed = [(prompts, 1, 1024, 256), *((rows, batch, 1024, 256) for batch in (1, 4, 16))]
        return found + [KernelShape(*one[:3], 0, *heads, "float32", one[3]) for one in listed]
    every = [heads_of("llama-3-8b"), HYDRAGEN_HEADS]
    found = _grid(every, batches=(1, 16, 256, 1024), prefixes=(1024, 8192), suffix=128, dtype="bfloat16")
    listed = [(prompts, 1, tokens, 2048) for tokens in (8192, 32768)]
    listed += [(rows, batch, 8192, 1024) for batch in (1, 16, 256)]
    return found + [KernelShape(*one[:3], 0, *heads, "bfloat16", one[3]) for one in listed for heads in every]


def _grid(heads: list[Heads], *, batches, prefixes, suffix: int, dtype: str) -> list[KernelShape]:
    found = []
    for operation in OPERATIONS:
        if operation in LISTED:
            continue
        own = suffix if operation == "whole_attention" else 0
        for counts in heads:
            for prefix in (0,) if operation == "merge" else prefixes:
                found += [KernelShape(operation, batch, prefix, own, *counts, dtype) for batch in batches]
    return found


def layout_of(operation: str, side: str) -> str:
    """How a side wants the keys. Peers know no shared prefix, and neither does what is named ``copied-...``."""
    if operation == "merge":
        return "states"
    if operation in LISTED:
        return "lists" if operation == "block_sparse_attention" else "pages"
    if operation == "decode_attention" or not side.startswith("jaxdec-"):
        return "rows"
    return "shared" if operation == "prefix_attention" else "split"


def lists(shape: KernelShape) -> tuple[np.ndarray, np.ndarray]:
    """What the queries of a prompt, or the new token of a row, read: ``index int32[N, M]`` and ``count int32[N]``.

    Entries are spread evenly from the first to the last, which is the own block of the queries.
    """
    size = LISTED[shape.operation]
    places = -(-shape.prefix // size)
    most = min(shape.read // size, places)
    last = np.arange(places) if shape.operation == "block_sparse_attention" else np.array([places - 1])
    count = np.minimum(last + 1, most)
    share = 1 - np.arange(most) / np.maximum(count - 1, 1)[:, None]
    return np.rint(np.maximum(share, 0) * last[:, None]).astype(np.int32), count.astype(np.int32)


class Work(NamedTuple):
    """Bytes that must move if every input is read once and every result written once; floating-point operations."""

    bytes: int
    flops: int


def work(shape: KernelShape, side: str) -> Work:
    """The least that a side has to do.

    Ours return an attention state, ``o`` and ``lse`` in float32; peers return ``o`` in the type of the queries. States that are
    written and read again on the way to the result are not counted: they need not be.
    """
    item, state = ITEMSIZE[shape.dtype], ITEMSIZE["float32"]
    numbers = shape.batch * shape.num_heads * shape.head_dim
    lses = shape.batch * shape.num_heads
    layout = layout_of(shape.operation, side)
    if layout == "states":
        part = numbers * (state if side.startswith("jaxdec-") else item) + lses * state
        return Work((PARTS + 1) * part, 2 * PARTS * numbers)
    if layout == "lists":
        size, tokens = LISTED[shape.operation], shape.prefix
        rows = np.minimum(size, tokens - size * np.arange(-(-tokens // size)))  # of queries
        cells = int(((lists(shape)[1] - 1) * size * rows + rows * (rows + 1) // 2).sum())
        keys = 2 * shape.batch * tokens * shape.num_kv_heads * shape.head_dim * item
        return Work(tokens * (numbers * item + (numbers + lses) * state) + keys, 4 * numbers * cells)
    if layout == "pages":
        read = min(shape.read, shape.prefix)
        keys = 2 * shape.batch * read * shape.num_kv_heads * shape.head_dim * item
        return Work(numbers * item + keys + (numbers + lses) * state, 4 * numbers * read)
    tokens = {
        "shared": shape.prefix,
        "rows": shape.batch * (shape.prefix + shape.suffix),
        "split": shape.prefix + shape.batch * shape.suffix,
    }[layout]
    peer = not side.startswith(("jaxdec-", "copied-"))
    result = numbers * item if peer else (numbers + lses) * state
    keys = 2 * tokens * shape.num_kv_heads * shape.head_dim * item
    return Work(numbers * item + keys + result, 4 * numbers * (shape.prefix + shape.suffix))
