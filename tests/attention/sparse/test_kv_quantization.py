"""Packed keys and values: codes, errors of half a step, bytes, and attention to them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse import kv_quantization
from jaxdec.attention.sparse.kv_quantization import BITS, PackedTokens, check_precision, levels, pack, quantize, unpack
from tests.attention.sparse.prompts import textbook

B, G, H, E, BLOCK, KEY_GROUP = 2, 2, 4, 8, 16, 8
HALF = 2**-11  # what an end of a range loses in float16, relative to it
push = jax.jit(PackedTokens.push)
attend = jax.jit(PackedTokens.attention_state)


def empty(bits, num_tokens=48, channel_group=4, fitted=False, key_bits=None, key_group=KEY_GROUP):
    return PackedTokens.create(
        batch_size=B,
        num_tokens=num_tokens,
        num_kv_heads=G,
        head_dim=E,
        bits=bits,
        key_bits=key_bits,
        block=BLOCK,
        key_group=key_group,
        channel_group=channel_group,
        fitted=fitted,
    )


def dequantised(packed):
    """Keys and values of all blocks, ``[B, G, M, P, E]``."""
    blocks = range(packed.used.shape[1])
    parts = [[[packed.parts_of(b, g, m) for m in blocks] for g in range(G)] for b in range(B)]
    whole = [[[[np.concatenate(side) for side in block] for block in head] for head in row] for row in parts]
    return np.moveaxis(np.asarray(whole), 3, 0)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.sampled_from(BITS), st.floats(1e-3, 1e3))
def test_comes_back_within_half_a_step(seed, bits, scale):
    x = np.random.default_rng(seed).normal(size=(3, 16, 8)).astype(np.float32) * np.float32(scale)
    for axis in (1, 2):
        codes, low, high = quantize(jnp.asarray(x), bits, axis)
        assert low.dtype == high.dtype == jnp.float16
        low, step = levels(low, high, bits)
        assert codes.dtype == jnp.uint8
        assert int(codes.max()) == 2**bits - 1, "all codes are in use"
        assert int(codes.min()) == 0
        error = np.abs(np.asarray(low) + np.asarray(step) * np.asarray(codes, np.float32) - x)
        assert (error <= np.asarray(step) / 2 * (1 + 1e-4) + HALF * np.abs(x).max()).all()
        np.testing.assert_array_equal(jnp.concatenate(unpack(pack(codes, bits), bits), axis=1), codes)
        assert pack(codes, bits).nbytes == x.size * bits // 8


def test_tokens_a_part_apart_share_a_byte_first_lowest():
    tokens = jnp.asarray([[1, 3], [0, 2], [2, 3], [1, 1]], jnp.uint8)
    assert pack(tokens, 2).tolist() == [[1 + 2 * 16 + 1 * 64, 3 + 2 * 4 + 3 * 16 + 1 * 64]]
    assert pack(tokens, 4).tolist() == [[1 + 2 * 16, 3 + 3 * 16], [0 + 1 * 16, 2 + 1 * 16]]
    assert pack(tokens, 8).tolist() == tokens.tolist()


def test_constants_come_back_as_float16_has_them():
    for fitted in (False, True):
        x = jnp.full((2, 4), 3.7, jnp.float32)
        codes, low, high = quantize(x, 2, axis=0, fitted=fitted)
        low, step = levels(low, high, 2)
        np.testing.assert_array_equal(low + step * codes, x.astype(jnp.float16))


def test_what_float16_cannot_hold_comes_back_as_its_largest():
    x = jnp.asarray([[-1e6, 0, 1e6]], jnp.float32)
    codes, low, high = quantize(x, 8, axis=1)
    assert (low.tolist(), high.tolist()) == ([[-65504.0]], [[65504.0]])
    assert codes.tolist()[0][::2] == [0, 255]


def squared_error(x, bits, axis, used=None, fitted=True):
    codes, low, high = quantize(jnp.asarray(x), bits, axis, used, fitted=fitted)
    low, step = levels(low, high, bits)
    error = (np.asarray(low) + np.asarray(step) * np.asarray(codes, np.float32) - x) ** 2
    return np.where(True if used is None else used, error, 0).sum(axis=axis)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.sampled_from(BITS), st.sampled_from([1, 2]), st.floats(1e-3, 1e3))
def test_a_fit_is_never_worse_and_leaves_out_what_is_not_used(seed, bits, axis, scale):
    rng = np.random.default_rng(seed)
    x = (rng.standard_t(3, size=(3, 16, 8)) * scale).astype(np.float32)
    used = rng.random((3, 16, 1)) < 0.6
    used[0] = False  # nothing at all
    given = jnp.asarray(used)
    x = np.where(used, x, np.nan)
    fit, plain = (np.nan_to_num(squared_error(x, bits, axis, given, fitted)) for fitted in (True, False))
    assert np.isfinite(fit).all()
    low = np.where(used, x, np.inf).min(axis=axis, keepdims=True)
    high = np.where(used, x, -np.inf).max(axis=axis, keepdims=True)
    low, high = (np.where(np.isfinite(end), end, 0) for end in (low, high))
    step = (high - low) / (2**bits - 1)
    errors = []  # before ranges are rounded
    everywhere = jnp.asarray(np.broadcast_to(used, x.shape))
    fits = kv_quantization._fit(
        jnp.asarray(np.where(used, x, 0)), everywhere, bits, axis, jnp.asarray(low), jnp.asarray(step)
    )
    for least, size in ((low, step), fits):
        found = (
            np.asarray(least)
            + np.asarray(size)
            * np.asarray(kv_quantization._code(jnp.asarray(x), jnp.asarray(least), jnp.asarray(size), bits))
            - x
        )
        errors.append(np.where(used, found, 0) ** 2)
    before, after = (error.sum(axis=axis) for error in errors)
    assert (after <= before * (1 + 1e-4) + 1e-9 * scale**2).all()
    count, largest = used.sum(axis=axis), np.nanmax(np.abs(x))
    slack = (count * (HALF * largest) ** 2) ** 0.5  # every error can grow by the rounding of the ends
    assert (fit**0.5 <= plain**0.5 + 2 * slack).all()
    codes, low, high = quantize(jnp.asarray(x), bits, axis, given, fitted=True)
    assert (np.asarray(codes)[~np.broadcast_to(used, x.shape)] == 0).all()
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()


def test_a_fit_of_two_bits_is_near_the_best_of_all_codes():
    """The best of all ``4^6`` codes of six numbers, each with its least squares."""
    rng = np.random.default_rng(0)
    codes = np.indices((4,) * 6).reshape(6, -1).T
    x = rng.normal(size=(50, 6)).astype(np.float32)
    best = []
    for row in x:
        centre = codes - codes.mean(1, keepdims=True)
        variance = (centre**2).sum(1)
        slope = np.where(variance > 0, centre @ row / np.where(variance > 0, variance, 1), 0)
        best.append((((row - row.mean()) - slope[:, None] * centre) ** 2).sum(1).min())
    fit, plain = (squared_error(x, 2, 1, fitted=fitted) for fitted in (True, False))
    assert (fit >= np.asarray(best) * (1 - 1e-4) - 1e-6).all()
    assert fit.mean() < 1.25 * np.mean(best)
    assert plain.mean() > 1.4 * np.mean(best), "the extremes are not the best"


def test_a_fit_of_normal_numbers_has_the_error_of_the_best_uniform_levels():
    """0.1188 of the variance at two bits, 0.01154 at four (Max, 1960, table II)."""
    x = np.random.default_rng(0).normal(size=(100, 4096)).astype(np.float32)
    for bits, wanted in ((2, 0.1188), (4, 0.01154)):
        assert squared_error(x, bits, 1).mean() / 4096 == pytest.approx(wanted, rel=0.05)
    assert squared_error(x, 2, 1, fitted=False).mean() / 4096 > 0.3


def test_what_lies_on_levels_comes_back_from_a_fit():
    x = jnp.asarray([[0.5, 2.5, 1.5, 3.5, 0.5], [7, 7, 7, 7, 7], [-1, 5, 5, -1, -1]], jnp.float32)
    codes, low, high = quantize(x, 2, axis=1, fitted=True)
    low, step = levels(low, high, 2)
    np.testing.assert_allclose(low + step * codes, x, atol=1e-6)


@pytest.mark.parametrize(
    ("bits", "key_bits", "size"), [(2, 2, 8), (4, 4, 4), (8, 8, 8), (2, 4, 1), (8, 2, 2), (4, 2, 16)]
)
def test_blocks_hold_what_was_pushed_and_never_change(bits, key_bits, size):
    rng = np.random.default_rng(bits)
    packed = empty(bits, key_bits=None if key_bits == bits else key_bits, key_group=size)
    assert packed.nbytes == B * G * 48 * (E * (bits + key_bits) // 8 + 2 * 2 * E // size + 2 * 2 * E // 4)
    counts = [[16, 16], [16, 0], [5, 9]]
    pushed = []
    for count in counts:
        keys, values = rng.normal(size=(2, B, G, BLOCK, E)).astype(np.float32)
        keys[..., 3] *= 50  # an outlying channel, which costs the others nothing
        behind = (np.arange(BLOCK) >= np.asarray(count)[:, None])[:, None, :, None]
        keys, values = (np.where(behind, np.nan, side) for side in (keys, values))
        before = packed
        packed = push(packed, jnp.asarray(keys), jnp.asarray(values), jnp.asarray(count, jnp.int32))
        pushed.append((keys, values))
        for row in range(B):
            old = int(before.blocks[row])
            for name in ("key_codes", "key_low", "key_high", "value_codes", "value_low", "value_high"):
                was, now = (np.asarray(getattr(state, name))[row, :, :old] for state in (before, packed))
                np.testing.assert_array_equal(was, now)
    assert packed.blocks.tolist() == [3, 2]
    assert packed.length.tolist() == [37, 25]
    assert packed.used.tolist() == [[16, 16, 5], [16, 9, 0]]
    keys, values = dequantised(packed)
    assert np.isfinite(keys).all()
    assert np.isfinite(values).all()
    for row, numbers in enumerate([[0, 1, 2], [0, 2]]):
        for place, number in enumerate(numbers):
            used = counts[number][row]
            wanted_keys, wanted_values = (side[row][:, :used] for side in pushed[number])
            for first in range(0, used, size):
                group = wanted_keys[:, first : first + size]
                steps = (group.max(1) - group.min(1)) / (2**key_bits - 1)
                error = np.abs(keys[row, :, place, first : min(first + size, used)] - group)
                bound = steps / 2 * (1 + 1e-3) + HALF * np.abs(group).max(1)
                assert (error <= bound[:, None]).all()
            grouped = wanted_values.reshape(G, used, -1, 4)
            steps = (grouped.max(-1) - grouped.min(-1)) / (2**bits - 1)
            error = np.abs(values[row, :, place, :used] - wanted_values).reshape(grouped.shape)
            assert (error <= steps[..., None] / 2 * (1 + 1e-3) + HALF * np.abs(grouped).max()).all()


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10**6), st.sampled_from(BITS), st.sampled_from([None, *BITS]), st.sampled_from([1, 3]))
def test_attention_is_that_to_the_dequantised(seed, bits, key_bits, num_new):
    rng = np.random.default_rng(seed)
    packed = empty(bits, fitted=bool(seed % 2), key_bits=key_bits)
    for _ in range(3):
        keys, values = jnp.asarray(rng.normal(size=(2, B, G, BLOCK, E)), jnp.float32)
        packed = push(packed, keys, values, jnp.asarray(rng.integers(0, BLOCK + 1, B), jnp.int32))
    q = rng.normal(size=(B, num_new, H, E)).astype(np.float32)
    out, lse = attend(packed, jnp.asarray(q))
    keys, values = (np.moveaxis(side.reshape(B, G, -1, E), 1, 2) for side in dequantised(packed))
    used = (np.arange(BLOCK) < np.asarray(packed.used)[..., None]).reshape(B, -1)
    mask = np.broadcast_to(used[:, None, None], (B, H, num_new, used.shape[1]))
    expected, expected_lse = textbook(q, keys, values, mask)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(lse, expected_lse, atol=1e-5)


def test_nothing_packed_weighs_nothing():
    out, lse = attend(empty(4), jnp.ones((B, 1, H, E)))
    assert (np.asarray(out) == 0).all()
    assert (np.asarray(lse) == -np.inf).all()


def test_bytes_are_those_of_the_formula():
    """Per token and head, keys and values: codes; two ends of 2 bytes of a channel per group of tokens, and the other way."""
    for bits in BITS:
        codes, keys, values = 2 * E * bits / 8, 2 * 2 * E / KEY_GROUP, 2 * 2 * E / 4
        assert empty(bits).nbytes == B * G * 48 * (codes + keys + values)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 4, 8, 16, 8, 4), "bits must be one of 2, 4, 8; got 3"),
        ((4, 5, 8, 16, 8, 4), "key_bits must be one of 2, 4, 8; got 5"),
        ((2, 8, 8, 6, 6, 4), "block must be at least 1 token and a multiple of the 4 codes of a byte; got 6"),
        ((8, 4, 8, 5, 5, 4), "block must be at least 1 token and a multiple of the 2 codes of a byte; got 5"),
        ((4, 4, 8, 0, 8, 4), "block must be at least 1 token and a multiple of the 2 codes of a byte; got 0"),
        ((4, 4, 8, 16, 3, 4), "key_group must divide block, 16; got 3"),
        ((4, 4, 8, 16, 0, 4), "key_group must divide block, 16; got 0"),
        (
            (4, 2, 8, 24, 4, 4),
            "key_group must divide the 6 tokens of a block that share no byte, or be a multiple of them; got 4",
        ),
        ((4, 4, 8, 16, 8, 3), "channel_group must divide head_dim, 8; got 3"),
        ((4, 4, 8, 16, 8, 0), "channel_group must divide head_dim, 8; got 0"),
    ],
)
def test_bad_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_precision(*sizes)
