"""Prompts: padding, buckets, keys, and what is refused."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdec.decoding import Prompt
from jaxdec.decoding.state import bucket


@given(st.integers(1, 10**6), st.sampled_from([16, 64]))
def test_buckets_hold_the_size_and_waste_at_most_half(size, smallest):
    found = bucket(size, smallest)
    assert found >= size
    assert found == smallest or found < 1.5 * size + 1
    assert bucket(found, smallest) == found
    assert found >= bucket(max(1, size - 1), smallest)


def test_buckets_are_few():
    assert len({bucket(size) for size in range(1, 4097)}) == 2 * 8 + 1


def test_prompts_are_padded_and_budgeted():
    prompt = Prompt.create([[1, 2, 3], [4]], [5, 60], eos_tokens=[9], seed=1)
    assert prompt.tokens.shape == (2, 16)
    assert prompt.tokens[0, :3].tolist() == [1, 2, 3]
    assert prompt.length.tolist() == [3, 1]
    assert prompt.max_new_tokens.tolist() == [5, 60]
    assert prompt.eos_tokens.tolist() == [9]
    assert prompt.capacity == 64
    assert Prompt.create([[1] * 16], 49).capacity == 96
    assert Prompt.create([[1]], 1).eos_tokens.tolist() == [-1]


def test_a_row_keeps_its_key_whatever_stands_beside_it():
    def keys(prompt):
        return jax.random.key_data(prompt.keys).tolist()

    one, two = Prompt.create([[1]], 3, seed=4), Prompt.create([[1], [2]], 3, seed=4)
    assert keys(one)[0] == keys(two)[0]
    assert keys(two)[0] != keys(two)[1]
    repeated = two.repeat(3)
    assert len({tuple(key) for key in keys(repeated)}) == 6
    np.testing.assert_array_equal(keys(repeated)[:3], keys(one.repeat(3)))
    assert repeated.length.tolist() == [1] * 6
    assert repeated.tokens[:, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert two.repeat(1) is two


@pytest.mark.parametrize(
    ("prompts", "budget", "options", "message"),
    [
        ([], 1, {}, "prompts is empty"),
        ([[1], []], 1, {}, "prompt 1 is empty: give at least one token"),
        ([[1]], 0, {}, "max_new_tokens must be at least 1, got 0"),
        ([[1], [2]], [3, -1], {}, "max_new_tokens must be at least 1, got -1"),
        ([[1], [2]], [3], {}, "max_new_tokens has 1 entries for 2 prompts"),
        ([[1, 7]], 1, {"vocab_size": 7}, r"prompt 0 has token id 7, outside the vocabulary \[0, 7\)"),
        ([[1, -1]], 1, {"vocab_size": 7}, "prompt 0 has token id -1"),
        ([[1] * 6], 5, {"max_positions": 10}, "together 11: the context of this model is 10 tokens"),
    ],
)
def test_prompts_without_sense_are_refused(prompts, budget, options, message):
    with pytest.raises(ValueError, match=message):
        Prompt.create(prompts, budget, **options)


def test_a_prompt_that_just_fits_is_taken():
    Prompt.create([[1] * 6], 4, max_positions=10)
