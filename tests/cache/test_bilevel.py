"""The bi-level layout against loops over tokens that rotate, average and number entries one by one."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.cache import Cache, ContiguousCache
from jaxdec.cache.bilevel import BilevelCache
from jaxdec.cache.pooled_chunks import BilevelLayout
from jaxdec.cache.weighted import WeightedCache
from jaxdec.models.rope import inverse_frequencies, rotation
from tests.attention.sparse.prompts import textbook
from tests.tiny_models import TINY

LAYERS, HEADS, KV_HEADS, WIDTH = 2, 4, 2, 8
LAYOUT = BilevelLayout(chunk=14, prefix=3, marker=2, group=7, compression=3)  # windows of 3 and 2 tokens
LENGTH = 3 + 4 * 14 + 9
ROTATION = functools.partial(rotation, TINY)
FREQUENCIES = np.asarray(inverse_frequencies(TINY), np.float64)


def rotated(key, position):
    """One key ``[..., E]`` at a position, in float64."""
    cos, sin = np.cos(position * FREQUENCIES), np.sin(position * FREQUENCIES)
    first, second = np.split(key, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def prompt(seed, lengths, slots=128, dtype=jnp.float32):
    """Keys without rotation and values ``[layers, B, T, G, E]``, and the cache that a model would have made of them."""
    rng = np.random.default_rng(seed)
    plain, values = rng.normal(size=(2, LAYERS, len(lengths), slots, KV_HEADS, WIDTH))
    keys = np.stack([rotated(plain[:, :, p], p) for p in range(slots)], axis=2)
    behind = (np.arange(slots) >= np.asarray(lengths)[:, None])[:, :, None, None]
    sides = [np.where(behind, np.nan, side).swapaxes(2, 3) for side in (keys, values)]
    keys, held = (tuple(jnp.asarray(layer, dtype) for layer in side) for side in sides)
    return plain, values, ContiguousCache(keys, held, jnp.asarray(lengths, jnp.int32))


def entries(layout, length, chosen):
    """``(tokens, pooled)`` of each entry of one row: the tokens that it stands for, and whether it is a mean."""
    found = [([token], False) for token in range(layout.prefix)]
    last = layout.num_chunks(length) - 1
    for chunk in range(last + 1):
        first = layout.prefix + chunk * layout.chunk
        tokens = list(range(first, min(first + layout.chunk, length)))
        if chosen[chunk] or chunk in (0, last):
            found += [([token], False) for token in tokens]
            continue
        for start in range(0, layout.chunk, layout.tokens_in_group):
            group = tokens[start : start + layout.tokens_in_group]
            found += [([token], False) for token in group[: layout.marker]]
            content = group[layout.marker :]
            pieces = [content[at : at + layout.compression] for at in range(0, len(content), layout.compression)]
            found += [(piece, True) for piece in pieces]
    return found


def check(cache, plain, values, layout, lengths, chosen, reposition, mass=None, tolerance=1e-5):
    keys, held = ([np.asarray(layer, np.float32) for layer in side] for side in (cache.keys, cache.values))
    for row, length in enumerate(lengths):
        wanted = entries(layout, length, chosen[row])
        assert int(cache.length[row]) == len(wanted)
        for slot, (tokens, pooled) in enumerate(wanted):
            place = slot if reposition else tokens[(len(tokens) - 1) // 2]
            for layer in range(LAYERS):
                key = rotated(plain[layer, row, tokens].mean(0), place)
                np.testing.assert_allclose(keys[layer][row, :, slot], key, atol=tolerance)
                value = values[layer, row, tokens].mean(0)
                np.testing.assert_allclose(held[layer][row, :, slot], value, atol=tolerance)
            if mass is not None:
                assert int(mass[row, slot]) == (len(tokens) if pooled else 1)
        if mass is not None:
            assert (np.asarray(mass[row, len(wanted) :]) == 1).all()


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 10**6), st.integers(4, LENGTH), st.booleans(), st.booleans())
def test_assembled_is_what_loops_assemble(seed, shorter, reposition, log_mass):
    lengths = [LENGTH, shorter]
    plain, values, cache = prompt(seed, lengths)
    both = BilevelCache.of_prompt(cache, LAYOUT, ROTATION)
    count = both.num_chunks.tolist()
    assert count == [LAYOUT.num_chunks(length) for length in lengths]
    chosen = np.random.default_rng(seed).random((2, 5)) < 0.4
    chosen &= np.arange(5) < np.asarray(count)[:, None]
    made = both.assemble(jnp.asarray(chosen), capacity=100, reposition=reposition, log_mass=log_mass)
    assert isinstance(made, Cache)
    assert isinstance(made, WeightedCache if log_mass else ContiguousCache)
    contiguous, mass = (made.entries, made.mass) if log_mass else (made, None)
    assert not np.isnan(np.asarray(contiguous.keys)).any(), "NaN from behind the prompts"
    check(contiguous, plain, values, LAYOUT, lengths, chosen, reposition, mass)
    assert both.assembled_length(jnp.asarray(chosen)).tolist() == made.length.tolist()


def test_length_is_the_formula():
    """n' = prefix + sum over chunks of markers + content, or content / c."""
    _, _, cache = prompt(0, [LENGTH, 20])
    both = BilevelCache.of_prompt(cache, LAYOUT, ROTATION)
    pooled = 2 * (2 + 2)  # two groups: markers, a window of 3 and one of 2
    for chosen, length in [([], 3 + 14 + 3 * pooled + 9), ([2], 3 + 28 + 2 * pooled + 9), ([1, 2, 3], LENGTH)]:
        mask = jnp.zeros((2, 5), bool).at[0, jnp.asarray(chosen, int)].set(True)
        assert both.assembled_length(mask).tolist() == [length, 20]
    assert BilevelLayout(chunk=144, compression=4).entries.shape[0] == 36
    assert BilevelLayout(chunk=145, compression=4).entries[-1].tolist() == [144, 1], "the rest is not lost"


