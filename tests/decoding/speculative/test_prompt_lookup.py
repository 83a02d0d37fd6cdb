"""Prompt lookup against the authors' loop in plain Python."""

import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.decoding.speculative import PromptLookup
from jaxdec.decoding.speculative.prompt_lookup import find_continuation

PADDED = 40


def reference(text, max_ngram, longest, prefer):
    """``(start, count)`` of the continuation: longest n-gram first, then the first window from the left, or the last one."""
    for n in range(max_ngram, 0, -1):
        if n > len(text):
            continue
        suffix, found = text[-n:], []
        for start in range(len(text) - n):  # not the suffix itself
            end = start + n
            if text[start:end] == suffix and (end + longest <= len(text) if prefer == "earliest" else end < len(text)):
                found.append(end)
        if found:
            end = found[0] if prefer == "earliest" else found[-1]
            return end, min(longest, len(text) - end)
    return 0, 0


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=PADDED), min_size=3, max_size=3),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 4, 10]),
    st.sampled_from(["earliest", "latest"]),
)
def test_finds_what_the_plain_loop_finds(texts, max_ngram, longest, prefer):
    # Behind the text lies what would be a tempting match, and must not be read.
    tokens = jnp.asarray([(text + text * PADDED)[:PADDED] for text in texts], jnp.int32)
    length = jnp.asarray([len(text) for text in texts], jnp.int32)
    start, count = find_continuation(tokens, length, max_ngram, longest, prefer)
    for row, text in enumerate(texts):
        expected_start, expected_count = reference(text, max_ngram, longest, prefer)
        assert int(count[row]) == expected_count
        if expected_count:
            assert int(start[row]) == expected_start


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_nodes": 0}, "num_nodes must be at least 1, got 0"),
        ({"max_ngram": 0}, "max_ngram must be at least 1, got 0"),
        ({"prefer": "best"}, "prefer must be 'earliest' or 'latest', got 'best'"),
    ],
)
def test_settings_without_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PromptLookup(**arguments)
