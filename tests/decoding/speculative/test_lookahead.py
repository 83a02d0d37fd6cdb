"""Lookahead decoding: window and pool against plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.decoding import Prompt, stream
from jaxdec.decoding.speculative import Lookahead, Speculative
from jaxdec.decoding.speculative.lookahead import merge_branches
from jaxdec.decoding.speculative.tree import ancestors, check_tree
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.reference import full_logits
from tests.tiny_models import tiny_transformer


def reference_pool(found, places, most):
    """Insert n-grams in order: newest first token takes a place over, oldest n-gram of a place is overwritten."""
    pool = {}
    for first, *rest in found:
        key, kept, cursor = pool.get(first % places, (None, [None] * most, 0))
        if key != first:
            kept, cursor = [None] * most, 0
        if tuple(rest) not in kept:
            kept = [tuple(rest) if i == cursor else old for i, old in enumerate(kept)]
            cursor = (cursor + 1) % most
        pool[first % places] = (first, kept, cursor)
    return {place: (first, [ngram for ngram in kept if ngram]) for place, (first, kept, _) in pool.items()}


insert = jax.jit(Lookahead.insert, static_argnums=0)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), max_size=12))
def test_the_pool_holds_what_a_plain_one_holds(found):
    method = Lookahead(ngram_size=3, window_size=2, max_guesses=2, pool_size=3)
    model = tiny_transformer()
    empty = method.init(model, Prompt.create([[1, 2]], 5))
    row = type(empty)(
        window=empty.window[0], keys=jnp.full(3, -1, jnp.int32), ngrams=jnp.full((3, 2, 2), -1, jnp.int32),
        cursor=jnp.zeros(3, jnp.int32),
    )  # fmt: skip
    ignored = [[-1, 0, 0]] * (12 - len(found))
    row = insert(method, row, jnp.asarray(found + ignored, jnp.int32))
    expected = reference_pool(found, 3, 2)
    for place in range(3):
        first, kept = expected.get(place, (-1, []))
        assert int(row.keys[place]) == first
        assert [tuple(ngram) for ngram in row.ngrams[place].tolist() if ngram[0] >= 0] == kept


def test_the_prompts_own_ngrams_are_in_the_pool():
    method = Lookahead(ngram_size=3, window_size=2, max_guesses=4, pool_size=64)
    state = method.init(tiny_transformer(), Prompt.create([[1, 2, 3, 1, 2, 5], [7, 8]], 5))
    assert [ngram for ngram in state.ngrams[0, 1].tolist() if ngram[0] >= 0] == [[2, 3], [2, 5]]
    assert (state.keys[1] == -1).all(), "two tokens hold no 3-gram"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(-1, 2), min_size=3, max_size=3), min_size=3, max_size=3))
def test_branches_that_begin_alike_are_merged(branches):
    tokens, parents, valid = merge_branches(jnp.asarray([branches], jnp.int32))
    paths = []
    for token, parent, ok in zip(tokens[0].tolist(), parents[0].tolist(), valid[0].tolist()):
        paths.append(((paths[parent] if parent >= 0 else ()) + (token,)) if ok else None)
    found = [path for path in paths if path is not None]
    expected = set()
    for branch in branches:
        real = branch[: branch.index(-1)] if -1 in branch else branch
        expected |= {tuple(real[: i + 1]) for i in range(len(real))}
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_the_window_is_a_jacobi_iteration():
    """Each step, a column's new token is the model's choice behind text, row 0 up to the column, and the column itself."""
    model = tiny_transformer(scale=4.0)
    method = Speculative(Lookahead(ngram_size=4, window_size=3, max_guesses=2, pool_size=64))
    prompt = Prompt.create([[3, 1, 4, 1, 5]], 9)
    previous = None
    for state in stream(method, model, prompt):
        window = np.asarray(state.drafter.window[0])
        if previous is not None:
            text, before = previous
            np.testing.assert_array_equal(window[:-1], before[1:])
            for column in range(3):
                guesses = [*before[0, : column + 1], *before[1:, column]]
                logits = full_logits(model, [*text, *map(int, guesses)])
                assert int(window[-1, column]) == int(logits[-1].argmax())
        previous = state.tokens[0, : int(state.length[0])].tolist(), window


def test_the_tree_has_the_shape_of_the_paper():
    method = Lookahead(ngram_size=3, window_size=3, max_guesses=2, pool_size=16)
    model, prompt = tiny_transformer(), Prompt.create([[1, 2, 3, 1]], 5)
    text = next(iter(stream(Speculative(method), model, prompt)))
    tree, _ = method.propose(model, text.drafter, text)
    check_tree(tree, model.vocab_size, method.max_depth)
    assert tree.num_nodes == method.num_nodes == (2 + 3) * 2
    depth = np.asarray(ancestors(tree, method.max_depth).sum(-1) - 1)[0, 1:]
    assert depth[4:].tolist() == [1, 2, 2, 3, 3, 4], "entry (r, j) lies 1 + j + r behind the root"
    assert not tree.candidate[0, 4:].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ngram_size": 1}, "ngram_size must be at least 2, got 1"),
        ({"window_size": 0}, "window_size must be at least 1, got 0"),
        ({"max_guesses": 0}, "max_guesses must be at least 1, got 0"),
        ({"pool_size": 0}, "pool_size must be at least 1, got 0"),
    ],
)
def test_settings_without_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Lookahead(**arguments)
