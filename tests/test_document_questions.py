"""Documents through a tiny model: chunked prefill, assembled caches, answers, and which chunks a question asks for."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from jaxdec.attention.sparse.chunked_prefill import ChunkedPrefill
from jaxdec.attention.sparse.selection import masked_attention
from jaxdec.cache import Cache, ContiguousCache
from jaxdec.cache.bilevel import BilevelCache
from jaxdec.cache.pooled_chunks import BilevelLayout
from jaxdec.cache.question_scores import QuestionScores
from jaxdec.cache.sparse_prompt import SparsePromptCache
from jaxdec.decoding import Autoregressive, Prompt, Sampling, decode
from jaxdec.document_questions import answer, chunk_scores, content_of, prepare, top_chunks, with_markers
from jaxdec.models.rope import rotation
from tests.tiny_models import TINY, markov_model, tiny_transformer

LAYOUT = BilevelLayout(chunk=12, prefix=4, marker=2, compression=4)
RULE = ChunkedPrefill(chunk=12, previous=1, prefix=4, marker=2, block=8)
LENGTHS = [4 + 5 * 12 + 6, 4 + 2 * 12 + 1]
MODEL = tiny_transformer(scale=4.0)
feed = jax.jit(lambda tokens, at, cache: MODEL(tokens, at, cache))


def documents(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, TINY.vocab_size, length).tolist() for length in LENGTHS]


@functools.cache
def prepared(previous=1):
    return prepare(MODEL, documents(), LAYOUT, rule=ChunkedPrefill(12, previous, 4, 2, block=8))


class MaskedPrompt(ContiguousCache):
    """Whole prompts under the boolean mask of a rule, all scores at once."""

    prompt_length: jax.Array
    rule: ChunkedPrefill = struct.field(pytree_node=False)

    @classmethod
    def of(cls, entries, prompt_length, rule):
        return cls(entries.keys, entries.values, entries.length, prompt_length, rule)

    inner = property(lambda self: self)

    def mask(self, num_new, visible):
        place = jnp.arange(num_new)
        reads = [self.rule.reads(place[:, None], place, length) for length in self.prompt_length]
        return jnp.stack(reads) & (place < self.prompt_length[:, None])[:, :, None]

    def attend(self, layer, queries, mask):
        sides = (side[layer][:, :, : queries.shape[1]].swapaxes(1, 2) for side in (self.keys, self.values))
        return masked_attention(queries, *sides, jnp.repeat(mask[:, None], queries.shape[2], axis=1))


def gathered_prompt(entries, prompt_length, rule):
    return SparsePromptCache(entries, prompt_length, jax.random.split(jax.random.key(0), len(prompt_length)), rule)


@functools.partial(jax.jit, static_argnums=(0, 1))
def whole(layout, rule, tokens, lengths):
    """Logits of all tokens and the cache's entries, in one pass."""
    cache = layout(MODEL.init_cache(*tokens.shape), lengths, rule)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    logits, _, cache = MODEL(tokens, positions, cache)
    return logits, cache.inner


def chunk_by_chunk(rule, document):
    """Logits of one document, its chunks fed one after another.

    Before each chunk a cache is built of what its tokens may read: the prefix, all markers so far and the chunks before, as
    they were computed. Markers read everything so far and are fed first; the content of the chunk then follows them.
    """
    keys, values, logits = {}, {}, {}

    def run(tokens, sees):
        size = len(sees)
        cache = MODEL.init_cache(1, 128)
        if size:
            sides = (
                tuple(
                    jnp.full((1, TINY.num_kv_heads, cache.capacity, TINY.head_dim), jnp.nan)
                    .at[0, :, :size]
                    .set(np.stack([known[layer, token] for token in sees], axis=1))
                    for layer in range(TINY.num_layers)
                )
                for known in (keys, values)
            )
            cache = ContiguousCache(*sides, jnp.asarray([size], jnp.int32))
        out, _, cache = feed(jnp.asarray([[document[token] for token in tokens]]), jnp.asarray([tokens]), cache)
        for index, token in enumerate(tokens):
            logits[token] = np.asarray(out[0, index])
            for layer in range(TINY.num_layers):
                keys[layer, token], values[layer, token] = (
                    np.asarray(side[layer][0, :, size + index]) for side in (cache.keys, cache.values)
                )

    run(list(range(rule.prefix)), [])
    markers = []
    for start in range(rule.prefix, len(document), rule.chunk):
        tokens = list(range(start, min(start + rule.chunk, len(document))))
        mine, content = tokens[: rule.marker], tokens[rule.marker :]
        run(mine, list(range(start)))
        window = list(range(max(start - rule.previous * rule.chunk, rule.prefix), start))
        far = [marker for marker in markers if marker < (window or [start])[0]]
        if content:
            run(content, [*range(rule.prefix), *far, *window, *mine])
        markers += mine
    return np.stack([logits[token] for token in range(len(document))])


