"""Verification rules against plain Python, tree by tree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.decoding import GREEDY, Guarantee, Sampling
from jaxdec.decoding.speculative import ExactMatch, SpeculativeSampling, TypicalAcceptance
from jaxdec.decoding.speculative.engine import node_depths
from jaxdec.decoding.speculative.tree import DraftTree, ancestors, chain, check_tree

VOCAB, NODES, DEPTH = 5, 7, 3


@st.composite
def trees(draw):
    """One row: parents precede children, siblings differ, some nodes are padding or no candidates."""
    parents, tokens, valid, candidate, depth, taken = [], [], [], [], [], set()
    for node in range(NODES):
        parent = draw(st.integers(-1, node - 1))
        token = draw(st.integers(0, VOCAB - 1))
        level = 1 + (depth[parent] if parent >= 0 else 0)
        ok = draw(st.booleans()) or draw(st.booleans())
        ok = ok and level <= DEPTH and (parent < 0 or valid[parent]) and (parent, token) not in taken
        if ok:
            taken.add((parent, token))
        parents.append(parent)
        tokens.append(token)
        valid.append(ok)
        candidate.append(ok and draw(st.integers(0, 4)) > 0)
        depth.append(level if ok else 1)
    return DraftTree(*(jnp.asarray([x]) for x in (tokens, parents, valid, candidate)))


def lists(tree):
    return (np.asarray(x[0]).tolist() for x in (tree.tokens, tree.parents, tree.valid, tree.candidate))


@settings(deadline=None, max_examples=60)
@given(trees())
def test_ancestors_and_depths(tree):
    check_tree(tree, VOCAB, DEPTH)
    _, parents, valid, _ = lists(tree)
    seen, depths = ancestors(tree, DEPTH)[0], node_depths(tree, DEPTH)[0]
    for node in range(NODES):
        expected = {node + 1}
        if valid[node]:
            up = node
            while up >= 0:
                expected.add(up + 1)
                up = parents[up]
            expected.add(0)
            assert int(depths[node]) == len(expected) - 1
        assert set(np.flatnonzero(seen[node + 1]).tolist()) == expected
    assert np.flatnonzero(seen[0]).tolist() == [0]
    padding = [node + 1 for node in range(NODES) if not valid[node]]
    others = [entry for entry in range(NODES + 1) if entry not in padding]
    assert not np.asarray(seen)[np.ix_(others, padding)].any(), "nothing sees padding"


verify = jax.jit(
    lambda rule, sampling, tree, depth, logits, keys: rule.verify(sampling, tree, depth, logits, keys, DEPTH),
    static_argnums=(0, 1),
)


@settings(deadline=None, max_examples=60)
@given(trees(), st.integers(0, 10**6))
def test_greedy_follows_the_best_tokens_down(tree, seed):
    logits = jnp.asarray(np.random.default_rng(seed).normal(size=(1, NODES + 1, VOCAB)), jnp.float32)
    best = np.asarray(logits[0].argmax(-1)).tolist()
    tokens, parents, _, candidate = lists(tree)
    entry, path = 0, []
    while True:
        below = [n for n in range(NODES) if candidate[n] and parents[n] == entry - 1 and tokens[n] == best[entry]]
        if not below:
            break
        path.append(below[0])
        entry = below[0] + 1
    depth = jnp.pad(node_depths(tree, DEPTH), ((0, 0), (1, 0)))
    keys = jax.random.split(jax.random.key(0), (1, DEPTH + 1))
    for rule in (ExactMatch(), SpeculativeSampling(), TypicalAcceptance()):
        verified = verify(rule, GREEDY, tree, depth, logits, keys)
        assert int(verified.accepted[0]) == len(path)
        assert verified.path[0, : len(path)].tolist() == path
        assert int(verified.bonus[0]) == best[entry]
        assert verified.next_tokens[0].tolist() == best


def test_one_draw_per_entry_is_the_sibling_rule():
    """A tree of two levels with siblings, sampled: the first two tokens follow the target's joint law."""
    rng = np.random.default_rng(3)
    laws = rng.dirichlet(np.ones(VOCAB), size=6)  # behind the root and five nodes
    tree_one = DraftTree(*(jnp.asarray([x]) for x in ([0, 1, 2, 3, 4], [-1, -1, 0, 0, 1], [True] * 5, [True] * 5)))
    rows = 20000
    tree = jax.tree.map(lambda x: jnp.repeat(x, rows, axis=0), tree_one)
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(laws, jnp.float32)), (rows, 6, VOCAB))
    depth = jnp.pad(node_depths(tree, DEPTH), ((0, 0), (1, 0)))
    keys = jax.vmap(lambda key: jax.random.split(key, DEPTH + 1))(jax.random.split(jax.random.key(1), rows))
    verified = jax.tree.map(np.asarray, verify(ExactMatch(), Sampling(), tree, depth, logits, keys).__dict__)
    tokens = np.asarray(tree_one.tokens[0])
    first = np.where(verified["accepted"] > 0, tokens[verified["path"][:, 0]], verified["bonus"])
    np.testing.assert_allclose(np.bincount(first, minlength=VOCAB) / rows, laws[0], atol=0.015)
    for node, entry in ((0, 1), (1, 2)):  # where a node of the first level was accepted, its own law follows
        here = (verified["accepted"] > 0) & (verified["path"][:, 0] == node)
        second = np.where(verified["accepted"] > 1, tokens[verified["path"][:, 1]], verified["bonus"])[here]
        np.testing.assert_allclose(np.bincount(second, minlength=VOCAB) / here.sum(), laws[entry], atol=0.03)


