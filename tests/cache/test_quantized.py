"""The quantised layout: attention to dequantised old tokens and exact new ones; what is packed stays as it is."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse.kv_quantization import BITS
from jaxdec.cache import Cache, ContiguousCache
from jaxdec.cache.quantized import QuantizedCache
from tests.attention.sparse.prompts import textbook
from tests.cache import test_contiguous as one_piece
from tests.cache.test_contiguous import append
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

BATCH, LAYERS, HEADS, KV_HEADS, WIDTH = 3, 2, 4, 2, 8
BLOCK, WINDOW, NEW = 8, 5, 20
SHAPE = {"num_layers": LAYERS, "batch_size": BATCH, "num_kv_heads": KV_HEADS, "head_dim": WIDTH, "dtype": jnp.float32}
SIZES: dict[str, Any] = {"window": WINDOW, "max_new": NEW, "block": BLOCK, "key_group": 4, "channel_group": 4}
attend = jax.jit(QuantizedCache.attention_state, static_argnums=1)
commit = jax.jit(QuantizedCache.commit)


def with_nan(cache):
    nan = tuple(jnp.full_like(array, jnp.nan) for array in cache.recent.keys)
    return cache.replace(recent=cache.recent.replace(keys=nan, values=nan))


def empty(bits=4, capacity=64, **changes):
    return with_nan(QuantizedCache.create(**SHAPE, bits=bits, capacity=capacity, **{**SIZES, **changes}))


def entries(rng, count, batch=BATCH):
    return [rng.normal(size=(batch, count, KV_HEADS, WIDTH)).astype(np.float32) for _ in range(2 * LAYERS)]


def held(cache, layer, row):
    """Keys and values that a row holds, ``[N, G, E]``: the packed ones dequantised, in the order of the regions."""
    parts = []
    for region in [side[layer] for side in (cache.packed, cache.coarse) if side]:
        for number in range(int(region.blocks[row])):
            used = int(region.used[row, number])
            heads = [region.parts_of(row, head, number) for head in range(KV_HEADS)]
            parts.append([np.stack([np.concatenate(head[i])[:used] for head in heads], axis=1) for i in range(2)])
    recent = int(cache.recent.length[row])
    sides = (cache.recent.keys[layer], cache.recent.values[layer])
    parts.append([np.asarray(side[row, :, :recent]).swapaxes(0, 1) for side in sides])
    return [np.concatenate([part[i] for part in parts]) for i in range(2)]


def assert_attends_to_what_it_holds(cache, rng, num_new, visible=None):
    """With new tokens appended; returns the cache with them and the new entries."""
    new = entries(rng, num_new)
    after = append(cache, new)
    q = rng.normal(size=(BATCH, num_new, HEADS, WIDTH)).astype(np.float32)
    mask = after.mask(num_new, None if visible is None else jnp.asarray(visible))
    for layer in range(LAYERS):
        out, lse = attend(after, layer, jnp.asarray(q), mask)
        for row in range(BATCH):
            old = held(cache, layer, row)
            keys, values = (np.concatenate([old[i], new[2 * layer + i][row]])[None] for i in range(2))
            allowed = np.ones((1, HEADS, num_new, keys.shape[1]), bool)
            seen = np.tril(np.ones((num_new, num_new), bool)) if visible is None else visible[row]
            allowed[..., keys.shape[1] - num_new :] = seen
            expected, expected_lse = textbook(q[row][None], keys, values, allowed)
            np.testing.assert_allclose(out[row], expected[0], atol=1e-5)
            np.testing.assert_allclose(lse[row], expected_lse[0], atol=1e-5)
    return after, new


@settings(deadline=None, max_examples=2)  # every shape compiles
@given(
    st.integers(0, 10**6),
    st.sampled_from(BITS),
    st.lists(st.sampled_from(["in order", "path", "reject", "forget"]), min_size=3, max_size=5),
)
def test_attends_to_what_was_committed(seed, bits, steps):
    """Old tokens come back within half a step, the newest exactly; drafts, gaps and forgetting as in other layouts."""
    rng = np.random.default_rng(seed)
    cache, kept = empty(bits), [[[] for _ in range(2 * LAYERS)] for _ in range(BATCH)]
    forgot = np.zeros(BATCH, bool)  # and has not filled its window since: what is packed does not come back
    for kind in ["in order", *steps]:
        size = int(rng.choice([4, NEW])) if kind != "in order" else NEW
        size = size if max(len(row[0]) for row in kept) + size <= 64 else 1
        visible = None
        if kind == "path":
            visible = np.tril(rng.random((BATCH, size, size)) < 0.5) | np.eye(size, dtype=bool)
        cache, new = assert_attends_to_what_it_holds(cache, rng, size, visible)
        count = rng.integers(0, size + 1, BATCH)
        path = np.stack([np.sort(rng.permutation(size)) for _ in range(BATCH)])
        for row in range(BATCH):
            path[row, : count[row]] = np.sort(rng.permutation(size)[: count[row]])
        if kind == "reject":
            count[:] = 0
        if kind == "forget":
            count = -rng.integers(0, np.asarray(cache.recent.length) + 1)
        before = cache
        by_path = kind == "path"
        cache = commit(cache, jnp.asarray(path, jnp.int32) if by_path else None, jnp.asarray(count, jnp.int32))
        path = path if by_path else np.broadcast_to(np.arange(size), path.shape)
        for row in range(BATCH):
            for i in range(2 * LAYERS):
                if count[row] < 0:
                    del kept[row][i][count[row] :]
                else:
                    kept[row][i] += list(new[i][row][path[row, : count[row]]])
            old = int(before.packed[0].blocks[row])
            for was, now in zip(before.packed, cache.packed):
                np.testing.assert_array_equal(was.key_codes[row, :, :old], now.key_codes[row, :, :old])
        length = np.asarray([len(row[0]) for row in kept])
        assert cache.length.tolist() == length.tolist()
        recent = np.asarray(cache.recent.length)
        assert (recent < WINDOW + BLOCK).all(), "what has left the window is packed"
        forgot = (forgot | (count < 0)) & (recent < WINDOW)
        assert ((recent >= WINDOW) | (recent == length) | forgot).all(), "and the window is not"
    for row in range(BATCH):
        recent = int(cache.recent.length[row])
        for layer in range(LAYERS):
            for i, side in enumerate(held(cache, layer, row)):
                wanted = np.asarray(kept[row][2 * layer + i]).reshape(-1, KV_HEADS, WIDTH)
                np.testing.assert_array_equal(side[len(side) - recent :], wanted[len(wanted) - recent :])
                error = np.abs(side - wanted)[: len(side) - recent]
                spread = 8 / (2**bits - 1) / 2  # of normal numbers, half a step
                assert (error <= spread).all()


def prompt(rng, lengths, slots=40):
    cache = one_piece.ContiguousCache.create(**SHAPE, capacity=slots)
    cache = cache.replace(keys=tuple(jnp.full_like(array, jnp.nan) for array in cache.keys))
    new = entries(rng, slots)
    for side in new:
        side[np.arange(slots) >= np.asarray(lengths)[:, None]] = np.nan
    return append(cache, new).commit(None, jnp.asarray(lengths, jnp.int32)), new


@pytest.mark.slow
def test_prompts_keep_more_bits_for_what_is_important():
    rng = np.random.default_rng(0)
    lengths = [40, 13, 3]
    plain, new = prompt(rng, lengths)
    important = [jnp.asarray(rng.random((BATCH, plain.capacity)) < 0.4) for _ in range(LAYERS)]
    cache = QuantizedCache.of_prompt(plain, important=important, coarse_bits=2, bits=8, capacity=64, **SIZES)
    most = max(int((~np.asarray(mask)[0, : 40 - WINDOW]).sum()) for mask in important)
    tight = QuantizedCache.of_prompt(
        plain, important=important, coarse_bits=2, bits=8, capacity=64, **SIZES, coarse_capacity=most
    )
    assert tight.coarse[0].key_codes.shape[2] == -(-most // BLOCK) < cache.coarse[0].key_codes.shape[2]
    assert all(map(np.array_equal, held(tight, 1, 0), held(cache, 1, 0)))
    finer = QuantizedCache.of_prompt(
        plain, important=important, coarse_bits=2, bits=8, capacity=64, **SIZES, coarse_key_bits=8
    )
    assert finer.nbytes == cache.nbytes + LAYERS * BATCH * KV_HEADS * 128 * WIDTH * 6 // 8
    chosen = np.asarray(important[0])[0, : 40 - WINDOW]
    wanted = [side[0, : 40 - WINDOW][~chosen] for side in new[:2]]
    errors = [np.abs(side[chosen.sum() : 40 - WINDOW] - one).max() for side, one in zip(held(finer, 0, 0), wanted)]
    assert errors[0] < 8 / 255 / 2
    assert errors[1] > 0.05, "values have two bits as before"
    assert cache.length.tolist() == lengths
    assert cache.recent.length.tolist() == [5, 5, 3]
    assert len(cache.coarse) == LAYERS
    for layer in range(LAYERS):
        for row, length in enumerate(lengths):
            old = max(length - WINDOW, 0)
            chosen = np.asarray(important[layer])[row, :old]
            order = np.concatenate([np.flatnonzero(chosen), np.flatnonzero(~chosen), np.arange(old, length)])
            fine = int(chosen.sum())
            assert int(cache.packed[layer].length[row]) == fine
            for side, wanted in zip(held(cache, layer, row), new[2 * layer : 2 * layer + 2]):
                error = np.abs(side - wanted[row, order])
                assert error.shape[0] == length
                assert (error[:fine] < 8 / 255 / 2).all()
                assert (error[fine:old] < 8 / 3 / 2).all()
                assert old - fine == 0 or error[fine:old].max() > 0.05, "two bits are seen"
                assert (error[old:] == 0).all()
    after, _ = assert_attends_to_what_it_holds(cache, rng, 4)
    for _ in range(4):
        after, _ = assert_attends_to_what_it_holds(after.commit(None, jnp.full(BATCH, 4, jnp.int32)), rng, 4)
    assert (np.asarray(after.packed[0].blocks) > np.asarray(cache.packed[0].blocks)).all(), (
        "later tokens are packed too"
    )


@pytest.mark.slow
def test_prompts_of_one_precision_and_under_jit():
    rng = np.random.default_rng(1)
    plain, _ = prompt(rng, [40, 13, 3])
    cache = QuantizedCache.of_prompt(plain, bits=4, capacity=64, **SIZES)
    assert not cache.coarse
    assert_attends_to_what_it_holds(cache, rng, 2)
    made = jax.jit(lambda plain: QuantizedCache.of_prompt(plain, bits=4, capacity=64, **SIZES))(plain)
    assert made.packed[0].used.tolist() == cache.packed[0].used.tolist()
    differ = [np.asarray(a.key_codes) != np.asarray(b.key_codes) for a, b in zip(made.packed, cache.packed)]
    assert np.mean(differ) < 0.01, "codes at a rounding boundary may differ"


def test_a_prompt_is_packed_as_its_tokens_would_be_one_block_after_another():
    rng = np.random.default_rng(4)
    plain, _ = prompt(rng, [40, 13, 3])
    made = QuantizedCache.of_prompt(plain, bits=4, capacity=64, **SIZES).packed[0]
    region, count = jax.tree.map(jnp.zeros_like, made), jnp.maximum(plain.length - WINDOW, 0)
    for first in range(0, 40, BLOCK):
        piece = (side[0][:, :, first : first + BLOCK] for side in (plain.keys, plain.values))
        region = region.push(*piece, jnp.clip(count - first, 0, BLOCK))
    assert made.blocks.tolist() == [5, 1, 0]
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(region), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_the_program_that_packs_a_prompt_does_not_grow_with_it():
    """A loop over 16k tokens in Python took all memory there was."""

    def operations(slots):
        plain = ContiguousCache.create(**{**SHAPE, "capacity": slots})
        made = jax.make_jaxpr(lambda plain: QuantizedCache.of_prompt(plain, bits=4, capacity=slots, **SIZES))(plain)
        return len(str(made).splitlines())

    assert operations(1024) < 1.1 * operations(128)


@pytest.mark.slow
def test_more_bits_err_less_and_few_tokens_are_exact():
    rng = np.random.default_rng(2)
    plain, _ = prompt(rng, [40, 40, 40])
    q = jnp.asarray(rng.normal(size=(BATCH, 1, HEADS, WIDTH)), jnp.float32)
    new = entries(rng, 1)

    def output(cache):
        cache = append(cache, new)
        return np.asarray(cache.attend(0, q, cache.mask(1, None)))

    exact = output(plain)
    errors = [
        np.abs(output(QuantizedCache.of_prompt(plain, bits=bits, capacity=64, **SIZES)) - exact).mean() for bits in BITS
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0
    whole = QuantizedCache.of_prompt(plain, bits=2, capacity=64, **{**SIZES, "window": 40})
    np.testing.assert_allclose(output(whole), exact, atol=1e-5)


def test_bytes_are_measured_and_fewer():
    sizes = {**SHAPE, "head_dim": 64}
    plain = one_piece.ContiguousCache.create(**sizes, capacity=4096)
    bytes_of = {}
    for bits in BITS:
        cache = QuantizedCache.create(**sizes, bits=bits, capacity=4096)
        assert isinstance(cache, Cache)
        assert cache.capacity == 4096 + 128
        per_token = 2 * 64 * bits / 8 + 2 * 2 * 64 / 16 + 2 * 2
        packed = LAYERS * BATCH * KV_HEADS * 4096 * per_token
        bytes_of[bits] = cache.nbytes
        assert cache.nbytes == packed + cache.recent.nbytes
        pointers = [array.unsafe_buffer_pointer() for array in jax.tree.leaves(cache)]
        assert len(set(pointers)) == len(pointers), "no buffer twice: they are donated"
    assert bytes_of[2] < bytes_of[4] < bytes_of[8] < plain.nbytes / 2


def test_forked_rows_are_copies():
    rng = np.random.default_rng(3)
    cache = append(empty(), entries(rng, NEW)).commit(None, jnp.asarray([20, 13, 2], jnp.int32))
    forked = cache.fork(jnp.asarray([1, 1, 0, 2]))
    assert forked.length.tolist() == [13, 13, 20, 2]
    for row, origin in enumerate([1, 1, 0, 2]):
        for layer in range(LAYERS):
            for got, wanted in zip(held(forked, layer, row), held(cache, layer, origin)):
                np.testing.assert_array_equal(got, wanted)


def test_bad_settings_are_refused():
    rng = np.random.default_rng(4)
    plain, _ = prompt(rng, [40, 13, 3])
    important = [jnp.zeros((BATCH, plain.capacity), bool)] * LAYERS

    def refused(message, make=empty, **options):
        with pytest.raises(ValueError, match=re.escape(message)):
            make(**options)

    def of_prompt(**options):
        return QuantizedCache.of_prompt(plain, **{"capacity": 64, **SIZES, **options})

    refused("capacity must be at least 1, got 0", capacity=0)
    refused("max_new must be at least 1, got 0", max_new=0)
    refused("window must be at least 0 tokens; got -1", window=-1)
    refused("block must be at least 1 token and a multiple of the 2 codes of a byte; got 0", block=0)
    refused("bits must be one of 2, 4, 8; got 3", bits=3)
    refused("key_bits must be one of 2, 4, 8; got 3", key_bits=3)
    refused("key_group must divide block, 8; got 3", key_group=3)
    refused("channel_group must divide head_dim, 8; got 3", channel_group=3)
    alone = "important and coarse_bits must be given together; got coarse_bits="
    refused(alone + "None", of_prompt, important=important)
    refused(alone + "2", of_prompt, coarse_bits=2)
    refused("coarse_bits must be fewer than bits, 4; got 4", of_prompt, important=important, coarse_bits=4)
    refused(
        "important must have 2 masks of shape [3, 128]; got [[3, 128]]",
        of_prompt,
        important=important[:1],
        coarse_bits=2,
    )
    refused("capacity must be at least the 35 tokens that are packed of a prompt; got 34", of_prompt, capacity=34)
    room = {"important": important, "coarse_bits": 2, "coarse_capacity": 34}
    refused("coarse_capacity must be at least the 35 tokens that are packed of a prompt; got 34", of_prompt, **room)
    with pytest.raises(ValueError, match=f"num_new must be at most max_new, {NEW}; got {NEW + 1}"):
        empty().mask(NEW + 1, None)
