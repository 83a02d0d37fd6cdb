"""The paged layout: what the contiguous one does, in as many pages as the rows need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.cache import Cache, ContiguousCache, PagedCache
from jaxdec.cache.paged import PAGE_SIZE
from tests.cache import test_contiguous as one_piece
from tests.cache.test_contiguous import HEADS, KV_HEADS, LAYERS, WIDTH, append, committed, entries


def sizes(**changes):
    return {"num_layers": LAYERS, "num_kv_heads": KV_HEADS, "head_dim": WIDTH, "dtype": jnp.float32, **changes}


def empty(room, page_size: int = 4, capacity: int = 32, spare: int = 0) -> PagedCache:
    """A cache whose pages all hold NaN, that of nobody too."""
    room = np.asarray(room)
    num_pages = int((-(-room // page_size)).sum()) + spare
    cache = PagedCache.create(jnp.asarray(room), **sizes(num_pages=num_pages, capacity=capacity, page_size=page_size))
    nan = tuple(jnp.full_like(array, jnp.nan) for array in cache.keys)
    return cache.replace(keys=nan, values=nan)


def plan(rng, batch: int, steps: int):
    """Per step: new tokens, how many of them each row keeps (negative: it forgets), whether by a path."""
    length, made = np.zeros(batch, int), []
    for _ in range(steps):
        size = int(rng.choice([1, 4]))
        kind = rng.choice(["in order", "path", "forget"])
        count = rng.integers(0, size + 1, batch)
        if kind == "forget":
            count = -rng.integers(0, length + 1)
        made.append((size, kind, count))
        length = length + count
    return made


@pytest.mark.slow
@settings(deadline=None, max_examples=3)  # every shape compiles
@given(st.integers(0, 10**6), st.sampled_from([1, 3]), st.sampled_from([1, 4, 6, 128]))
def test_does_what_the_contiguous_layout_does(seed, batch, page_size):
    """Rows have room for what they keep and for some of what they do not: what has no page is lost, and nothing else."""
    rng = np.random.default_rng(seed)
    steps = plan(rng, batch, 4)
    kept, full = np.zeros(batch, int), np.zeros(batch, int)
    length = np.zeros(batch, int)
    for size, _, count in steps:
        full = np.maximum(full, length + size)
        length = length + count
        kept = np.maximum(kept, length)
    room = np.maximum(rng.integers(kept, full + 1), 1)
    paged, plain = empty(room, page_size), one_piece.empty(batch)
    room = -(-room // page_size) * page_size
    for size, kind, count in steps:
        new = entries(rng, batch, size)
        paged, plain = append(paged, new), append(plain, new)
        visible = None
        if kind == "path":
            visible = jnp.asarray(np.tril(rng.random((batch, size, size)) < 0.5) | np.eye(size, dtype=bool))
        queries = jnp.asarray(rng.normal(size=(batch, size, HEADS, WIDTH)), jnp.float32)
        has_page = np.asarray(plain.length)[:, None] + np.arange(size) < room[:, None]
        for layer in range(LAYERS):
            got, wanted = (cache.attend(layer, queries, cache.mask(size, visible)) for cache in (paged, plain))
            assert np.isfinite(got).all()
            np.testing.assert_allclose(got[has_page], wanted[has_page], atol=2e-6)
        path = None
        if kind == "path":  # of entries that have a page; strictly increasing, and rubbish behind what counts
            free = np.minimum(size, room - np.asarray(plain.length))
            chosen = [np.sort(rng.permutation(most)[:number]) for most, number in zip(free, count)]
            path = [np.concatenate([some, rng.integers(0, size, size - len(some))]) for some in chosen]
            path = jnp.asarray(np.stack(path), jnp.int32)
        paged, plain = (cache.commit(path, jnp.asarray(count, jnp.int32)) for cache in (paged, plain))
        assert paged.length.tolist() == plain.length.tolist()
        for row in range(batch):
            for got, wanted in zip(committed(paged.contiguous(), row), committed(plain, row)):
                np.testing.assert_array_equal(got, wanted)


def filled(room, **options):
    room = np.asarray(room)
    new = entries(np.random.default_rng(0), len(room), int(room.max()))
    return append(empty(room, **options), new).commit(None, jnp.asarray(room, jnp.int32)), new


def assert_rows(cache: PagedCache, new, rows):
    """Row ``r`` holds the entries of row ``rows[r]`` of ``new``."""
    whole = cache.contiguous()
    for row, origin in enumerate(rows):
        length = int(cache.length[row])
        for got, wanted in zip(committed(whole, row), new):
            np.testing.assert_array_equal(got, wanted[origin, :length])


def test_what_is_appended_behind_a_rows_pages_goes_nowhere():
    cache, new = filled([4, 9, 2])
    assert cache.pages.tolist() == [1, 3, 1]
    after = append(cache, entries(np.random.default_rng(1), 3, 15))
    assert_rows(after, new, range(3))
    for before, now in zip(cache.keys, after.keys):
        assert np.isnan(now[1:]).sum() < np.isnan(before[1:]).sum(), "what fits is written"


def test_nan_does_not_reach_other_rows_through_the_page_of_nobody():
    """The last row writes NaN there, and others write there too: what they lose is not what they read."""
    cache, _ = filled([4, 2, 9])
    new = [array.copy() for array in entries(np.random.default_rng(1), 3, 7)]
    for array in new:
        array[2] = np.nan
    cache = append(cache, new)
    assert np.isnan(cache.values[0][0]).all()
    queries = jnp.ones((3, 7, HEADS, WIDTH))
    assert np.isfinite(cache.attend(0, queries, cache.mask(7, None))[:2]).all()


@pytest.mark.parametrize("compiled", [False, True])
def test_forked_rows_are_copies_with_pages_of_their_own(compiled):
    cache, new = filled([4, 9, 2, 9], spare=1)
    fork = jax.jit(lambda cache, rows: cache.fork(rows)) if compiled else PagedCache.fork
    for rows in ([2, 1, 0, 3], [0, 3, 2, 3], [0, 0, 1, 1, 2, 2, 3, 3], [1, 2]):
        forked = fork(cache, jnp.asarray(rows))
        assert forked.length.tolist() == [[4, 9, 2, 9][row] for row in rows]
        assert_rows(forked, new, rows)
        dealt = np.asarray(forked.page_table)[np.asarray(forked.page_table) != 0]
        assert len(set(dealt.tolist())) == len(dealt)
        assert forked.nbytes == cache.nbytes if len(rows) <= 4 else forked.nbytes < 2 * cache.nbytes
        more = append(forked, entries(np.random.default_rng(2), len(rows), 3))
        assert_rows(more, new, rows)


def test_a_fork_that_does_not_fit_is_refused():
    cache, _ = filled([4, 9, 2])
    with pytest.raises(ValueError, match="num_pages must be at least 9, what the rows need together; there are 5"):
        cache.fork(jnp.asarray([1, 1, 1]))


@pytest.mark.slow
def test_a_rows_attention_does_not_depend_on_the_rows_beside_it():
    """With pages of the default size; and it is that of the contiguous layout, up to rounding."""
    rng = np.random.default_rng(3)
    room = np.array([300, 7, 140, 129])
    cache, new = filled(room, page_size=PAGE_SIZE, capacity=384)
    plain = append(one_piece.empty(4, 384), new).commit(None, jnp.asarray(room, jnp.int32))
    cache, plain = (held.commit(None, jnp.full(4, -3, jnp.int32)) for held in (cache, plain))
    queries = jnp.asarray(rng.normal(size=(4, 3, HEADS, WIDTH)), jnp.float32)
    attend = jax.jit(lambda cache, queries: cache.attend(1, queries, cache.mask(3, None)))
    together = attend(cache, queries)
    np.testing.assert_allclose(together, attend(plain, queries), atol=1e-6)
    others = np.array([300, 260, 3, 129])
    beside = filled(others, page_size=PAGE_SIZE, capacity=384)[0].commit(None, jnp.full(4, -3, jnp.int32))
    for row in (0, 3):
        np.testing.assert_array_equal(attend(beside, queries)[row], together[row])
    for rows in ([1, 3], [2, 0]):  # products of another batch size round differently
        alone = attend(cache.fork(jnp.asarray(rows)), queries[jnp.asarray(rows)])
        np.testing.assert_allclose(alone, together[jnp.asarray(rows)], atol=1e-6)


def test_nbytes_follow_the_rows_and_not_the_longest():
    room = np.array([1000, 40, 130, 12, 128])
    per_token = 2 * LAYERS * KV_HEADS * WIDTH * 4
    cache = empty(room, page_size=PAGE_SIZE, capacity=1000)
    assert isinstance(cache, Cache)
    assert cache.nbytes == per_token * PAGE_SIZE * (8 + 1 + 2 + 1 + 1 + 1), "pages of all rows, and that of nobody"
    plain = ContiguousCache.create(**sizes(batch_size=5, capacity=1000))
    assert plain.nbytes == per_token * 5 * 1024
    assert cache.capacity == plain.capacity == 1024
    assert cache.contiguous().nbytes == plain.nbytes


@pytest.mark.parametrize("name", ["num_layers", "num_pages", "capacity", "page_size"])
def test_sizes_below_one_are_refused(name):
    given_sizes = {**sizes(num_pages=1, capacity=1, page_size=1), name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        PagedCache.create(jnp.asarray([1]), **given_sizes)


def test_too_few_pages_are_refused():
    with pytest.raises(ValueError, match="num_pages must be at least 3, what the rows need together; there are 2"):
        PagedCache.create(jnp.asarray([5, 4]), **sizes(num_pages=2, capacity=8, page_size=4))
