"""What is measured with a loaded model: prefills under every rule, and answers from assembled caches."""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.machine import LoadMeter
from experiments.papers.chunk_sparsity.documents import Document, documents
from experiments.papers.progress import Progress
from jaxdec.attention.sparse.chunked_prefill import ChunkedPrefill
from jaxdec.cache import ContiguousCache
from jaxdec.cache.bilevel import BilevelCache
from jaxdec.cache.pooled_chunks import BilevelLayout
from jaxdec.cache.question_scores import REDUCTIONS
from jaxdec.cache.sparse_prompt import SparsePromptCache, mean_sparsity
from jaxdec.decoding.chunks import append_tokens
from jaxdec.document_questions import PreparedDocuments, chunk_scores, rotation_of, top_chunks
from jaxdec.language_model import LanguageModel
from jaxdec.loading import LoadedModel
from jaxdec.typing import Array, Int

ROOM = 64  # slots for a question and its answer
DENSE_CHUNK = 128


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is asked about.

    Attributes:
      model: the language model.
      texts: documents of one shape.
      section: tokens in a section.
      block: queries that the executor takes together.
    """

    model: LanguageModel
    texts: Sequence[Document]
    section: int
    block: int

    @classmethod
    def of(cls, lm: LoadedModel, own: Mapping[str, Any], seed: int) -> "Setting":
        """The setting of a config."""
        encode, section = lm.tokenizer.encode, own["tokens"]
        texts = documents(encode, own["count"], own["sections"], section, own["facts"], seed)
        return cls(lm.model, texts, section, own["block"])

    @property
    def num_sections(self) -> int:
        """Of each document."""
        return (len(self.texts[0].tokens) - self.texts[0].prefix) // self.section

    def rule(self, previous: int, markers: bool) -> ChunkedPrefill:
        """A rule of prefill, with markers that are global or as all other tokens."""
        first = self.texts[0]
        marker = first.marker if markers else 0
        return ChunkedPrefill(self.section, previous, first.prefix, marker, block=self.block)

    def layout(self, compression: int) -> BilevelLayout:
        """Cut as the rule does."""
        first = self.texts[0]
        return BilevelLayout(self.section, first.prefix, first.marker, compression=compression)


@functools.partial(jax.jit, static_argnames=("rule", "section"))
def _prefill(model: LanguageModel, tokens: Int[Array, "B P"], last: Int[Array, "B N"], rule: Any, section: int):
    """Feed whole documents.

    Returns:
      The cache, the log-probability of the tokens behind ``last`` (places in the last section), and the share of the causal
      pairs that was computed.
    """
    batch, width = tokens.shape
    cache: Any = model.init_cache(batch, width + ROOM)
    length = jnp.full(batch, width, jnp.int32)
    before = width - section
    if rule is not None:
        cache = SparsePromptCache(cache, length, jax.random.split(jax.random.key(0), batch), rule)
        at = jnp.broadcast_to(jnp.arange(width), tokens.shape)
        logits, _, cache = model(tokens, at, cache, logits_at=before + last)
        computed = 1 - mean_sparsity(cache).mean()
        cache = cache.commit(None, length).inner
    else:  # as dense prompts are fed, in chunks
        _, cache = append_tokens(model, cache, tokens[:, :-section], length - section, DENSE_CHUNK)
        at = jnp.broadcast_to(before + jnp.arange(section), (batch, section))
        logits, _, cache = model(tokens[:, before:], at, cache, logits_at=last)
        cache, computed = cache.commit(None, length * 0 + section), jnp.ones(())
    return cache, _log_prob(logits, jnp.take_along_axis(tokens, before + last + 1, axis=1)), computed


def _log_prob(logits, targets):
    return jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=2)[..., 0]


@jax.jit
def _read(model: LanguageModel, tokens: Int[Array, "B T"], begin: Int[Array, "B"], cache):
    logits = model(tokens, begin[:, None] + jnp.arange(tokens.shape[1]), cache).logits[:, :-1]
    return _log_prob(logits, tokens[:, 1:]), logits.argmax(axis=-1) == tokens[:, 1:]


def fed(setting: Setting, rule: ChunkedPrefill | None) -> tuple[ContiguousCache, dict[str, Any]]:
    """Feed all documents; None is plain prefill. Returns the cache, and seconds, load and what the last section cost."""
    tokens = jnp.asarray([text.tokens for text in setting.texts], jnp.int32)
    last = jnp.arange(setting.texts[0].marker - 1, setting.section - 1)  # each is asked for the token behind it
    last = jnp.broadcast_to(last, (len(tokens), len(last)))
    compiled = _prefill.lower(setting.model, tokens, last, rule=rule, section=setting.section).compile()
    meter = LoadMeter(time.process_time)
    meter.start()
    begin = time.perf_counter()
    cache, log_prob, computed = jax.block_until_ready(compiled(setting.model, tokens, last))
    seconds = time.perf_counter() - begin
    return cache, {
        "seconds": seconds,
        "foreign_load": meter.stop()["foreign_load"],
        "computed": float(computed),
        "last_section": np.asarray(log_prob, float).ravel().tolist(),
    }


def ask(setting: Setting, number: int, cache: Any, begin: Any) -> dict[str, list[Any]]:
    """Ask every document question ``number``; the answer is scored, and right if each of its tokens is the most likely."""
    rows = [(text.questions[number], text.answers[number]) for text in setting.texts]
    width = -(-max(len(question) + len(answer) for question, answer in rows) // 16) * 16
    tokens = np.zeros((len(rows), width), np.int32)
    for row, (question, answer) in enumerate(rows):
        tokens[row, : len(question) + len(answer)] = [*question, *answer]
    log_prob, best = map(np.asarray, _read(setting.model, jnp.asarray(tokens), jnp.asarray(begin, jnp.int32), cache))
    spans = [slice(len(question) - 1, len(question) + len(answer) - 1) for question, answer in rows]
    return {
        "log_prob": [float(log_prob[row, span].sum()) for row, span in enumerate(spans)],
        "right": [bool(best[row, span].all()) for row, span in enumerate(spans)],
    }


def ask_all(setting: Setting, cache_of: Any) -> dict[str, list[Any]]:
    """All questions; ``cache_of(number)`` gives the cache for one of them and the position that it begins at."""
    found = [ask(setting, number, *cache_of(number)) for number in range(len(setting.texts[0].questions))]
    return {name: [value for one in found for value in one[name]] for name in found[0]}


def prefill_part(setting: Setting, previous: int | None, markers: bool, progress: Progress) -> dict[str, Any]:
    """One rule of prefill: its cost, the last section's text, and answers from all that was fed. None is plain prefill."""
    rule = None if previous is None else setting.rule(previous, markers)
    with progress.task("plain prefill" if rule is None else f"previous = {previous}, markers {markers}", 2) as advance:
        cache, found = fed(setting, rule)
        advance("fed")
        answers = ask_all(setting, lambda number: (cache, cache.length))
        advance("asked")
    width = len(setting.texts[0].tokens)
    pairs = width * (width + 1) // 2 if rule is None else rule.pairs(width)
    return {"previous": previous, "markers": markers, "share": 2 * pairs / (width * (width + 1)), **found, **answers}


