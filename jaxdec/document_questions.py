"""Questions about long documents: fed once, chunk by chunk, then each question answered from the chunks that matter to it.

Video-XL-2 (Qin et al. 2025, arXiv 2506.19225) with text for video and section headings for time stamps:

1. :func:`with_markers` cuts a text; :func:`prepare` feeds documents with attention within chunks and to few before them
   (:class:`~jaxdec.attention.sparse.chunked_prefill.ChunkedPrefill`) and keeps every chunk dense and pooled
   (:class:`~jaxdec.cache.bilevel.BilevelCache`).
2. :func:`chunk_scores` tells how relevant each chunk is to a question, :func:`top_chunks` takes the best.
3. :func:`answer` assembles a cache of them and of the others pooled, feeds the question behind it and decodes.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdec.attention.sparse.chunked_prefill import ChunkedPrefill
from jaxdec.cache import ContiguousCache
from jaxdec.cache.bilevel import BilevelCache
from jaxdec.cache.pooled_chunks import BilevelLayout, Rotation
from jaxdec.cache.question_scores import QuestionScores
from jaxdec.cache.sparse_prompt import SparsePromptCache
from jaxdec.decoding.autoregressive import Autoregressive
from jaxdec.decoding.bm25 import bm25
from jaxdec.decoding.loop import UNLIMITED, advance
from jaxdec.decoding.state import Decoded, DecodeState, Prompt, Stats, bucket
from jaxdec.language_model import LanguageModel
from jaxdec.models.config import DecoderConfig
from jaxdec.models.rope import rotation
from jaxdec.models.transformer import Transformer
from jaxdec.typing import Array, Bool, Float, Int

RELEVANCE = ("query_key", "bm25")


class PreparedDocuments(struct.PyTreeNode):
    """Documents that were fed, to be asked about any number of times.

    Attributes:
      bilevel: what was computed of them.
      tokens: what they say, one row each.
    """

    bilevel: BilevelCache
    tokens: tuple[tuple[int, ...], ...] = struct.field(pytree_node=False)


def with_markers(body: Sequence[int], marker: Callable[[int], Sequence[int]], group: int) -> list[int]:
    """A text cut into groups of a fixed size, each behind tokens that mark it.

    Args:
      body: tokens.
      marker: the tokens that group ``0, 1, ...`` begins with, all of one number.
      group: tokens in a group, the marker's included; the last group may have fewer.

    Raises:
      ValueError: a marker of another number of tokens than the first, none, or as many as a group has.
    """
    length = len(marker(0))
    if not 0 < length < group:
        raise ValueError(f"marker must be of 1 to {group - 1} tokens, fewer than a group; got {length}")
    tokens: list[int] = []
    for number, start in enumerate(range(0, len(body), group - length)):
        mine = list(marker(number))
        if len(mine) != length:
            raise ValueError(f"marker must be of {length} tokens for every group; got {len(mine)} for group {number}")
        tokens += [*mine, *body[start : start + group - length]]
    return tokens


def prepare(
    model: LanguageModel,
    documents: Sequence[Sequence[int]],
    layout: BilevelLayout,
    *,
    rule: ChunkedPrefill | None = None,
    offload: bool = True,
) -> PreparedDocuments:
    """Feed documents.

    Args:
      model: a :class:`~jaxdec.models.transformer.Transformer`.
      documents: tokens: a prefix, then chunks, the last one full or not. They may have other lengths.
      layout: how they are cut.
      rule: what tokens read while they are fed; by default ``ChunkedPrefill`` of the same chunks with its own ``previous``. The
        size of its chunks may be another.
      offload: whether dense chunks go to the host's memory, where the backend can have them there.

    Raises:
      ValueError: another kind of model, no documents, documents without a chunk or longer than the context, a rule with a
        suffix (questions are fed later).
    """
    turning = rotation_of(model)
    if not documents:
        raise ValueError("documents must hold at least one document; got none")
    longest, shortest = max(map(len, documents)), min(map(len, documents))
    if shortest <= layout.prefix:
        raise ValueError(f"documents must be longer than the prefix of {layout.prefix} tokens; got one of {shortest}")
    if longest > model.max_positions:
        raise ValueError(f"documents must fit the context of {model.max_positions} tokens; got one of {longest}")
    if rule is None:
        rule = ChunkedPrefill(layout.chunk, prefix=layout.prefix, marker=layout.marker, group=layout.group)
    if rule.suffix:
        raise ValueError(f"rule.suffix must be 0, questions are fed later; got {rule.suffix}")
    padded = np.zeros((len(documents), -(-longest // layout.chunk) * layout.chunk), np.int32)
    for row, document in enumerate(documents):
        padded[row, : len(document)] = document
    cache = _feed(model, jnp.asarray(padded), jnp.asarray([len(row) for row in documents], jnp.int32), rule)
    bilevel = BilevelCache.of_prompt(cache, layout, turning, offload=offload)
    return PreparedDocuments(bilevel, tuple(tuple(map(int, row)) for row in documents))


@functools.partial(jax.jit, static_argnames="rule")
def _feed(model: LanguageModel, tokens: Int[Array, "B P"], length: Int[Array, "B"], rule: ChunkedPrefill):
    batch, width = tokens.shape
    empty = model.init_cache(batch, width)
    assert isinstance(empty, ContiguousCache)
    positions = jnp.broadcast_to(jnp.arange(width), tokens.shape)
    cache = SparsePromptCache(empty, length, jax.random.split(jax.random.key(0), batch), rule)  # nothing is drawn
    output = model(tokens, positions, cache, logits_at=jnp.zeros((batch, 1), jnp.int32))
    assert isinstance(output.cache, SparsePromptCache)
    return output.cache.commit(None, length).inner


def chunk_scores(
    model: LanguageModel,
    prepared: PreparedDocuments,
    questions: Sequence[Sequence[int]],
    relevance: str = "query_key",
    *,
    reduction: str = "mass",
) -> np.ndarray:
    """How relevant each chunk is to the question about its document.

    Args:
      model: the one that the documents were prepared with.
      prepared: documents.
      questions: tokens, one question per document.
      relevance: ``"query_key"`` (:class:`~jaxdec.cache.question_scores.QuestionScores`) or ``"bm25"`` over token ids, without
        the markers (:func:`jaxdec.decoding.bm25.bm25`).
      reduction: of products to query-key scores, ``"mass"``, ``"max"`` or ``"mean"``.

    Returns:
      ``float[B, N]``; ``-inf`` behind a document's last chunk, and for query-key scores of chunks that are markers alone.

    Raises:
      ValueError: another relevance or reduction, another number of questions, an empty question.
    """
    if relevance not in RELEVANCE:
        raise ValueError(f"relevance must be one of {', '.join(RELEVANCE)}; got {relevance!r}")
    bilevel = prepared.bilevel
    prompt = _questions(model, prepared, questions, 1)
    there = np.arange(len(bilevel.dense)) < np.asarray(bilevel.num_chunks)[:, None]
    if relevance == "bm25":
        scores = np.full(there.shape, -np.inf)
        for row, (document, question) in enumerate(zip(prepared.tokens, questions, strict=True)):
            scores[row, there[row]] = bm25(content_of(bilevel.layout, document), list(question))
        return scores
    nothing = jnp.zeros(there.shape, bool)
    room = int(bilevel.assembled_length(nothing).max()) + prompt.tokens.shape[1]
    entries = bilevel.assemble(nothing, capacity=room)
    scoring = QuestionScores.over(bilevel, entries, prompt.length, entries.length, reduction)
    return np.where(there, np.asarray(_score(model, prompt.tokens, scoring)), -np.inf)


@jax.jit
def _score(model: LanguageModel, tokens: Int[Array, "B T"], scoring: QuestionScores) -> Float[Array, "B N"]:
    positions = scoring.position[:, None] + jnp.arange(tokens.shape[1])
    output = model(tokens, positions, scoring, logits_at=jnp.zeros((tokens.shape[0], 1), jnp.int32))
    assert isinstance(output.cache, QuestionScores)
    return output.cache.scores


def content_of(layout: BilevelLayout, document: Sequence[int]) -> list[list[int]]:
    """The tokens of each chunk that are no markers."""
    body = document[layout.prefix :]
    chunks = [body[start : start + layout.chunk] for start in range(0, len(body), layout.chunk)]
    return [
        [token for place, token in enumerate(chunk) if place % layout.tokens_in_group >= layout.marker]
        for chunk in chunks
    ]


def top_chunks(scores: np.ndarray, count: int) -> Bool[Array, "B N"]:
    """The ``count`` chunks of each row with the largest scores, none with ``-inf``; the earlier of equal ones.

    Warns where a row has fewer, and takes all it has.

    Raises:
      ValueError: a negative count, or scores that are NaN.
    """
    if count < 0:
        raise ValueError(f"count must be at least 0; got {count}")
    if np.isnan(scores).any():
        raise ValueError(f"scores must be numbers; got NaN at {np.argwhere(np.isnan(scores))[0].tolist()}")
    there = scores > -np.inf
    fewest = there.sum(axis=1).min()
    if count > fewest:
        warnings.warn(f"the top {count} chunks of a document that has {fewest}: all are taken", stacklevel=2)
    rank = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
    return jnp.asarray((rank < count) & there)


def answer(
    model: LanguageModel,
    prepared: PreparedDocuments,
    questions: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    *,
    chosen: Bool[Array, "B N"] | None = None,
    relevance: str = "query_key",
    top: int = 2,
    reposition: bool = True,
    log_mass: bool = False,
    method: Autoregressive | None = None,
    eos_tokens: Sequence[int] = (),
    seed: int = 0,
) -> Decoded:
    """Answer one question about each document.

    Args:
      model: the one that the documents were prepared with.
      prepared: documents; they are not changed, and can be asked about again.
      questions: tokens, one question per document.
      max_new_tokens: budget of each row, or one for all.
      chosen: chunks that are dense; by default the ``top`` of :func:`chunk_scores`. The first and the last always are.
      relevance: see :func:`chunk_scores`.
      top: chunks to choose.
      reposition: see :meth:`jaxdec.cache.bilevel.BilevelCache.assemble`.
      log_mass: see there.
      method: how tokens are chosen, one text per question; greedy by default.
      eos_tokens: ids that end an answer.
      seed: of the rows' random keys.

    Raises:
      ValueError: see :func:`chunk_scores` and :meth:`jaxdec.cache.bilevel.BilevelCache.made_dense`; several samples; document,
        question and budget longer than the context.
    """
    method = Autoregressive() if method is None else method
    if method.num_samples > 1:
        raise ValueError(f"method.num_samples must be 1; got {method.num_samples}")
    prompt = _questions(model, prepared, questions, max_new_tokens, eos_tokens=eos_tokens, seed=seed)
    if chosen is None:
        chosen = top_chunks(chunk_scores(model, prepared, questions, relevance), top)
    bilevel = prepared.bilevel
    begin = bilevel.assembled_length(chosen) if reposition else np.asarray(bilevel.length)
    most = int((begin + np.asarray(prompt.length + prompt.max_new_tokens)).max())
    if most > model.max_positions:
        raise ValueError(
            f"document, question and answer must fit the context of {model.max_positions}; got {most} tokens"
        )
    width = bucket(int(begin.max()) + prompt.capacity, smallest=64)
    cache = bilevel.assemble(chosen, capacity=width, reposition=reposition, log_mass=log_mass)
    state = _ask(method, model, prompt, cache, jnp.asarray(begin, jnp.int32), width)
    return method.result(advance(method, model, state, UNLIMITED))


@functools.partial(jax.jit, static_argnums=(0, 5))
def _ask(method: Autoregressive, model: LanguageModel, prompt: Prompt, cache, begin: Int[Array, "B"], width: int):
    """Feed the questions at positions ``begin`` and on, and choose the first token of each answer.

    The text of a row has ``begin`` tokens that stand for the document, so that places in it are positions.
    """
    at = begin[:, None] + jnp.arange(prompt.tokens.shape[1])
    logits, _, cache = model(prompt.tokens, at, cache, logits_at=prompt.length[:, None] - 1)
    rows = jnp.arange(len(begin))
    length = begin + prompt.length
    state = DecodeState(
        tokens=jnp.zeros((len(begin), width), jnp.int32).at[rows[:, None], at].set(prompt.tokens),
        length=length,
        prompt_length=length,
        limit=length + prompt.max_new_tokens,
        done=jnp.zeros(len(begin), bool),
        log_prob=jnp.zeros(len(begin), logits.dtype),
        eos_tokens=prompt.eos_tokens,
        rng=prompt.keys,
        cache=cache.commit(None, prompt.length),
        stats=Stats(target_calls=jnp.zeros(len(begin), jnp.int32)),
    )
    return method.extend(state, logits[:, 0])


def _questions(
    model: LanguageModel, prepared: PreparedDocuments, questions: Sequence[Sequence[int]], budget: Any, **options: Any
) -> Prompt:
    if len(questions) != len(prepared.tokens):
        raise ValueError(f"questions must be one for each of {len(prepared.tokens)} documents; got {len(questions)}")
    for row, question in enumerate(questions):
        if not len(question):
            raise ValueError(f"question {row} is empty: give at least one token")
    return Prompt.create(questions, budget, vocab_size=model.vocab_size, **options)


def rotation_of(model: LanguageModel) -> Rotation:
    """The rotation of a model's keys, the same object each time.

    Raises:
      ValueError: no :class:`~jaxdec.models.transformer.Transformer`.
    """
    if not isinstance(model.module, Transformer):
        raise ValueError(f"model must be a Transformer, and is a {type(model.module).__name__}")
    return _rotation_by(model.module.config)


@functools.lru_cache(maxsize=16)
def _rotation_by(config: DecoderConfig) -> Rotation:
    return functools.partial(rotation, config)
