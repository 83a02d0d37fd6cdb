"""Keys and values in 8, 4 or 2 bits: keys per channel, values per token, and attention that reads the packed codes.

KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache. Liu et al., 2024, arXiv 2402.02750. Keys have channels of
outlying size, so that their least and greatest value are taken per channel over a group of tokens; values have none, so that
theirs are taken per token over a group of channels. With ``b`` bits

    step = (max - min) / (2^b - 1)      code = round((x - min) / step)      x' = min + step code      |x - x'| <= step / 2

where ``step`` is 0 for a constant. Both ends of a range are kept in float16 and codes are made for what is kept, so that the
rounding of the ends, ``2^-11`` of them, is all that the bound grows by.

Attention takes one block of one head at a time out of the packed codes, so that nothing is ever dequantised as a whole. A byte
holds the codes of ``8 / b`` tokens, a part of the block apart: each place in the bytes is a matrix of its own, of a part of the
tokens, ready for products. Codes of neighbours would have to be put between each other first, which takes a processor longer
than the products do.

Channels of keys have a range per 16 tokens, two bits a number, values one per 64 channels, half a bit; the paper: 32 of both.
Errors of values average out in the sum that attention is; those of keys stand in its exponents.

The bound is paid for by the many: at two bits, the extremes of 128 normal numbers give twice the squared error of the best four
levels. A *fitted* range (not in the paper) begins as the best of some narrower ones; then the codes for a range and the range
for these codes, by least squares, are found in turns, as Lloyd (1982) finds levels that are free. What lies outside comes back
as the end of the range.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import UInt

from jaxdec.typing import Array, Bool, Float, Int
from pallas_kernels.tiled_attention.softmax_state import SoftmaxState, empty, finish, precision_of, weigh
from pallas_kernels.tiled_attention.xla import over_tiles

BITS = (2, 4, 8)
BLOCK = 128
KEY_GROUP = 16
CHANNEL_GROUP = 64
RANGES = jnp.float16
SHARES = (0.9, 0.75, 0.6)  # of a range, that a fit begins with the best of
FITS = 3


@dataclasses.dataclass(frozen=True)
class Quantized:
    """All tokens in fewer bits but for the newest.

    Attributes:
      bits: 2, 4 or 8.
      window: newest tokens in full precision, at least.
      fitted: ranges of least squared error instead of those from the least to the greatest value, which the paper has. With 2
        bits texts are predicted better with them, with 4 no difference was seen (docs/kv_compression.md); packing takes longer.
      key_bits: of keys, where they differ from those of values.
    """

    bits: int = 4
    window: int = 128
    fitted: bool = False
    key_bits: int | None = None

    def __post_init__(self):
        for name, bits in (("bits", self.bits), ("key_bits", self.bits if self.key_bits is None else self.key_bits)):
            if bits not in BITS:
                raise ValueError(f"{name} must be one of {', '.join(map(str, BITS))}; got {bits}")
        if self.window < 0:
            raise ValueError(f"window must be at least 0 tokens; got {self.window}")


def quantize(
    x: Float[Array, "*dims"], bits: int, axis: int, used: Bool[Array, "*#dims"] | None = None, *, fitted: bool = False
) -> tuple[Array, Array, Array]:
    """Codes, and the ends of each range along an axis.

    Args:
      x: at most 65504 in size where used, else it comes back as that.
      bits: 2, 4 or 8.
      axis: ranges lie along it.
      used: what counts for the ranges; by default all. What is not used gets the code 0.
      fitted: see the module; else every error is at most half a step, but for the rounding of ranges.

    Returns:
      Codes ``uint8`` of the shape of ``x``, lower and upper ends, float16, with 1 along ``axis``.
    """
    x = x.astype(jnp.float32)
    used = jnp.ones((), bool) if used is None else used
    low = jnp.where(used, x, jnp.inf).min(axis=axis, keepdims=True)
    high = jnp.where(used, x, -jnp.inf).max(axis=axis, keepdims=True)
    low, high = (jnp.where(jnp.isfinite(side), side, 0) for side in (low, high))  # of a range without tokens
    if fitted:
        step = (high - low) / (2**bits - 1)
        low, step = _fit(jnp.where(used, x, 0), jnp.broadcast_to(used, x.shape), bits, axis, low, step)
        high = low + step * (2**bits - 1)
    largest = float(jnp.finfo(RANGES).max)
    low, high = (jnp.clip(end, -largest, largest).astype(RANGES) for end in (low, high))
    codes = _code(x, *levels(low, high, bits), bits)
    return jnp.where(used, codes, 0).astype(jnp.uint8), low, high


def levels(low: Float[Array, "*dims"], high: Float[Array, "*dims"], bits: int) -> tuple[Array, Array]:
    """The least value and the step of ranges that are kept by their ends, float32."""
    low, high = low.astype(jnp.float32), high.astype(jnp.float32)
    return low, (high - low) / (2**bits - 1)


def _code(x: Array, low: Array, step: Array, bits: int) -> Array:
    return jnp.clip(jnp.round((x - low) / jnp.where(step == 0, 1, step)), 0, 2**bits - 1)


def _fit(x: Array, used: Array, bits: int, axis: int, low: Array, step: Array) -> tuple[Array, Array]:
    """Least values and steps of no more squared error than those given, range by range."""

    def mean(of: Array) -> Array:
        return jnp.mean(of, axis=axis, keepdims=True, where=used)

    def error(low: Array, step: Array) -> Array:
        return mean((x - low - step * _code(x, low, step, bits)) ** 2)

    def better(best: tuple[Array, ...], low: Array, step: Array) -> tuple[Array, ...]:
        new = (error(low, step), low, step)
        return tuple(jnp.where(new[0] < best[0], side, old) for side, old in zip(new, best))  # NaN is never less

    best, span = (error(low, step), low, step), step * (2**bits - 1)
    for share in SHARES:
        best = better(best, low + span * (1 - share) / 2, step * share)

    def once(_: Array, best: tuple[Array, ...]) -> tuple[Array, ...]:
        codes = _code(x, best[1], best[2], bits)
        centre = codes - mean(codes)
        variance = mean(centre**2)
        step = mean(centre * x) / jnp.where(variance == 0, 1, variance)  # of one code alone: 0, no better
        return better(best, mean(x) - step * mean(codes), step)

    _, low, step = jax.lax.fori_loop(0, FITS, once, best)
    return low, step


def pack(codes: UInt[Array, "*dims P E"], bits: int) -> Array:
    """``8 / bits`` tokens in a byte: of as many parts that the tokens are cut into, the first in the lowest bits."""
    parts = jnp.stack(jnp.split(codes, 8 // bits, axis=-2))
    shift = (bits * jnp.arange(8 // bits)).astype(jnp.uint8)
    return (parts << shift.reshape(-1, *[1] * codes.ndim)).sum(axis=0, dtype=jnp.uint8)


def unpack(packed: UInt[Array, "*dims C E"], bits: int) -> list[Array]:
    """The parts that :func:`pack` packed, in their order."""
    if bits == 8:
        return [packed]
    return [(packed >> jnp.uint8(shift)) & jnp.uint8(2**bits - 1) for shift in range(0, 8, bits)]


def check_bits(name: str, bits: int, block: int, key_group: int | None = None):
    """Check codes of a block of tokens, and the ranges of its keys.

    Raises:
      ValueError: bits other than 2, 4 and 8; tokens that do not fill whole bytes; groups that begin and end within the parts
        that share bytes.
    """
    if bits not in BITS:
        raise ValueError(f"{name} must be one of {', '.join(map(str, BITS))}; got {bits}")
    if block < 1 or block % (8 // bits):
        raise ValueError(
            f"block must be at least 1 token and a multiple of the {8 // bits} codes of a byte; got {block}"
        )
    part = block * bits // 8
    if key_group is not None and key_group % part and part % key_group:
        raise ValueError(
            f"key_group must divide the {part} tokens of a block that share no byte, or be a multiple of them; got {key_group}"
        )


def check_precision(bits: int, key_bits: int, head_dim: int, block: int, key_group: int, channel_group: int):
    """Check what packed tokens are made of.

    Raises:
      ValueError: see :func:`check_bits`; groups of tokens that do not divide the block or of channels that do not divide the
        head.
    """
    check_bits("bits", bits, block)
    if key_group < 1 or block % key_group:
        raise ValueError(f"key_group must divide block, {block}; got {key_group}")
    check_bits("key_bits", key_bits, block, key_group)
    if channel_group < 1 or head_dim % channel_group:
        raise ValueError(f"channel_group must divide head_dim, {head_dim}; got {channel_group}")


class PackedTokens(struct.PyTreeNode):
    """Tokens of one layer in ``M`` blocks of ``P``, of which each row uses the first ``blocks``.

    Attributes:
      key_codes: ``uint8``, ``C = P key_bits / 8`` bytes per channel, see :func:`pack`.
      key_low: least value of each channel of each of the ``K`` groups of tokens of a block, float16.
      key_high: what its greatest code stands for.
      value_codes: ``uint8``, ``D = P value_bits / 8`` bytes per channel.
      value_low: least value of each token and group of channels, float16.
      value_high: what its greatest code stands for.
      used: tokens of each block; the first of it.
      blocks: blocks of each row.
      key_bits: 2, 4 or 8.
      value_bits: 2, 4 or 8.
      fitted: how ranges are found, see the module.
    """

    key_codes: UInt[Array, "B G M C E"]
    key_low: Float[Array, "B G M K E"]
    key_high: Float[Array, "B G M K E"]
    value_codes: UInt[Array, "B G M D E"]
    value_low: Float[Array, "B G M P N"]
    value_high: Float[Array, "B G M P N"]
    used: Int[Array, "B M"]
    blocks: Int[Array, "B"]
    key_bits: int = struct.field(pytree_node=False)
    value_bits: int = struct.field(pytree_node=False)
    fitted: bool = struct.field(pytree_node=False, default=False)

    @classmethod
    def create(
        cls,
        *,
        batch_size: int,
        num_tokens: int,
        num_kv_heads: int,
        head_dim: int,
        bits: int,
        key_bits: int | None = None,
        block: int = BLOCK,
        key_group: int | None = None,
        channel_group: int | None = None,
        fitted: bool = False,
    ) -> "PackedTokens":
        """Nothing yet, with blocks for ``num_tokens`` tokens; keys in as many bits as values unless ``key_bits`` says other.

        Groups are of 16 tokens and of 64 channels by default, or of as many as these have in common with the tokens of a block
        that share no byte, with the head.

        Raises:
          ValueError: see :func:`check_precision`.
        """
        key_bits = bits if key_bits is None else key_bits
        key_group = math.gcd(KEY_GROUP, block * key_bits // 8) if key_group is None else key_group
        channel_group = math.gcd(CHANNEL_GROUP, head_dim) if channel_group is None else channel_group
        check_precision(bits, key_bits, head_dim, block, key_group, channel_group)
        blocks = -(-num_tokens // block)
        shape = (batch_size, num_kv_heads, blocks)
        of_keys, of_values = (*shape, block // key_group, head_dim), (*shape, block, head_dim // channel_group)
        return cls(  # no array twice: a buffer can be donated once
            key_codes=jnp.zeros((*shape, block * key_bits // 8, head_dim), jnp.uint8),
            key_low=jnp.zeros(of_keys, RANGES),
            key_high=jnp.zeros(of_keys, RANGES),
            value_codes=jnp.zeros((*shape, block * bits // 8, head_dim), jnp.uint8),
            value_low=jnp.zeros(of_values, RANGES),
            value_high=jnp.zeros(of_values, RANGES),
            used=jnp.zeros((batch_size, blocks), jnp.int32),
            blocks=jnp.zeros(batch_size, jnp.int32),
            key_bits=key_bits,
            value_bits=bits,
            fitted=fitted,
        )

    @property
    def block(self) -> int:
        """Tokens of a block."""
        return self.value_low.shape[3]

    @property
    def length(self) -> Int[Array, "B"]:
        """Tokens of each row."""
        return self.used.sum(axis=1, dtype=jnp.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays but the counts."""
        arrays = (self.key_codes, self.key_low, self.key_high, self.value_codes, self.value_low, self.value_high)
        return sum(array.nbytes for array in arrays)

    def coded(
        self, keys: Float[Array, "B G P E"], values: Float[Array, "B G P E"], count: Int[Array, "B"]
    ) -> dict[str, Array]:
        """Codes and ranges of a block of tokens, by the names of the fields, without the axis of blocks.

        What lies behind ``count`` may be NaN, and gives zeros; so does a block without tokens.
        """
        fits = (jnp.arange(keys.shape[2]) < count[:, None])[:, None, :, None]
        keys, values = (jnp.where(fits, side, 0).astype(jnp.float32) for side in (keys, values))
        by_group = (*keys.shape[:2], self.key_low.shape[3], -1, keys.shape[3])
        fits = jnp.broadcast_to(fits, keys.shape).reshape(by_group)
        codes, low, high = quantize(keys.reshape(by_group), self.key_bits, axis=3, used=fits, fitted=self.fitted)
        grouped = values.reshape(*values.shape[:3], self.value_low.shape[-1], -1)
        value_codes, value_low, value_high = quantize(grouped, self.value_bits, axis=-1, fitted=self.fitted)
        return {
            "key_codes": pack(codes.reshape(keys.shape), self.key_bits),
            "key_low": low[:, :, :, 0],
            "key_high": high[:, :, :, 0],
            "value_codes": pack(value_codes.reshape(values.shape), self.value_bits),
            "value_low": value_low[..., 0],
            "value_high": value_high[..., 0],
        }

    def push(
        self, keys: Float[Array, "B G P E"], values: Float[Array, "B G P E"], count: Int[Array, "B"]
    ) -> "PackedTokens":
        """Pack the first ``count[b]`` of a block of tokens into the next block of each row, unless that is 0.

        Blocks that are there already do not change. The caller keeps ``blocks`` within ``M``. What lies behind ``count`` may be
        NaN.
        """
        new = self.coded(keys, values, count)
        row = jnp.arange(count.shape[0])
        where = jnp.where(count > 0, self.blocks, self.used.shape[1])  # behind the last: dropped
        written = {name: getattr(self, name).at[row, :, where].set(part, mode="drop") for name, part in new.items()}
        used = self.used.at[row, where].set(count, mode="drop")
        return self.replace(**written, used=used, blocks=self.blocks + (count > 0))

    def parts_of(
        self, row: Int[Array, ""] | int, head: Int[Array, ""] | int, number: Int[Array, ""] | int
    ) -> tuple[list[Float[Array, "C E"]], list[Float[Array, "D E"]]]:
        """Keys and values of one block of one head, float32, in the parts that share bytes, one behind the other.

        Behind the tokens used there are 0 or rubbish, never NaN.
        """
        at = row, head, number
        keys, values = [], []
        low, step = levels(self.key_low[at], self.key_high[at], self.key_bits)
        for number, codes in enumerate(unpack(self.key_codes[at], self.key_bits)):
            part, size = codes.shape[0], self.block // low.shape[0]  # one is a multiple of the other
            groups = slice(number * part // size, -(-(number + 1) * part // size))
            grouped = codes.astype(jnp.float32).reshape(groups.stop - groups.start, -1, codes.shape[1])
            keys.append((low[groups, None] + step[groups, None] * grouped).reshape(codes.shape))
        low, step = levels(self.value_low[at], self.value_high[at], self.value_bits)
        for number, codes in enumerate(unpack(self.value_codes[at], self.value_bits)):
            tokens = slice(number * codes.shape[0], (number + 1) * codes.shape[0])
            grouped = codes.astype(jnp.float32).reshape(codes.shape[0], low.shape[1], -1)
            values.append((low[tokens, :, None] + step[tokens, :, None] * grouped).reshape(codes.shape))
        return keys, values

    def attention_state(
        self, queries: Float[Array, "B T H E"]
    ) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
        """Attention of all queries to all tokens, and its log-sum-exp; ``(0, -inf)`` where there are none."""
        batch, num_new, num_heads, width = queries.shape
        num_kv_heads = self.key_codes.shape[1]
        dtype = jnp.promote_types(queries.dtype, jnp.float32)
        dot = functools.partial(jnp.dot, precision=precision_of(dtype))
        grouped = queries.astype(dtype).reshape(batch, num_new, num_kv_heads, -1, width).transpose(0, 2, 1, 3, 4)
        grouped = grouped.reshape(batch, num_kv_heads, -1, width)

        def of_head(index):
            row, head = index // num_kv_heads, index % num_kv_heads

            def step(number, state: SoftmaxState) -> SoftmaxState:
                keys, values = self.parts_of(row, head, number)
                scores = jnp.concatenate([dot(grouped[row, head], part.astype(dtype).T) for part in keys], axis=1)
                used = jnp.arange(self.block) < self.used[row, number]
                state, weights = weigh(state, jnp.where(used, scores * width**-0.5, -jnp.inf))
                pairs = zip(jnp.split(weights, len(values), axis=1), values)
                return state._replace(
                    weighted=state.weighted + sum(dot(some, part.astype(dtype)) for some, part in pairs)
                )

            return finish(jax.lax.fori_loop(0, self.blocks[row], step, empty(grouped.shape[2], width, dtype)))

        out, lse = over_tiles(of_head, jnp.arange(batch * num_kv_heads))
        out = out.reshape(batch, num_kv_heads, num_new, -1, width).transpose(0, 2, 1, 3, 4)
        lse = lse.reshape(batch, num_kv_heads, num_new, -1).transpose(0, 2, 1, 3)
        return out.reshape(queries.shape), lse.reshape(batch, num_new, num_heads)