@dataclasses.dataclass(frozen=True)
class Arm:
    """How a cache is assembled.

    Attributes:
      relevance: ``oracle``, ``query_key``, ``bm25``, ``random``; ``none`` and ``all`` for no chunk and every chunk.
      top: chunks that are chosen.
      compression: tokens in a window.
      reposition: see :meth:`jaxdec.cache.bilevel.BilevelCache.assemble`.
      log_mass: see there.
    """

    relevance: str
    top: int
    compression: int
    reposition: bool = True
    log_mass: bool = False


def arms_of(own: Mapping[str, Any]) -> list[Arm]:
    """All arms of a config."""
    main = own["compression"]
    arms = [Arm("all", 0, main)]
    arms += [Arm(*kind, size) for size in own["compressions"] for kind in (("none", 0), ("oracle", 1))]
    arms += [Arm(kind, top, main) for kind in ("query_key", "bm25", "random") for top in own["top"]]
    changes = ({"reposition": False}, {"log_mass": True})
    arms += [Arm(*kind, main, **change) for kind in (("none", 0), ("oracle", 1)) for change in changes]
    return arms


def bilevel_part(setting: Setting, own: Mapping[str, Any], seed: int, progress: Progress) -> dict[str, Any]:
    """Answers from assembled caches, and how often each relevance finds the section with the answer."""
    cache, _ = fed(setting, setting.rule(own["previous"], True))
    arms = arms_of(own)
    turning = rotation_of(setting.model)
    tokens = tuple(text.tokens for text in setting.texts)
    gold = np.array([text.sections for text in setting.texts])  # [B, questions]
    main = PreparedDocuments(BilevelCache.of_prompt(cache, setting.layout(own["compression"]), turning), tokens)
    with progress.task("bi-level caches", len(arms) + 1) as advance:
        scores = relevance_scores(setting, main, gold, seed)
        advance("relevance")
        whole: Any = main.bilevel.assemble(jnp.ones((len(gold), setting.num_sections), bool), capacity=cache.capacity)
        same = all(
            np.array_equal(one[:, :, : len(tokens[0])], other[:, :, : len(tokens[0])])
            for one, other in zip((*whole.keys, *whole.values), (*cache.keys, *cache.values), strict=True)
        )
        found = []
        for arm in arms:
            other = arm.compression != own["compression"]
            layout = setting.layout(arm.compression)
            bilevel = BilevelCache.of_prompt(cache, layout, turning) if other else main.bilevel
            found.append(arm_part(setting, bilevel, arm, scores, gold))
            advance(f"{arm.relevance} {arm.top or ''}")
    held = {"dense": main.bilevel.nbytes - main.bilevel.pooled_nbytes, "pooled": main.bilevel.pooled_nbytes}
    hosts = {chunk.keys.sharding.memory_kind for chunk in main.bilevel.dense}
    return {
        "arms": found,
        "bitwise": same,
        "bytes": held,
        "dense_lies_in": sorted(map(str, hosts)),
        "tokens": len(tokens[0]),
        "chunks": setting.num_sections,
        "ranks": {name: ranks(table, gold) for name, table in scores.items()},
    }


