"""What is measured: which blocks probes ask for, what whole passes answer and predict, and that all blocks are everything."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.papers.block_retrieval.recorded import Asked, block_attention, record, replay
from experiments.papers.block_retrieval.texts import PLACES, Encode, Haystack, haystack
from experiments.papers.progress import Advance
from jaxdec.attention.sparse.actqkv import ActQKV
from jaxdec.cache import Cache
from jaxdec.cache.retrieval import RetrievalCache
from jaxdec.language_model import LanguageModel
from jaxdec.models.rope import Rotation
from jaxdec.typing import Array, Float, Int


def rule_of(own: Mapping[str, Any], **changes: Any) -> ActQKV:
    """The rule of a config, with other fields."""
    return dataclasses.replace(ActQKV(**own), **changes)


def text_of(encode: Encode, rule: ActQKV, tokens: int, num_facts: int, seed: int) -> Haystack:
    """A text whose facts all lie in blocks when it is asked about."""
    behind = rule.local + rule.block_size
    return haystack(encode, tokens, rule.window, num_facts, seed, first=rule.sinks, behind=behind)


def recall_part(
    model: LanguageModel, text: Haystack, rule: ActQKV, budgets: list[int], temperatures: list[float], advance: Advance
) -> dict[str, Any]:
    """Where probes rank the block of the fact, and what share of dense attention lies in the blocks that they ask for."""
    recording = record(model, text, rule.window)
    asked = replay(rule, recording, Rotation(model.module.config))  # type: ignore[attr-defined]
    questions = []
    for place in PLACES:
        for fact, scores in enumerate(asked.questions[place]):
            queries = recording.asked[place][fact][:, recording.spans[place][fact]]
            shares = block_attention(rule, queries, recording.keys)
            gold = (text.facts[fact] - rule.sinks) // rule.block_size
            questions.append({"place": place, **ranked(scores, shares, gold, budgets)})
            advance("")
    return {
        "tokens": len(text.tokens),
        "blocks": shares.shape[1],
        "questions": questions,
        "densities": {str(t): densities_of(asked, t) for t in temperatures},
        "dynamic": [
            {"temperature": t, "budget": k, **row}
            for t in temperatures
            for k in budgets
            for row in dynamic(asked, questions, rule, k, t)
        ],
    }


def ranked(scores: Mapping[str, np.ndarray], shares: np.ndarray, gold: int, budgets: list[int]) -> dict[str, Any]:
    """Ranks of a block by probe and layer (0 is first), and shares of attention in the first ones, means over layers."""

    def covered(values):
        by_rank = np.take_along_axis(shares, np.argsort(-values, axis=1, kind="stable"), axis=1).cumsum(axis=1)
        return {str(k): float(by_rank[:, min(k, by_rank.shape[1]) - 1].mean()) for k in budgets}

    return {
        "rank": {probe: (found > found[:, gold, None]).sum(axis=1).tolist() for probe, found in scores.items()},
        "covered": {probe: covered(found) for probe, found in {**scores, "attention itself": shares}.items()},
        "gold": shares[:, gold].tolist(),
    }


def density(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Information density of ``[..., n]`` scores."""
    weights = np.exp((scores - scores.max(axis=-1, keepdims=True)) / temperature)
    share = weights / weights.sum(axis=-1, keepdims=True)
    return -(share * np.log(np.maximum(share, 1e-300))).sum(axis=-1) / np.log(scores.shape[-1])


def densities_of(asked: Asked, temperature: float) -> list[list[float]]:
    """By window of the text and layer."""
    return [density(scores["activation"], temperature).tolist() for scores in asked.before]


