"""Retrieval against a search through the whole collection."""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.checkpoints import CheckpointError
from jaxdec.decoding import Prompt, decode
from jaxdec.decoding.speculative import Speculative, SuffixRetrieval
from jaxdec.decoding.speculative.datastore import build_datastore, load_datastore, save_datastore
from jaxdec.decoding.speculative.tree import DraftTree, check_tree
from tests.tiny_models import tiny_transformer

collections = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), min_size=1, max_size=4)
PADDED = 24


def occurrences(collection, suffix):
    """Continuations of every occurrence, to the end of its text."""
    found = []
    for text in collection:
        for start in range(len(text) - len(suffix) + 1):
            if text[start : start + len(suffix)] == suffix:
                found.append(tuple(text[start + len(suffix) :]))
    return found


@settings(deadline=None, max_examples=20)
@given(collections)
def test_suffixes_are_in_order(collection):
    datastore = build_datastore(collection, 3)
    flat = [token for text in collection for token in (*text, -1)]
    assert datastore.tokens.tolist() == flat
    ordered = [flat[start : start + 32] for start in datastore.suffixes.tolist()]
    assert ordered == sorted(ordered)
    assert sorted(datastore.suffixes.tolist()) == list(range(len(flat)))


@functools.partial(jax.jit, static_argnums=0)
def retrieve(method, datastore, tokens, length):
    found = method.find(datastore, tokens, length)
    return found, method.most_frequent(method.continuations(datastore, *found))


@settings(deadline=None, max_examples=60)
@given(collections, st.lists(st.integers(0, 3), min_size=1, max_size=PADDED))
def test_finds_the_longest_suffix_and_counts_what_followed(collection, text):
    method = SuffixRetrieval(num_nodes=7, max_depth=3, max_suffix=5, min_suffix=1, max_matches=128)
    # A fixed size, so that one program serves all examples: tokens that never occur in a text.
    datastore = build_datastore([*collection, [4] * (130 - sum(len(t) + 1 for t in collection))], 5)
    padded = jnp.asarray((text + [0] * PADDED)[:PADDED], jnp.int32)
    (_, count, size), (tokens, parents, valid) = retrieve(method, datastore, padded, jnp.int32(len(text)))
    longest = next((n for n in range(min(5, len(text)), 0, -1) if occurrences(collection, text[-n:])), 0)
    assert int(size) == longest
    check_tree(DraftTree(*(x[None] for x in (tokens, parents, valid, valid))), 5, 3)
    if not longest:
        assert int(count) == 0
        assert not valid.any()
        return
    matches = occurrences(collection, text[-longest:])
    assert int(count) == len(matches)
    frequency = Counter(match[: d + 1] for match in matches for d in range(min(3, len(match))))
    paths = []
    for token, parent, ok in zip(tokens.tolist(), parents.tolist(), valid.tolist()):
        paths.append(((paths[parent] if parent >= 0 else ()) + (token,)) if ok else None)
    found = [path for path in paths if path is not None]
    assert len(found) == min(7, len(frequency))
    order = sorted((-count, len(path)) for path, count in frequency.items())
    assert [(-frequency[path], len(path)) for path in found] == order[: len(found)]


def test_many_occurrences_are_sampled_at_equal_distances():
    """Of 300 occurrences with three continuations, 8 are looked at: the frequent one is still found first."""
    collection = [[1, 2, 0] for _ in range(60)] + [[1, 2, 1] for _ in range(200)] + [[1, 2, 2] for _ in range(40)]
    method = SuffixRetrieval(num_nodes=3, max_depth=1, max_suffix=2, min_suffix=2, max_matches=8)
    text = jnp.asarray([0, 1, 2, 0], jnp.int32)
    (_, count, _), (tokens, _, valid) = retrieve(method, build_datastore(collection, 3), text, jnp.int32(3))
    assert int(count) == 300
    assert valid.all()
    assert tokens.tolist() == [1, 0, 2]


def test_files_keep_everything_and_damage_is_noticed(tmp_path):
    datastore = build_datastore([[1, 2, 3], [2, 3]], 9)
    path = tmp_path / "datastore.safetensors"
    save_datastore(path, datastore)
    again = load_datastore(path)
    np.testing.assert_array_equal(again.tokens, datastore.tokens)
    np.testing.assert_array_equal(again.suffixes, datastore.suffixes)
    assert again.vocab_size == 9
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="is no jaxdec datastore, or cut short"):
        load_datastore(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_datastore([[]], 5), "texts is empty"),
        (lambda: build_datastore([[5]], 5), r"token id 5, outside the vocabulary \[0, 5\)"),
        (lambda: build_datastore([[-2]], 5), "token id -2, outside"),
        (lambda: SuffixRetrieval(num_nodes=0), "num_nodes must be at least 1, got 0"),
        (lambda: SuffixRetrieval(max_suffix=1), r"max_suffix must be at least min_suffix \(2\), got 1"),
        (
            lambda: SuffixRetrieval(max_suffix=33),
            "max_suffix must be at most 32, by which datastores are ordered, got 33",
        ),
        (lambda: SuffixRetrieval(num_nodes=9, max_depth=2, max_matches=4), r"at most max_matches \* max_depth \(8\)"),
    ],
)
def test_input_without_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_missing_or_foreign_collection_is_refused():
    method, model, prompt = Speculative(SuffixRetrieval()), tiny_transformer(), Prompt.create([[1]], 2)
    with pytest.raises(ValueError, match="suffix_retrieval needs a datastore"):
        decode(method, model, prompt)
    with pytest.raises(ValueError, match="built for a vocabulary of 5 tokens, the model has 41"):
        decode(method, model.accompanied(datastore=build_datastore([[1, 2]], 5)), prompt)
