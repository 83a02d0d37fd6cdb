"""The tri-gram hash table against dictionaries."""

from collections import Counter, defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.checkpoints import CheckpointError
from jaxdec.decoding.speculative import trigram_table as module
from jaxdec.decoding.speculative.trigram_table import (
    PROBES,
    SUCCESSORS,
    TrigramTable,
    build_trigram_table,
    load_trigram_table,
    save_trigram_table,
    together,
)

texts = st.lists(st.lists(st.integers(0, 5), max_size=30), min_size=1, max_size=6)


look_up = jax.jit(TrigramTable.lookup)


def row(table, pair):
    tokens, weights = look_up(table, jnp.asarray(pair, jnp.int32))
    return {int(t): float(w) for t, w in zip(tokens, weights) if t >= 0}


def frequencies(texts):
    counts = defaultdict(Counter)
    for text in texts:
        for a, b, c in zip(text, text[1:], text[2:]):
            counts[a, b][c] += 1
    return {pair: {c: n / sum(found.values()) for c, n in found.items()} for pair, found in counts.items()}


@settings(deadline=None, max_examples=30)
@given(texts)
def test_built_rows_are_relative_frequencies(texts):
    if not any(len(text) >= 3 for text in texts):
        with pytest.raises(ValueError, match="texts hold no tri-gram"):
            build_trigram_table(texts, 6)
        return
    table, expected = build_trigram_table(texts, 6), frequencies(texts)
    for a in range(6):
        for b in range(6):
            found = row(table, (a, b))
            assert found == pytest.approx(expected.get((a, b), {}), abs=1e-6)
            if found:
                assert sum(found.values()) == pytest.approx(1, abs=1e-6)
                assert list(found.values()) == sorted(found.values(), reverse=True)


def test_only_the_heaviest_successors_are_kept_and_not_renormalised():
    text = []
    for c in range(20):
        text += [50, 51, c] * (c + 1)
    table = build_trigram_table([text], 60)
    found = row(table, (50, 51))
    assert sorted(found) == list(range(20 - SUCCESSORS, 20))
    total = sum(range(1, 21))
    assert sum(found.values()) == pytest.approx(sum(range(20 - SUCCESSORS + 1, 21)) / total, abs=1e-6)
    assert len(row(build_trigram_table([text], 60, successors=3), (50, 51))) == 3


def test_a_large_table_finds_every_pair():
    """Collisions: thousands of pairs of a vocabulary as large as a real one."""
    rng = np.random.default_rng(0)
    trigrams = np.unique(rng.integers(0, 49152, (20000, 3)), axis=0)
    table = build_trigram_table(trigrams.tolist(), 49152)
    assert table.pairs.shape[0] & (table.pairs.shape[0] - 1) == 0
    sample = trigrams[::37]
    tokens, _ = jax.vmap(table.lookup)(jnp.asarray(sample[:, :2], jnp.int32))
    assert (np.asarray(tokens) == sample[:, 2:]).any(1).all()
    absent = jnp.asarray(rng.integers(0, 49152, (500, 2)), jnp.int32)
    known = {tuple(pair) for pair in trigrams[:, :2].tolist()}
    tokens, _ = jax.vmap(table.lookup)(absent)
    found = (np.asarray(tokens) >= 0).any(1)
    assert found.tolist() == [tuple(pair) in known for pair in absent.tolist()]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3, st.sampled_from([0.0, 0.25, 1.0])), max_size=25))
def test_adding_is_adding(additions):
    """Few pairs and few successors: nothing is ever evicted, and the table is a dictionary of sums."""
    table, expected = TrigramTable.empty(64, 4), defaultdict(Counter)
    add = jax.jit(TrigramTable.add)
    for a, b, c, weight in additions:
        table = add(table, jnp.asarray([a, b], jnp.int32), jnp.int32(c), jnp.float32(weight))
        if weight:
            expected[a, b][c] += weight
    for a in range(4):
        for b in range(4):
            assert row(table, (a, b)) == pytest.approx(dict(expected[a, b]))


def test_a_full_row_gives_up_its_lightest_and_a_full_table_nothing():
    table = TrigramTable.empty(PROBES, 100)
    for c in range(SUCCESSORS):
        table = table.add(jnp.asarray([1, 2]), jnp.int32(c), jnp.float32(c + 1))
    table = table.add(jnp.asarray([1, 2]), jnp.int32(99), jnp.float32(0.5))
    found = row(table, (1, 2))
    assert 0 not in found
    assert found[99] == 0.5
    for a in range(3, 3 + PROBES):
        table = table.add(jnp.asarray([a, 0]), jnp.int32(7), jnp.float32(1))
    assert row(table, (1, 2)) == found
    known = [a for a in range(3, 3 + PROBES) if row(table, (a, 0))]
    assert known == list(range(3, 2 + PROBES)), "the last one found no place"


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(texts, texts, st.sampled_from([0.6, 1.0, 3.0]))
def test_two_tables_act_as_their_capped_sum(one, other, cap):
    one, other = [*one, [0, 1, 2]], [*other, [0, 1, 3]]
    built, adaptive = build_trigram_table(one, 6), build_trigram_table(other, 6)
    for a in range(6):
        for b in range(6):
            tokens, weights = together(built, adaptive, jnp.asarray([a, b], jnp.int32), cap)
            found = {int(t): float(w) for t, w in zip(tokens, weights) if t >= 0}
            total = Counter(row(built, (a, b)))
            total.update(row(adaptive, (a, b)))
            assert found == pytest.approx({t: min(w, cap) for t, w in total.items()}, abs=1e-6)
            assert (np.diff(weights) <= 1e-7).all(), "heaviest first"


def test_numpy_and_jax_hash_alike():
    pairs = np.random.default_rng(1).integers(0, 128000, (100, 2)).astype(np.int32)
    by_numpy = module._hash(pairs[:, 0], pairs[:, 1])
    by_jax = module._hash(jnp.asarray(pairs[:, 0]), jnp.asarray(pairs[:, 1]))
    np.testing.assert_array_equal(by_numpy, by_jax)
    assert len(set(by_numpy.tolist())) == 100


def test_files_keep_everything_and_damage_is_noticed(tmp_path):
    table = build_trigram_table([[1, 2, 3, 1, 2, 4]], 9)
    path = tmp_path / "folder" / "table.safetensors"
    save_trigram_table(path, table)
    again = load_trigram_table(path)
    assert again.vocab_size == 9
    for name in ("pairs", "successors", "weights"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    assert [entry.name for entry in path.parent.iterdir()] == ["table.safetensors"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"table\.safetensors is no jaxdec trigram table, or cut short"):
        load_trigram_table(path)
    with pytest.raises(FileNotFoundError, match="no file at"):
        load_trigram_table(tmp_path / "nothing")
    save_trigram_table(path, table.replace(weights=table.weights.at[3, 1].set(jnp.nan)))
    with pytest.raises(CheckpointError, match="weights that are negative or not finite"):
        load_trigram_table(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_trigram_table([[1, 2]], 9), "texts hold no tri-gram"),
        (lambda: build_trigram_table([[1, 2, 9]], 9), r"token id 9, outside the vocabulary \[0, 9\)"),
        (lambda: build_trigram_table([[1, 2, -3]], 9), "token id -3, outside"),
        (lambda: build_trigram_table([[1, 2, 3]], 9, successors=13), "successors must be between 1 and 12, got 13"),
        (lambda: TrigramTable.empty(24, 9), "capacity must be a power of two and at least 8, got 24"),
        (lambda: TrigramTable.empty(4, 9), "capacity must be a power of two"),
    ],
)
def test_input_without_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
