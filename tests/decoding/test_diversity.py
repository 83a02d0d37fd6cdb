"""The diversity terms against counting in plain Python, on arbitrary texts."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.decoding import diversity
from jaxdec.decoding.diversity import DIVERSITIES, EarlierGroups
from tests.decoding.beam_reference import overlap

VOCAB, ROWS, EARLIER, WIDTH, POSITIONS = 3, 2, 3, 2, 12

cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "counts": st.lists(st.booleans(), min_size=ROWS * EARLIER, max_size=ROWS * EARLIER),
        "prompt_length": st.lists(st.integers(1, 4), min_size=ROWS, max_size=ROWS),
        "new": st.lists(st.integers(0, 7), min_size=ROWS, max_size=ROWS),  # generated before this step
    }
)


def overlap_of(name, earlier, tokens, prompt_length, length, table, ngram_size):
    if name == "hamming":
        return diversity.hamming(earlier, length, VOCAB)
    if name == "cumulative":
        return diversity.cumulative(earlier, prompt_length, length, VOCAB)
    if name == "ngram":
        return diversity.ngram(earlier, tokens, prompt_length, length, VOCAB, ngram_size)
    return diversity.embedding(earlier, length, table)


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(DIVERSITIES), st.integers(1, 4), cases)
def test_equals_counting_by_hand(name, ngram_size, case):
    rng = np.random.default_rng(case["seed"])
    prompt_length, length = (np.array(n) for n in (case["prompt_length"], np.add(case["prompt_length"], case["new"])))
    # All texts of a prompt begin with it; what lies behind a text's end is noise.
    tokens = rng.integers(0, VOCAB, (ROWS, EARLIER + WIDTH, POSITIONS))
    for row, size in enumerate(prompt_length):
        tokens[row, :, :size] = tokens[row, :1, :size]
    counts = np.array(case["counts"]).reshape(ROWS, EARLIER)
    table = rng.normal(size=(VOCAB, 3))
    earlier = EarlierGroups(jnp.asarray(tokens[:, :EARLIER]), jnp.asarray(counts))
    found = overlap_of(
        name,
        earlier,
        jnp.asarray(tokens[:, EARLIER:]),
        jnp.asarray(prompt_length),
        jnp.asarray(length),
        jnp.asarray(table, jnp.float32),
        ngram_size,
    )
    found = np.broadcast_to(found, (ROWS, WIDTH, VOCAB))
    for row, (start, now) in enumerate(zip(prompt_length, length)):
        prompt = tuple(tokens[row, 0, :start].tolist())
        others = [tuple(tokens[row, k, start : now + 1].tolist()) for k in range(EARLIER) if counts[row, k]]
        for beam in range(WIDTH):
            own = tuple(tokens[row, EARLIER + beam, start:now].tolist())
            expected = [overlap(name, others, own, c, prompt, ngram_size, table.tolist()) for c in range(VOCAB)]
            np.testing.assert_allclose(found[row, beam], expected, atol=1e-5)


def test_unigrams_are_the_cumulative_form():
    """An n-gram of one token is a token."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, (ROWS, EARLIER, POSITIONS)))
    earlier = EarlierGroups(tokens, jnp.ones((ROWS, EARLIER), bool))
    prompt_length, length = jnp.asarray([1, 3]), jnp.asarray([6, 9])
    ngram = diversity.ngram(earlier, tokens[:, :1], prompt_length, length, VOCAB, 1)
    np.testing.assert_array_equal(ngram, diversity.cumulative(earlier, prompt_length, length, VOCAB))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_a_word_without_direction_is_like_nothing(dtype):
    """A zero embedding gives cosine 0, not NaN; the same word gives 1."""
    table = jnp.asarray([[0.0, 0.0], [3.0, 4.0], [-3.0, -4.0]], dtype)
    earlier = EarlierGroups(jnp.asarray([[[0, 0], [1, 1]]]), jnp.asarray([[True, True]]))
    found = diversity.embedding(earlier, jnp.asarray([1]), table)
    np.testing.assert_allclose(found[0, 0], [0, 1, 0], atol=1e-6)