def padded(rows):
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, document in enumerate(rows):
        tokens[row, : len(document)] = document
    return jnp.asarray(tokens), jnp.asarray([len(document) for document in rows], jnp.int32)


@pytest.mark.slow
def test_gathered_masked_and_chunk_by_chunk_agree():
    rows = documents()
    tokens, lengths = padded(rows)
    gathered, entries = whole(gathered_prompt, RULE, tokens, lengths)
    masked, wanted = whole(MaskedPrompt.of, RULE, tokens, lengths)
    dense = whole(gathered_prompt, ChunkedPrefill(12, 5, 4, 2, block=8), tokens, lengths)[0]
    for row, document in enumerate(rows):
        ours = gathered[row, : len(document)]
        np.testing.assert_allclose(ours, masked[row, : len(document)], atol=2e-4)
        np.testing.assert_allclose(ours, chunk_by_chunk(RULE, document), atol=2e-4)
        for one, other in zip((*entries.keys, *entries.values), (*wanted.keys, *wanted.values), strict=True):
            np.testing.assert_allclose(one[row, :, : len(document)], other[row, :, : len(document)], atol=1e-4)
    assert np.abs(dense - gathered)[0].max() > 0.1, "the rule changes what the model says"


def test_all_chunks_before_are_plain_prefill():
    rows = documents()
    tokens, lengths = padded(rows)
    gathered, _ = whole(gathered_prompt, ChunkedPrefill(12, 5, 4, 2, block=8), tokens, lengths)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    plain = jax.jit(lambda cache: MODEL(tokens, positions, cache).logits)(MODEL.init_cache(*tokens.shape))
    for row, document in enumerate(rows):
        np.testing.assert_allclose(gathered[row, : len(document)], plain[row, : len(document)], atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("reposition", [True, False])
def test_all_dense_answers_are_those_of_plain_decoding(reposition):
    rows, questions = documents(), [[3, 1, 4, 1, 5], [9, 2]]
    everything = jnp.arange(6) < prepared(99).bilevel.num_chunks[:, None]
    ours = answer(MODEL, prepared(99), questions, 6, chosen=everything, reposition=reposition)
    texts = [row + question for row, question in zip(rows, questions)]
    plain = decode(Autoregressive(), MODEL, Prompt.create(texts, 6))
    np.testing.assert_array_equal(ours.tokens[:, :, :6], plain.tokens[:, :, :6])
    np.testing.assert_allclose(ours.log_prob, plain.log_prob, atol=1e-3)
    assert ours.length.tolist() == [[6], [6]]


@pytest.mark.slow
@pytest.mark.parametrize(("reposition", "log_mass"), [(True, False), pytest.param(False, True, marks=pytest.mark.slow)])
def test_answers_go_on_from_the_assembled_cache(reposition, log_mass):
    """Token by token, by calling the model: the question at n' (or behind the document), then its own best tokens."""
    questions = [[3, 1, 4, 1, 5], [9, 2]]
    chosen = jnp.zeros((2, 6), bool).at[0, 2].set(True)
    ours = answer(MODEL, prepared(), questions, [4, 3], chosen=chosen, reposition=reposition, log_mass=log_mass)
    bilevel = prepared().bilevel
    for row, question in enumerate(questions):
        cache = bilevel.assemble(chosen, capacity=128, reposition=reposition, log_mass=log_mass)
        at = int(cache.length[row] if reposition else bilevel.length[row])
        said, pending = [], list(question)
        while len(said) < [4, 3][row]:
            for token in pending:
                out = feed(jnp.full((2, 1), token), jnp.full((2, 1), at), cache)
                cache, at = out.cache.commit(None, jnp.ones(2, jnp.int32)), at + 1
            said.append(int(out.logits[row, 0].argmax()))
            pending = said[-1:]
        assert ours.tokens[row, 0, : len(said)].tolist() == said
        assert int(ours.length[row, 0]) == len(said)


@pytest.mark.slow
def test_one_document_is_asked_several_times_and_rows_answer_alone():
    first = answer(MODEL, prepared(), [[1, 2], [3]], 4, top=1)
    again = answer(MODEL, prepared(), [[5, 6], [3]], 4, top=1)
    np.testing.assert_array_equal(first.tokens[1], again.tokens[1])
    assert first.tokens[0].tolist() != again.tokens[0].tolist()
    sampled = answer(MODEL, prepared(), [[1, 2], [3]], 4, top=1, method=Autoregressive(Sampling(1.0)), seed=1)
    assert sampled.tokens[0].tolist() != first.tokens[0].tolist()


@pytest.mark.slow
def test_query_key_scores_are_products_without_rotation():
    """Against queries and keys of the same passes, turned back one by one."""
    questions = [[3, 1, 4, 1, 5], [9, 2]]
    reductions = ("mass", "max", "mean")
    scores = {name: chunk_scores(MODEL, prepared(), questions, reduction=name) for name in reductions}
    bilevel = prepared().bilevel
    cache = bilevel.assemble(jnp.zeros((2, 6), bool), capacity=128)
    pooled = np.asarray(bilevel.pooled.keys).reshape(TINY.num_layers, 2, TINY.num_kv_heads, 6, 5, TINY.head_dim)
    for row, question in enumerate(questions):
        queries = queries_of(question, int(cache.length[row]), cache, row)
        count = int(bilevel.num_chunks[row])
        content = [[entry for entry in range(3) if 2 + 4 * entry < LENGTHS[row] - 4 - 12 * c] for c in range(count)]
        shape = (TINY.num_layers, TINY.num_heads, len(question), count)
        found = {name: np.full(shape, -np.inf) for name in reductions}
        for layer, head, token in np.ndindex(shape[:3]):
            query, keys = queries[layer][token, head], pooled[layer, row, head // 2, :, 2:]
            products = [keys[c, own] @ query / TINY.head_dim**0.5 for c, own in enumerate(content)]
            total = sum(np.exp(own).sum() for own in products)
            for chunk, own in enumerate(products):
                if len(own):
                    found["mass"][layer, head, token, chunk] = np.exp(own).sum() / total
                    found["max"][layer, head, token, chunk] = own.max()
                    found["mean"][layer, head, token, chunk] = own.mean()
        wanted = {name: found[name].mean(axis=(0, 1, 2)) for name in ("max", "mean")}
        wanted["mass"] = found["mass"].mean(axis=2).max(axis=1).mean(axis=0)
        for name in reductions:
            np.testing.assert_allclose(scores[name][row, :count], wanted[name], atol=1e-4, err_msg=name)
            assert (scores[name][row, count:] == -np.inf).all()


class Noting(ContiguousCache):
    """Notes the queries of every layer."""

    queries: tuple = ()

    def observe(self, layer, queries):
        return self.replace(queries=(*self.queries, queries))


def queries_of(question, begin, cache, row):
    """Per layer the queries of a question ``[T, H, E]`` turned back, from a pass that notes them."""
    tokens = jnp.asarray([(question + [0] * 5)[:5]] * 2)
    positions = jnp.broadcast_to(begin + jnp.arange(5), (2, 5))
    seen = feed(tokens, positions, Noting(cache.keys, cache.values, cache.length)).cache.queries
    noted = [np.asarray(queries[row, : len(question)]) for queries in seen]
    positions = positions[:, : len(question)]
    cos, sin = (np.asarray(side[0]) for side in rotation(TINY, positions[:1]))
    turned = []
    for queries in noted:
        first, second = np.split(queries, 2, axis=-1)
        turned.append(np.concatenate([first * cos + second * sin, second * cos - first * sin], axis=-1))
    return turned


def test_bm25_scores_find_the_chunk_with_the_words():
    rows = documents()
    rows[0][4 + 3 * 12 + 5] = rows[0][4 + 3 * 12 + 6] = 40
    rows = [[token if token != 40 or place in (45, 46) else 0 for place, token in enumerate(row)] for row in rows]
    both = prepare(MODEL, rows, LAYOUT, rule=RULE)
    scores = chunk_scores(MODEL, both, [[40, 40], [40]], "bm25")
    assert scores[0].argmax() == 3
    assert scores[1].tolist() == [0, 0, 0, -np.inf, -np.inf, -np.inf]
    assert content_of(LAYOUT, rows[1]) == [rows[1][6:16], rows[1][18:28], []]


def test_texts_are_cut_behind_markers():
    tokens = with_markers(range(7), lambda number: [90 + number, 99], 5)
    assert tokens == [90, 99, 0, 1, 2, 91, 99, 3, 4, 5, 92, 99, 6]
    assert content_of(BilevelLayout(chunk=5, marker=2), tokens) == [[0, 1, 2], [3, 4, 5], [6]]


def test_top_chunks():
    scores = np.array([[0.5, 2.0, 2.0, -1.0], [1.0, 3.0, -np.inf, -np.inf]])
    assert top_chunks(scores, 2).tolist() == [[False, True, True, False], [True, True, False, False]]
    assert top_chunks(scores, 1).tolist() == [[False, True, False, False], [False, True, False, False]]
    assert not top_chunks(scores, 0).any()
    with pytest.warns(UserWarning, match="the top 3 chunks of a document that has 2: all are taken"):
        assert top_chunks(scores, 3).tolist() == [[True, True, True, False], [True, True, False, False]]


def test_the_scoring_layout_follows_the_protocol():
    entries = MODEL.init_cache(2, 16)
    lengths = jnp.asarray([3, 2], jnp.int32)
    scoring = QuestionScores.over(prepared().bilevel, entries, lengths, lengths)
    rows = jnp.asarray([1, 0, 1])
    assert isinstance(scoring, Cache)
    assert scoring.capacity == entries.capacity
    assert scoring.commit(None, lengths).length.tolist() == [3, 2]
    assert scoring.commit(None, lengths).fork(rows).length.tolist() == [2, 3, 2]
    assert scoring.nbytes == entries.nbytes + 2 * 2 * 2 * 6 * 3 * 8 * 4
    np.testing.assert_array_equal(scoring.fork(rows).keys[1], scoring.keys[1][rows])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: with_markers([1], lambda n: [], 4), "marker must be of 1 to 3 tokens, fewer than a group; got 0"),
        (lambda: with_markers([1], lambda n: [1] * 4, 4), "marker must be of 1 to 3 tokens, fewer than a group; got 4"),
        (
            lambda: with_markers([1] * 9, lambda n: [1] * (1 + n // 2), 4),
            "marker must be of 1 tokens for every group; got 2 for group 2",
        ),
        (lambda: prepare(MODEL, [], LAYOUT), "documents must hold at least one document; got none"),
        (
            lambda: prepare(MODEL, [[1] * 4], LAYOUT),
            "documents must be longer than the prefix of 4 tokens; got one of 4",
        ),
        (
            lambda: prepare(MODEL, [[1] * 600], LAYOUT),
            "documents must fit the context of 512 tokens; got one of 600",
        ),
        (
            lambda: prepare(MODEL, documents(), LAYOUT, rule=ChunkedPrefill(12, suffix=3)),
            "rule.suffix must be 0, questions are fed later; got 3",
        ),
        (
            lambda: prepare(markov_model()[0], documents(), LAYOUT),
            "model must be a Transformer, and is a MarkovModule",
        ),
        (lambda: answer(MODEL, prepared(), [[1]], 4), "questions must be one for each of 2 documents; got 1"),
        (lambda: answer(MODEL, prepared(), [[1], []], 4), "question 1 is empty"),
        (lambda: answer(MODEL, prepared(), [[1], [2]], 4, top=-1), "count must be at least 0; got -1"),
        (
            lambda: answer(MODEL, prepared(), [[1], [2]], 500),
            "document, question and answer must fit the context of 512; got",
        ),
        (
            lambda: answer(MODEL, prepared(), [[1], [2]], 4, method=Autoregressive(Sampling(1.0), num_samples=2)),
            "method.num_samples must be 1; got 2",
        ),
        (
            lambda: chunk_scores(MODEL, prepared(), [[1], [2]], "clip"),
            "relevance must be one of query_key, bm25; got 'clip'",
        ),
        (
            lambda: chunk_scores(MODEL, prepared(), [[1], [2]], reduction="min"),
            "reduction must be one of mass, max, mean; got 'min'",
        ),
        (lambda: top_chunks(np.array([[1.0, np.nan]]), 1), "scores must be numbers; got NaN at [0, 1]"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        wrong()


def test_bilevel_is_of_what_was_fed():
    assert isinstance(prepared().bilevel, BilevelCache)
    assert prepared().bilevel.length.tolist() == LENGTHS
    assert [len(row) for row in prepared().tokens] == LENGTHS