def relevance_scores(setting: Setting, main: PreparedDocuments, gold: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Scores ``[questions, B, N]`` by relevance; the reductions of query-key scores that are not the default too."""
    rng = np.random.default_rng(seed)
    names = {"query_key": ("query_key", REDUCTIONS[0]), "bm25": ("bm25", REDUCTIONS[0])}
    names |= {f"query_key {reduction}": ("query_key", reduction) for reduction in REDUCTIONS[1:]}
    tables: dict[str, list[np.ndarray]] = {name: [] for name in (*names, "oracle", "random")}
    for number in range(gold.shape[1]):
        questions = [text.questions[number] for text in setting.texts]
        for name, (relevance, reduction) in names.items():
            table = chunk_scores(setting.model, main, questions, relevance, reduction=reduction)
            tables[name].append(table)
        tables["oracle"].append(np.eye(setting.num_sections)[gold[:, number]])
        tables["random"].append(rng.random((len(gold), setting.num_sections)))
    return {name: inner(np.stack(table)) for name, table in tables.items()}


def inner(scores: np.ndarray) -> np.ndarray:
    """The first and the last chunk, dense as they are, are not chosen: no choice is wasted on them."""
    scores = scores.copy()
    scores[..., [0, -1]] = scores.min() - 1 if np.isfinite(scores).all() else -1e30
    return scores


def ranks(scores: np.ndarray, gold: np.ndarray) -> list[int]:
    """How many chunks are before the one with the answer; 0 for found first."""
    own = np.take_along_axis(scores, gold.T[..., None], axis=2)
    return (scores > own).sum(axis=2).ravel().tolist()


def arm_part(
    setting: Setting, bilevel: BilevelCache, arm: Arm, scores: Mapping[str, np.ndarray], gold: np.ndarray
) -> dict[str, Any]:
    """Answers of one arm, with the entries that its caches have and their bytes."""
    shape = (len(gold), setting.num_sections)
    capacity = len(setting.texts[0].tokens) + ROOM
    entries, seen = [], []

    def cache_of(number: int):
        if arm.relevance in ("none", "all"):
            chosen = jnp.full(shape, arm.relevance == "all")
        else:
            chosen = top_chunks(scores[arm.relevance][number], arm.top)
        made = bilevel.assemble(chosen, capacity=capacity, reposition=arm.reposition, log_mass=arm.log_mass)
        entries.extend(np.asarray(made.length).tolist())
        seen.extend(np.asarray(chosen)[np.arange(len(gold)), gold[:, number]].tolist())
        return made, made.length if arm.reposition else bilevel.length

    answers = ask_all(setting, cache_of)
    keys = bilevel.pooled.keys  # [layers, B, G, S, E]
    per_entry = 2 * keys.shape[0] * keys.shape[2] * keys.shape[4] * keys.dtype.itemsize
    mean = float(np.mean(entries))
    return {
        **dataclasses.asdict(arm),
        "entries": mean,
        "bytes": mean * per_entry,
        "found": float(np.mean(seen)),
        **answers,
    }
