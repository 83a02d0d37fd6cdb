"""What attention costs over a context of ``S`` tokens: operations of a prefill, bytes of a decoding step.

The cost models of The Sparse Frontier (Nawrot et al. 2025, arXiv 2504.17768): operations for prefill, which computes, and
memory traffic for decoding, which reads (its second version; the first counts operations for both). A product of ``[a, b]``
and ``[b, c]`` takes ``2 a b c`` operations, a multiplication and an addition for each term. With ``L`` layers, ``D`` channels,
``H`` query and ``G`` key/value heads of ``E`` channels, ``F`` channels between gate, up and down, ``V`` words of vocabulary:

    queries, output          2 * 2 S D H E               W_q and W_o
    keys, values             2 * 2 S D G E               W_k and W_v
    gate, up, down           3 * 2 S D F
    attention                2 * 2 H E * cells           q k^T and weights times v, for each cell (query, key) computed
    head                     2 D V                       of the last token alone

    prefill(S) = L (4 S D H E + 4 S D G E + 6 S D F + 4 H E (1 - s) cells(S) + selecting(S)) + 2 D V

Softmax, norms, rotations and the embedding are left out. ``cells(S)`` has two conventions, which must not be mixed:

    "causal"    S (S + 1) / 2     the cells a causal model needs: what a kernel that skips the rest computes
    "square"    S^2               all cells, as if nothing were skipped

Nawrot et al.'s shares of attention in the operations of dense prefill (40 % to 80 % for Qwen2.5-7B over 16K to 128K tokens) are
met by ``"square"``; causal ones are 20 % to 67 %. A sparsity ``s`` is a share of causal cells and so scales either.

A decoding step of one row reads all weights once for its whole batch, the keys and values that are not skipped, and under Quest
the two summaries of each page (:mod:`jaxdec.attention.sparse.quest`), which take as many bytes as two keys:

    decode(S) = weights / batch + L (2 G E b (1 - s) S + 2 G E b S / page)

with ``b`` bytes a number. ``selecting`` of each prefill rule is its own ``selecting_flops``. At sparsity 0 nothing is selected,
and both are the dense cost.
"""

import dataclasses

CONVENTIONS = ("causal", "square")


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """The sizes that costs depend on.

    Attributes:
      num_layers: ``L``.
      hidden_size: ``D``.
      num_heads: ``H``.
      num_kv_heads: ``G``.
      head_dim: ``E``.
      intermediate_size: ``F``.
      vocab_size: ``V``.
      tie_embeddings: whether the head is the table of embeddings, so that a step reads it once.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_embeddings: bool = False

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if name != "tie_embeddings" and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads must be a multiple of num_kv_heads, {self.num_kv_heads}; got {self.num_heads}")

    @property
    def layer_params(self) -> int:
        """Weights of one layer's matrices."""
        heads = 2 * (self.num_heads + self.num_kv_heads) * self.head_dim
        return self.hidden_size * (heads + 3 * self.intermediate_size)

    @property
    def num_params(self) -> int:
        """Weights of all matrices."""
        tables = 1 if self.tie_embeddings else 2
        return self.num_layers * self.layer_params + tables * self.vocab_size * self.hidden_size

    @property
    def read_params(self) -> int:
        """Weights that a step reads: all but the table of embeddings, of which it reads a row."""
        return self.num_layers * self.layer_params + self.vocab_size * self.hidden_size


QWEN25 = {
    "7B": ModelShape(28, 3584, 28, 4, 128, 18944, 152064),
    "14B": ModelShape(48, 5120, 40, 8, 128, 13824, 152064),
    "32B": ModelShape(64, 5120, 40, 8, 128, 27648, 152064),
    "72B": ModelShape(80, 8192, 64, 8, 128, 29568, 152064),
}
"""The models of the first version of the paper."""


def prefill_flops(
    shape: ModelShape,
    num_tokens: int,
    sparsity: float | int = 0.0,
    *,
    selecting: float | int = 0,
    convention: str = "causal",
) -> float | int:
    """Operations of the prefill of one prompt.

    Args:
      shape: of the model.
      num_tokens: ``S``, at least 1.
      sparsity: share of the causal cells that is not computed, 0 to less than 1.
      selecting: operations that selecting takes in one layer, all heads; for no more than dense attention it must be 0.
      convention: which cells dense attention counts.

    Raises:
      ValueError: an argument out of range.
    """
    return other_flops(shape, num_tokens) + attention_flops(
        shape, num_tokens, sparsity, selecting=selecting, convention=convention
    )


def attention_flops(
    shape: ModelShape,
    num_tokens: int,
    sparsity: float | int = 0.0,
    *,
    selecting: float | int = 0,
    convention: str = "causal",
) -> float | int:
    """The part of :func:`prefill_flops` that sparsity touches: ``q k^T``, weights times ``v``, and selecting."""
    _check(num_tokens, sparsity)
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}; got {convention!r}")
    if selecting < 0:
        raise ValueError(f"selecting must not be negative, got {selecting}")
    cells = num_tokens * (num_tokens + 1) // 2 if convention == "causal" else num_tokens**2
    computed = 4 * shape.num_heads * shape.head_dim * cells * (1 - sparsity)
    return shape.num_layers * (computed + selecting)


def other_flops(shape: ModelShape, num_tokens: int) -> int:
    """The part of :func:`prefill_flops` that sparsity does not touch."""
    _check(num_tokens, 0.0)
    return 2 * num_tokens * shape.num_layers * shape.layer_params + 2 * shape.hidden_size * shape.vocab_size


def decode_bytes(
    shape: ModelShape,
    num_tokens: int,
    sparsity: float | int = 0.0,
    *,
    bytes_per_number: float | int = 2,
    bytes_per_weight: float | int = 2,
    batch: int = 1,
    page_size: int | None = None,
) -> float:
    """Bytes that a decoding step reads for one row.

    Args:
      shape: of the model.
      num_tokens: ``S``, in the cache.
      sparsity: share of the cached tokens that is not read, 0 to less than 1.
      bytes_per_number: of keys and values.
      bytes_per_weight: of the weights.
      batch: rows that share the reading of the weights.
      page_size: of Quest, which reads a summary of each page; None for rules that do not.

    Raises:
      ValueError: an argument out of range.
    """
    _check(num_tokens, sparsity)
    for name, value in {"bytes_per_number": bytes_per_number, "bytes_per_weight": bytes_per_weight}.items():
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if page_size is not None and page_size < 1:
        raise ValueError(f"page_size must be at least 1, got {page_size}")
    weights = bytes_per_weight * shape.read_params / batch
    per_token = 2 * shape.num_kv_heads * shape.head_dim * bytes_per_number
    summaries = 0.0 if page_size is None or sparsity == 0 else num_tokens / page_size
    return weights + shape.num_layers * per_token * ((1 - sparsity) * num_tokens + summaries)


def sparsity_of(compression: float | int) -> float:
    """``1 - 1 / compression``.

    Raises:
      ValueError: a compression below 1.
    """
    if not compression >= 1:
        raise ValueError(f"compression must be at least 1, which is dense; got {compression}")
    return 1 - 1 / compression


def compression_of(sparsity: float | int) -> float:
    """``1 / (1 - sparsity)``.

    Raises:
      ValueError: a sparsity outside [0, 1).
    """
    _check(1, sparsity)
    return 1 / (1 - sparsity)


def _check(num_tokens: int, sparsity: float | int):
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