@pytest.mark.parametrize("rule", [ExactMatch(), SpeculativeSampling(), TypicalAcceptance()], ids=repr)
def test_a_tree_without_nodes_leaves_the_bonus_alone(rule):
    tree = chain(jnp.zeros((2, 0), jnp.int32), jnp.zeros(2, jnp.int32))
    logits = jnp.log(jnp.asarray([[[0.1, 0.9]], [[0.8, 0.2]]]))
    keys = jax.random.split(jax.random.key(0), (2, DEPTH + 1))
    verified = rule.verify(GREEDY, tree, jnp.zeros((2, 1), jnp.int32), logits, keys, DEPTH)
    assert verified.accepted.tolist() == [0, 0]
    assert verified.bonus.tolist() == [1, 0]


def test_typical_acceptance_takes_what_is_probable_enough():
    law = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05, 1e-9]]))
    keys = jax.random.split(jax.random.key(0), (1, 2))
    for token, expected in enumerate([1, 1, 1, 0, 0]):  # the threshold is min(0.09, 0.3 exp(-H)) = 0.09
        tree = chain(jnp.asarray([[token]]), jnp.asarray([1]))
        logits = jnp.broadcast_to(law, (1, 2, VOCAB))
        verified = TypicalAcceptance().verify(Sampling(), tree, jnp.asarray([[0, 1]]), logits, keys, 1)
        assert int(verified.accepted[0]) == expected
    assert TypicalAcceptance().guarantee(Sampling()) == Guarantee.APPROXIMATE
    assert TypicalAcceptance().guarantee(GREEDY) == Guarantee.TOKEN_IDENTICAL
    assert SpeculativeSampling().guarantee(Sampling()) == Guarantee.DISTRIBUTION


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (([0, 1], [-1, 1], [True, True]), "row 0, node 1: parents must be -1 or a smaller index, got 1"),
        (([0, 1], [-1, 0], [False, True]), "row 0, node 1: its parent 0 is a padding node"),
        (([0, 9], [-1, 0], [True, True]), r"row 0, node 1: token 9 is outside the vocabulary \[0, 5\)"),
        (([2, 2], [-1, -1], [True, True]), "row 0, node 1: token 2 appears twice among the children of -1"),
        (([1, 2], [-1, 0], [True, True]), "row 0, node 1: depth 2 exceeds max_depth 1"),
    ],
)
def test_trees_without_sense_are_refused(parts, message):
    tokens, parents, valid = (jnp.asarray([x]) for x in parts)
    with pytest.raises(ValueError, match=message):
        check_tree(DraftTree(tokens, parents, valid, valid), VOCAB, 1)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ([0.5, 0.2, 0.2, 0.1, 0.1], "row 0, node 0: its law must sum to 1, and sums to 1.1"),
        ([0.5, float("nan"), 0.2, 0.1, 0.1], "row 0, node 0: its law must sum to 1, and sums to nan"),
        ([0.6, 0.3, 0.0, 0.1, 0.0], "row 0, node 0: token 2 has probability 0 under the law it was drawn from"),
    ],
)
def test_laws_without_sense_are_refused(law, message):
    tree = chain(jnp.asarray([[2]]), jnp.asarray([1]), jnp.log(jnp.asarray([[law]])))
    with pytest.raises(ValueError, match=message):
        check_tree(tree, VOCAB, 1)
    fine = chain(jnp.asarray([[0]]), jnp.asarray([1]), jnp.log(jnp.asarray([[[0.6, 0.3, 0.0, 0.1, 0.0]]])))
    check_tree(fine, VOCAB, 1)


@pytest.mark.parametrize("arguments", [{"epsilon": 0.0}, {"epsilon": 1.5}, {"delta": -0.1}])
def test_settings_without_sense_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        TypicalAcceptance(**arguments)
