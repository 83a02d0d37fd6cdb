"""Dealing pages out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.cache.pages import NOWHERE, deal, gather, places, read, write


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 3))
def test_every_page_has_one_owner(counts, spare):
    table = np.asarray(deal(jnp.asarray(counts), sum(counts) + spare, width=6))
    assert table.dtype == np.int32
    for row, count in zip(table, counts):
        assert (row[:count] != NOWHERE).all()
        assert (row[count:] == NOWHERE).all()
    dealt = table[table != NOWHERE]
    assert len(set(dealt.tolist())) == len(dealt) == sum(counts)
    assert set(dealt.tolist()) <= set(range(1, sum(counts) + spare + 1))


def test_too_few_pages_are_refused_where_that_is_known():
    with pytest.raises(ValueError, match="num_pages must be at least 5, what the rows need together; there are 4"):
        deal(jnp.asarray([2, 3]), 4, width=3)
    table = jax.jit(lambda counts: deal(counts, 4, width=3))(jnp.asarray([2, 3]))
    assert table.tolist() == [[1, 2, 0], [3, 4, 0]], "no page outside of the pool"


def test_what_is_written_is_read_and_what_has_no_page_goes_nowhere():
    rng = np.random.default_rng(0)
    pool = jnp.asarray(rng.normal(size=(4, 2, 1, 3)), jnp.float32)
    table = jnp.asarray([[3, 1, NOWHERE], [2, NOWHERE, NOWHERE]])
    slots = jnp.asarray([[1, 2, 3], [1, 2, 9]])  # the second row has two slots; slot 9 is behind the table too
    place = places(table, slots, 2)
    new = jnp.asarray(rng.normal(size=(2, 3, 1, 3)), jnp.float32)
    written = write(pool, new, place)
    np.testing.assert_array_equal(read(written, place)[0], new[0])
    np.testing.assert_array_equal(read(written, place)[1, 0], new[1, 0])
    untouched = [(3, 0), (2, 0)]
    for page, slot in untouched:
        np.testing.assert_array_equal(written[page, slot], pool[page, slot])
    rows = gather(written, table[:, :2])
    assert rows.shape == (2, 1, 4, 3)
    np.testing.assert_array_equal(rows[0, 0], [pool[3, 0, 0], *new[0, :, 0]])