@pytest.mark.parametrize("reposition", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_all_chunks_chosen_is_the_prompt_bit_by_bit(reposition):
    lengths = [LENGTH, 20]
    _, _, cache = prompt(1, lengths)
    both = BilevelCache.of_prompt(cache, LAYOUT, ROTATION)
    everything = jnp.arange(5) < both.num_chunks[:, None]
    made = both.assemble(everything, capacity=100, reposition=reposition)
    assert made.length.tolist() == lengths
    for ours, theirs in zip((*made.keys, *made.values), (*cache.keys, *cache.values), strict=True):
        for row, length in enumerate(lengths):
            np.testing.assert_array_equal(ours[row, :, :length], theirs[row, :, :length])


def test_windows_of_one_token_are_that_token():
    layout = BilevelLayout(chunk=14, prefix=3, marker=2, compression=1)
    _, _, cache = prompt(2, [LENGTH])
    made = BilevelCache.of_prompt(cache, layout, ROTATION).assemble(jnp.zeros((1, 5), bool), capacity=100)
    assert made.length.tolist() == [LENGTH]
    for ours, theirs in zip((*made.keys, *made.values), (*cache.keys, *cache.values), strict=True):
        np.testing.assert_allclose(ours[:, :, :LENGTH], theirs[:, :, :LENGTH], atol=1e-5)


def test_keys_are_averaged_without_rotation():
    """Equal keys at other places: their mean is the key, while rotated ones would cancel each other in part."""
    plain, _, _ = prompt(3, [LENGTH, LENGTH])
    plain[:] = plain[:, :, :1]
    keys = np.stack([rotated(plain[:, :, p], p) for p in range(LENGTH)], axis=2).swapaxes(2, 3)
    sides = tuple(jnp.asarray(layer, jnp.float32) for layer in keys)
    sides = tuple(jnp.pad(side, ((0, 0), (0, 0), (0, 128 - LENGTH), (0, 0))) for side in sides)
    cache = ContiguousCache(sides, sides, jnp.asarray([LENGTH, LENGTH], jnp.int32))
    made = BilevelCache.of_prompt(cache, LAYOUT, ROTATION).assemble(jnp.zeros((2, 5), bool), capacity=100)
    slot = 3 + 14 + 2  # the first window of the second chunk
    np.testing.assert_allclose(made.keys[0][0, :, slot], rotated(plain[0, 0, 0], slot), atol=1e-5)
    rotated_mean = keys[0, 0, :, 3 + 14 + 2 : 3 + 14 + 5].mean(axis=1)  # what the values are here
    np.testing.assert_allclose(made.values[0][0, :, slot], rotated_mean, atol=1e-5)
    norms = [np.linalg.norm(side, axis=-1) for side in (plain[0, 0, 0], rotated_mean)]
    assert (norms[1] < 0.99 * norms[0]).all()


@pytest.mark.parametrize("log_mass", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_log_mass_gives_equal_keys_the_weight_of_their_tokens(log_mass):
    """Where all keys of a window are equal in the rotated space too (one position), raised scores give dense attention."""
    still = functools.partial(_still, TINY.head_dim)
    plain, values, _ = prompt(4, [LENGTH])
    window = np.arange(LENGTH)
    for tokens, pooled in entries(LAYOUT, LENGTH, [False] * 5):
        window[tokens] = tokens[0] if pooled else tokens
    keys = plain[:, :, window].swapaxes(2, 3)
    cache = ContiguousCache(
        tuple(jnp.asarray(layer, jnp.float32) for layer in keys),
        tuple(jnp.asarray(layer[:, :LENGTH].swapaxes(1, 2), jnp.float32) for layer in values),
        jnp.asarray([LENGTH], jnp.int32),
    )
    both = BilevelCache.of_prompt(cache, LAYOUT, still)
    made = both.assemble(jnp.zeros((1, 5), bool), capacity=100, log_mass=log_mass)
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 2, heads, WIDTH)), jnp.float32) for heads in (HEADS, KV_HEADS, KV_HEADS))
    made = made.append(1, k, v).observe(1, q)
    mask = made.mask(2, None)
    out, lse = made.attention_state(1, q, mask)
    np.testing.assert_array_equal(made.attend(1, q, mask), out)
    all_keys = np.concatenate([keys[1].swapaxes(1, 2), k], axis=1)
    all_values = np.concatenate([values[1][:, :LENGTH], v], axis=1)
    seen = np.arange(LENGTH + 2) <= LENGTH + np.arange(2)[:, None]
    wanted, wanted_lse = textbook(q, all_keys, all_values, np.broadcast_to(seen, (1, HEADS, 2, LENGTH + 2)))
    if log_mass:
        np.testing.assert_allclose(out, wanted, atol=1e-5)
        np.testing.assert_allclose(lse, wanted_lse, atol=1e-5)
    else:
        assert np.abs(out - wanted).max() > 1e-2
        assert (np.asarray(lse) < wanted_lse).all(), "less mass without the correction"