def dynamic(
    asked: Asked, questions: list[dict[str, Any]], rule: ActQKV, budget: int, temperature: float
) -> list[dict[str, Any]]:
    """Recall of the fact's block, means over layers: ``budget`` blocks for each layer, and as many shared by density."""
    rule = dataclasses.replace(rule, top_blocks=budget, min_blocks=None)
    scores = [found["activation"] for place in PLACES for found in asked.questions[place]]
    windows = [density(found["activation"], temperature) for found in asked.before]
    num_layers, n = scores[0].shape
    rows = len(scores)
    mine = np.stack([density(found, temperature) for found in scores])
    past = np.asarray(windows).reshape(len(windows), num_layers)[-rule.history + 1 :]
    known = jnp.full(rows, len(windows) >= rule.min_windows)
    remaining, counts = jnp.full(rows, budget * num_layers, jnp.int32), []
    for layer in range(num_layers):
        means = np.broadcast_to(past.mean(axis=0) if len(past) else 0.0, (rows, num_layers)).copy()
        means[:, layer] = (past[:, layer].sum() + mine[:, layer]) / (len(past) + 1)
        state = remaining, jnp.asarray(means, jnp.float32), known, jnp.full(rows, n, jnp.int32)
        counts.append(rule.allot(layer, *state))
        remaining = remaining - counts[-1]
    allotted = np.stack(counts, axis=1)
    found = []
    for row, question in enumerate(questions):
        rank = np.asarray(question["rank"]["activation"])
        equal, shared = (rank < min(budget, n)).mean(), (rank < allotted[row]).mean()
        found.append({"place": question["place"], "equal": float(equal), "dynamic": float(shared),
                      "blocks": allotted[row].tolist()})  # fmt: skip
    return found


@jax.jit
def _pass(
    model: LanguageModel, cache: Cache, tokens: Int[Array, "1 T"]
) -> tuple[Float[Array, "T V"], Int[Array, "L"], Cache]:
    """Log-probabilities behind every token, tokens that each layer read, and the cache with the tokens committed."""
    size = tokens.shape[1]
    output = model(tokens, cache.length[:, None] + jnp.arange(size), cache)
    after = output.cache
    read = after.tokens_read[0] if isinstance(after, RetrievalCache) else cache.length + size
    return jax.nn.log_softmax(output.logits[0]), read, after.commit(None, jnp.full(1, size, jnp.int32))


def retrieval_cache(model: LanguageModel, rule: ActQKV, capacity: int) -> RetrievalCache:
    """An empty one for one row."""
    config = model.module.config  # type: ignore[attr-defined]
    return RetrievalCache.create(
        num_layers=config.num_layers,
        batch_size=1,
        capacity=capacity,
        num_kv_heads=config.num_kv_heads,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        dtype=jnp.float32,
        rule=rule,
        rotation=Rotation(config),
    )


def answer_part(
    model: LanguageModel, text: Haystack, rule: ActQKV | None, window: int, advance: Advance
) -> dict[str, Any]:
    """Feed a text in windows and ask; None reads everything.

    Returns:
      ``right``, by fact: whether the answer is the likeliest of all choices; ``log_prob``: of the answer; ``surprisal``: mean
      over each window of the text from the first on that has blocks, in nats; ``read``: tokens that a layer reads on average in
      the windows that ask.
    """
    capacity = len(text.tokens) + window
    cache: Any = model.init_cache(1, capacity) if rule is None else retrieval_cache(model, rule, capacity)
    surprisal = []
    for start in range(0, len(text.tokens) - window + 1, window):
        part = text.tokens[start : start + window]
        log_probs, _, cache = _pass(model, cache, jnp.asarray([part], jnp.int32))
        surprisal.append(float(-np.asarray(log_probs)[np.arange(window - 1), part[1:]].mean()))
        advance("")
    right, told, reads = [], [], []
    for tokens, answer in zip(text.windows["end"], text.answers, strict=True):
        log_probs, read, _ = _pass(model, cache, jnp.asarray([tokens], jnp.int32))
        last = np.asarray(log_probs[-1])
        right.append(bool(last[answer] >= last[text.choices].max()))
        told.append(float(last[answer]))
        reads.append(float(np.mean(read)))
        advance("")
    return {"right": right, "log_prob": told, "surprisal": surprisal, "read": float(np.mean(reads))}


def exact_part(model: LanguageModel, text: Haystack, rule: ActQKV) -> dict[str, Any]:
    """Largest difference of logits between reading all blocks and dense attention, over a text, and the range of the logits."""
    capacity = len(text.tokens) + rule.window
    every = dataclasses.replace(rule, top_blocks=capacity // rule.block_size + 1, min_blocks=None)
    caches: list[Any] = [model.init_cache(1, capacity), retrieval_cache(model, every, capacity)]
    worst, blocks = 0.0, 0
    for start in range(0, len(text.tokens) - rule.window + 1, rule.window):
        part = jnp.asarray([text.tokens[start : start + rule.window]], jnp.int32)
        blocks = int(rule.num_blocks(caches[0].length)[0])
        (dense, _, caches[0]), (retrieved, _, caches[1]) = (_pass(model, cache, part) for cache in caches)
        worst = max(worst, float(jnp.abs(dense - retrieved).max()))
    return {"difference": worst, "blocks": blocks}
