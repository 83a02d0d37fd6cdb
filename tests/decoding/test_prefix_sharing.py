"""Shared beginnings: the trie found is right, and texts decoded with sharing are those without."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.cache import SharedPrefixCache
from jaxdec.decoding import Autoregressive, BeamSearch, DiverseBeamSearch, Prompt, Sampling, decode
from jaxdec.decoding.loop import start
from jaxdec.decoding.prefill import prefill
from jaxdec.decoding.prefix_sharing import Node, PrefixSharing, find_levels, given_levels, sorted_rows
from jaxdec.decoding.speculative import DraftModel, PromptLookup, Speculative
from jaxdec.models.layer_skip import skip_layers
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.tiny_models import tiny_transformer

STEM, LEFT, RIGHT = [5, 6, 7, 8, 9], [1, 2, 3, 4], [2, 2, 3]
TREE_PROMPTS = [
    [*STEM, *LEFT, 7],
    [*STEM, *LEFT, 8, 8, 8],
    [*STEM, *RIGHT, 1],
    [*STEM, *RIGHT, 9, 1],
    [*STEM, *RIGHT, 9, 1],
    [11, 12, 13],
]


def test_the_tree_of_a_batch():
    # rows 3 and 4 are equal, and both must keep their last token
    assert find_levels(TREE_PROMPTS, 2) == [
        [Node(0, 5, 0, 5)],
        [Node(0, 2, 5, 9), Node(2, 5, 5, 8)],
    ]
    assert find_levels(TREE_PROMPTS, 1)[2] == [Node(3, 5, 8, 9)]
    assert find_levels(TREE_PROMPTS, 6) == [
        [Node(0, 2, 0, 9), Node(2, 5, 0, 8)]
    ]  # too short a stem goes to its branches
    assert find_levels(TREE_PROMPTS, 12) == []
    assert find_levels([[1, 2, 3]], 1) == []
    with pytest.raises(ValueError, match="least_tokens must be at least 1, got 0"):
        find_levels(TREE_PROMPTS, 0)


PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(PROMPTS, st.integers(1, 4))
def test_nodes_are_shared_nested_and_leave_every_row_a_token(prompts, least):
    prompts = [prompts[row] for row in sorted_rows(prompts)]
    levels = find_levels(prompts, least)
    shared = [0] * len(prompts)
    for depth, nodes in enumerate(levels):
        assert nodes
        assert all(one.end <= two.begin for one, two in itertools.pairwise(nodes))
        for node in nodes:
            rows = range(node.begin, node.end)
            assert len(rows) >= 2
            assert node.stop - node.start >= least
            assert {tuple(prompts[row][: node.stop]) for row in rows} == {tuple(prompts[node.begin][: node.stop])}
            assert all(shared[row] == node.start and len(prompts[row]) > node.stop for row in rows)
            if depth and node.start:
                assert any(up.begin <= node.begin and node.end <= up.end for up in levels[depth - 1])
        for node in nodes:
            shared[node.begin : node.end] = [node.stop] * (node.end - node.begin)
    if least == 1:  # then nothing that neighbours have in common is missed
        for row, (one, two) in enumerate(itertools.pairwise(prompts)):
            size = min(len(one), len(two)) - 1
            common = next((i for i in range(size) if one[i] != two[i]), size)
            assert min(shared[row], shared[row + 1]) >= common or shared[row] == shared[row + 1] == common


def test_given_trees_are_checked():
    tree = [[(5, 5), (1, 0)], [(2, 4), (3, 3), (1, 0)]]
    assert given_levels(TREE_PROMPTS, tree) == find_levels(TREE_PROMPTS, 2)
    for wrong, message in [
        ([[(5, 5)]], "level 0: its segments have 5 rows, the batch has 6"),
        ([[(9, 5)]], "level 0: its segments have 9 rows, the batch has 6"),
        ([[(6, 5)]], "level 0: rows 0 to 5 are said to share 5 tokens; prompt 5 has 3, and must keep"),
        ([[(3, 8), (3, 0)]], "prompt 2 has another token than prompt 0 at position 5"),
        ([[(3, 5), (3, 0)], [(2, 0), (4, 0)]], "level 1: a segment spans row 3, where one of the level above ends"),
        ([[(0, 5), (6, 0)]], "level 0: a segment needs at least 1 row and 0 tokens, got \\(0, 5\\)"),
        ([[(6, -1)]], "got \\(6, -1\\)"),
        ([[]], "level 0 is empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            given_levels(TREE_PROMPTS, wrong)


def both(prompts, levels, **options):
    """The batch as it is, and with its shared beginnings kept once."""
    prompt = Prompt.create(prompts, 9, seed=3, eos_tokens=[0], **options)
    return prompt, prompt.replace(sharing=PrefixSharing.of(prompts, levels, 9, prompt.capacity))


METHODS = {
    "greedy": Autoregressive(),
    "samples": Autoregressive(Sampling(0.9), num_samples=3),
    "beams": BeamSearch(3),
    "diverse_beams": DiverseBeamSearch(4, 2, diversity_strength=0.5),
    "prompt_lookup": Speculative(PromptLookup(4)),
    "tree": Speculative(DraftModel((2, 2)), Sampling(0.8), num_samples=2),
}


SLOW = {"prompt_lookup", "diverse_beams", "beams", "tree", "greedy"}  # the contract suite has the like in float64


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in METHODS])
def test_texts_are_those_without_sharing(name):
    model = tiny_transformer(scale=4.0)
    model = model.accompanied(draft=skip_layers(model, (0,)))
    plain, shared = both(TREE_PROMPTS, find_levels(TREE_PROMPTS, 2))
    expected, found = decode(METHODS[name], model, plain), decode(METHODS[name], model, shared)
    assert found.tokens.tolist() == expected.tokens.tolist()
    np.testing.assert_allclose(found.log_prob, expected.log_prob, atol=1e-3)
    assert found.target_calls.tolist() == expected.target_calls.tolist()


def test_entries_are_those_of_each_prompt_alone_and_bytes_follow_the_formula():
    model = tiny_transformer(scale=4.0)
    rng = np.random.default_rng(0)
    stem = rng.integers(0, 41, 64).tolist()
    prompts = [stem + rng.integers(0, 41, 3).tolist() for _ in range(4)]
    plain, shared = both(prompts, find_levels(prompts, 8))
    cache = start(Autoregressive(), model, shared).cache
    assert isinstance(cache, SharedPrefixCache)
    assert cache.levels[0].length.tolist() == [64]
    entries = cache.unshared()
    _, fresh = prefill(model, plain.tokens, plain.length, plain.capacity)
    assert entries.length.tolist() == fresh.length.tolist() == cache.length.tolist() == [67] * 4
    for kept, wanted in zip((*entries.keys, *entries.values), (*fresh.keys, *fresh.values)):
        np.testing.assert_allclose(kept[:, :, :67], wanted[:, :, :67], atol=1e-4)
    per_token = fresh.nbytes // (4 * fresh.capacity)
    assert cache.nbytes == per_token * (64 + 4 * cache.own.capacity)
    assert cache.capacity == cache.own.capacity == 128


def test_samples_of_one_prompt_keep_it_once():
    model = tiny_transformer(scale=4.0)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 41, 70).tolist(), rng.integers(0, 41, 64).tolist()]
    _, shared = both(prompts, [])
    cache = start(Autoregressive(Sampling(1.0), num_samples=5), model, shared).cache
    assert cache.levels[0].spans == ((0, 5), (5, 10))
    assert cache.levels[0].length.tolist() == [70, 64]
    assert cache.own.length.tolist() == [0] * 10
    assert cache.length.tolist() == [70] * 5 + [64] * 5


@pytest.mark.slow
def test_long_prompts_are_fed_in_chunks(monkeypatch):
    from jaxdec.decoding import chunks as module

    monkeypatch.setattr(module, "LARGEST_CHUNK", 7)
    model = tiny_transformer(seed=1, scale=4.0)
    plain, shared = both(TREE_PROMPTS, find_levels(TREE_PROMPTS, 2))
    expected = decode(Autoregressive(), model, plain)
    assert decode(Autoregressive(), model, shared).tokens.tolist() == expected.tokens.tolist()


@pytest.mark.slow
def test_what_lies_behind_a_segment_is_never_read():
    model = tiny_transformer(scale=4.0)
    _, shared = both(TREE_PROMPTS, find_levels(TREE_PROMPTS, 2))
    state = start(Autoregressive(), model, shared)

    def poisoned(level):
        unused = jnp.arange(level.keys[0].shape[1]) >= level.length[:, None]

        def poison(buffer):
            return jnp.where(unused[..., None, None], jnp.nan, buffer)

        return level.replace(keys=tuple(map(poison, level.keys)), values=tuple(map(poison, level.values)))

    cache = state.cache.replace(levels=tuple(map(poisoned, state.cache.levels)))
    tokens, positions = state.tokens[:, :1], state.cache.length[:, None]
    clean = model(tokens, positions, state.cache).logits
    assert bool(jnp.isnan(cache.levels[0].keys[0]).any())
    np.testing.assert_array_equal(model(tokens, positions, cache).logits, clean)


@pytest.mark.slow
def test_rows_cannot_leave_their_span():
    model = tiny_transformer()
    _, shared = both(TREE_PROMPTS, find_levels(TREE_PROMPTS, 2))
    cache = start(Autoregressive(), model, shared).cache
    with pytest.raises(ValueError, match="rows must be a multiple of the 6 rows there are; got 4"):
        cache.fork(jnp.arange(4))


def test_another_layout_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Other:
        module: object
        vocab_size = 41
        max_positions = 99

        def init_cache(self, batch_size, capacity):
            return SharedPrefixCache((), model.init_cache(batch_size, capacity))

        def apply(self, *arguments):
            raise AssertionError

    model = tiny_transformer()
    other = model.replace(module=Other(model.module))
    _, shared = both(TREE_PROMPTS, find_levels(TREE_PROMPTS, 2))
    with pytest.raises(
        ValueError, match="share_prefixes needs a model with a contiguous cache, this one has a SharedPrefixCache"
    ):
        jax.eval_shape(Autoregressive().init, other, shared)