def _still(width, positions):
    """A rotation that turns nothing."""
    angle = jnp.zeros((*positions.shape, 1, width // 2))
    return jnp.cos(angle), jnp.sin(angle)


def test_weighted_rows_are_committed_and_copied():
    _, _, cache = prompt(5, [LENGTH, 20])
    both = BilevelCache.of_prompt(cache, LAYOUT, ROTATION)
    made = both.assemble(jnp.zeros((2, 5), bool), capacity=100, log_mass=True)
    before = made.length
    longer = made.commit(None, jnp.asarray([2, 1], jnp.int32))
    assert longer.length.tolist() == (before + jnp.asarray([2, 1])).tolist()
    assert made.capacity == made.entries.capacity == 128
    assert made.nbytes == made.entries.nbytes + 2 * 128 * 4
    forked = longer.fork(jnp.asarray([1, 1, 0]))
    np.testing.assert_array_equal(forked.mass, longer.mass[jnp.asarray([1, 1, 0])])
    assert forked.length.tolist() == longer.length[jnp.asarray([1, 1, 0])].tolist()


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_dense_chunks_lie_on_the_host_and_come_back_as_they_were(dtype):
    lengths = [LENGTH, LENGTH]
    plain, values, cache = prompt(6, lengths, dtype=dtype)
    there = BilevelCache.of_prompt(cache, LAYOUT, ROTATION)
    here = BilevelCache.of_prompt(cache, LAYOUT, ROTATION, offload=False)
    kinds = {memory.kind for memory in jax.devices()[0].addressable_memories()}
    expected = "pinned_host" if "pinned_host" in kinds else here.pooled.keys.sharding.memory_kind
    assert {chunk.keys.sharding.memory_kind for chunk in there.dense} == {expected}
    assert {chunk.keys.sharding.memory_kind for chunk in here.dense} != {"pinned_host"}
    assert there.pooled.keys.sharding.memory_kind == here.pooled.keys.sharding.memory_kind
    chosen = jnp.asarray([[False, True, False, True, False], [False] * 5])
    ours, theirs = (both.assemble(chosen, capacity=100) for both in (there, here))
    assert ours.keys[0].dtype == dtype
    assert ours.keys[0].sharding.memory_kind == here.pooled.keys.sharding.memory_kind
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)
    for chunk in range(4):
        start = 3 + 14 * chunk
        np.testing.assert_array_equal(there.dense[chunk].values[0], cache.values[0][:, :, start : start + 14])
    size = 2 * LAYERS * KV_HEADS * WIDTH * 2 * jnp.dtype(dtype).itemsize  # bytes of a token, both rows
    tolerance = 0.1 if dtype == "bfloat16" else 1e-5
    check(ours, plain, values, LAYOUT, lengths, np.asarray(chosen), True, tolerance=tolerance)
    assert there.pooled_nbytes == size * (3 + 5 * 2 * (2 + 2))
    assert there.nbytes == there.pooled_nbytes + size * 5 * 14


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda both, cache: BilevelLayout(chunk=0), "chunk must be at least 1; got 0"),
        (lambda both, cache: BilevelLayout(chunk=12, group=5), "group must divide the 12 tokens of a chunk; got 5"),
        (
            lambda both, cache: BilevelLayout(chunk=4, marker=4),
            "marker must leave tokens to pool in a group of 4; got 4",
        ),
        (lambda both, cache: BilevelLayout(chunk=4, compression=0), "compression must be at least 1 token; got 0"),
        (
            lambda both, cache: BilevelCache.of_prompt(cache, BilevelLayout(chunk=4, prefix=20), ROTATION),
            "prompts must be longer than the prefix of 20 tokens; got 20",
        ),
        (
            lambda both, cache: jax.jit(lambda c: BilevelCache.of_prompt(c, LAYOUT, ROTATION))(cache),
            "prompt.length must be known",
        ),
        (
            lambda both, cache: both.made_dense(jnp.zeros((2, 4), bool)),
            "chosen must have shape [2, 5], rows and chunks; got [2, 4]",
        ),
        (
            lambda both, cache: both.made_dense(jnp.zeros((2, 5), bool).at[1, 3].set(True)),
            "chosen must lie within the chunks; row 1 of 2 chunks has chunk 3",
        ),
        (lambda both, cache: jax.jit(both.made_dense)(jnp.zeros((2, 5), bool)), "chosen must be known"),
        (
            lambda both, cache: both.assemble(jnp.zeros((2, 5), bool), capacity=50),
            "capacity must be more than the 50 entries that are assembled; got 50",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    _, _, cache = prompt(7, [LENGTH, 20])
    with pytest.raises(ValueError, match=re.escape(message)):
        wrong(BilevelCache.of_prompt(cache, LAYOUT, ROTATION), cache)
