"""Beam search: keep the ``K`` most probable unfinished texts and extend all of them at once.

Sutskever, Vinyals & Le 2014 (arXiv 1409.3215, sec. 3.2); length penalty and finished list as in Hugging Face's ``generate``.
One step, for every prompt by itself:

    S(k, v) = S(k) + log p(v | x, y^k)                    for running text k and token v; S = 0 for the prompt
    candidates: the K (1 + number of end tokens) best pairs (k, v); a tie goes to the lower k, then to the lower v
    a candidate among the first K that ends joins the finished list;  the K best that do not end run on
    score(y) = log p(y | x) / |y|^length_penalty          |y| counts generated tokens, the end token included

``|y|`` is Hugging Face's generated-length convention. The finished list keeps the ``K`` best scores. A text that reaches its
budget joins it as it stands. The search of a prompt ends at its budget, or when no running text can beat the worst of a full
list: log-probabilities only fall, so ``max_k log p(y^k)`` over the most favourable length still possible bounds them all.

``sibling_penalty`` is the rank penalty of Li, Monroe & Jurafsky 2016 (arXiv 1611.08562): pairs are chosen by
``S(k, v) - gamma * rank``, the rank of ``v`` (1, 2, ...) among all continuations of text ``k``; ``S`` itself stays unpenalised.
"""

import dataclasses
import math
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.cache import Cache
from jaxdec.decoding.autoregressive import generated
from jaxdec.decoding.prefill import feed_prompt
from jaxdec.decoding.state import Decoded, Guarantee, Prompt, Stats
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Bool, Float, Int, Key, PyTree

AnyBeams = TypeVar("AnyBeams", bound="Beams")
AnyBeamState = TypeVar("AnyBeamState", bound="BeamState")


class Hypotheses(struct.PyTreeNode):
    """A list of texts per prompt, best score first; an empty place has score ``-inf``. Groups may be stacked in front.

    Attributes:
      tokens: prompt and generated tokens, right-padded.
      length: valid tokens.
      log_prob: sum of the model's log-probabilities of the generated tokens.
      score: what they are ranked by.
    """

    tokens: Int[Array, "... B K L"]
    length: Int[Array, "... B K"]
    log_prob: Float[Array, "... B K"]
    score: Float[Array, "... B K"]


class Beams(struct.PyTreeNode):
    """The running and the finished texts of one search per prompt.

    Attributes:
      tokens: running texts, prompt included, right-padded.
      length: valid tokens; equal for all running texts of a prompt.
      log_prob: sum of the model's log-probabilities of the generated tokens.
      running_score: what running texts are selected by: ``log_prob`` less the penalties gathered; ``-inf`` where there is none.
      finished: texts that ended.
      done: the search has ended; nothing changes any more.
    """

    tokens: Int[Array, "... B K L"]
    length: Int[Array, "... B K"]
    log_prob: Float[Array, "... B K"]
    running_score: Float[Array, "... B K"]
    finished: Hypotheses
    done: Bool[Array, "... B"]


class BeamState(Beams):
    """State of beam search: one search per prompt, and the model's side of it.

    Attributes:
      prompt_length: tokens of each prompt.
      limit: length at which its texts must stop.
      eos_tokens: ids that end a text.
      rng: carried, not used: the search is deterministic.
      cache: ``B * K`` rows, those of a prompt side by side; all tokens of a running text but its last are committed.
      stats: ``target_calls`` per prompt.
    """

    prompt_length: Int[Array, "B"]
    limit: Int[Array, "B"]
    eos_tokens: Int[Array, "N"]
    rng: Key[Array, "B"]
    cache: Cache
    stats: Stats


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Beam search over ``num_beams`` texts per prompt.

    Its guarantee, ``TOKEN_IDENTICAL``, is relative to beam search as the module docstring defines it (a plain reference is in
    the tests): same texts, except where two candidates are closer than rounding. It is not greedy text, unless
    ``num_beams=1``.

    A prompt for which the model returns NaN, or no possible token at all, ends at once with ``log_prob`` and ``score`` NaN.
    Where fewer texts exist than were asked for, the last ones have length 0 and score ``-inf``.

    Attributes:
      num_beams: running texts, and places of the finished list.
      length_penalty: exponent of the length that scores are divided by; 0 ranks by log-probability.
      num_return: texts returned, best first; all ``num_beams`` by default.
      early_stopping: when a prompt whose list is full may end. ``"never"``: when no running text can still enter the list
        (exact). False: when none would enter at its present length (a heuristic, Hugging Face's default). True: at once.
      sibling_penalty: ``gamma`` of Li, Monroe & Jurafsky; 0 is plain beam search.
    """

    num_beams: int = 4
    length_penalty: float | int = 1.0
    num_return: int | None = None
    early_stopping: bool | str = "never"
    sibling_penalty: float | int = 0.0

    def __post_init__(self):
        check_settings(self.num_beams, self.length_penalty, self.num_return, self.early_stopping)
        if not (math.isfinite(self.sibling_penalty) and self.sibling_penalty >= 0):
            raise ValueError(f"sibling_penalty must be a finite number >= 0, got {self.sibling_penalty}")

    @property
    def guarantee(self) -> Guarantee:
        """Identical to a plain beam search, near-ties excepted."""
        return Guarantee.TOKEN_IDENTICAL

    @property
    def reference(self) -> str:
        """The definition in the module's docstring."""
        return "beam search"

    @property
    def incremental(self) -> bool:
        """Which text is best is known at the end."""
        return False

    def init(self, model: LanguageModel, prompt: Prompt) -> BeamState:
        """Feed each prompt once and begin its ``num_beams`` texts.

        Raises:
          ValueError: a vocabulary too small to begin that many different texts.
        """
        state, log_probs = begin(model, prompt, self.num_beams, self.num_beams)
        return self.extend(state, log_probs)

    def step(self, model: LanguageModel, state: BeamState) -> BeamState:
        """Feed the last token of every running text and extend them."""
        return self.extend(*feed(model, state, jnp.broadcast_to(~state.done[:, None], state.length.shape)))

    def extend(self, state: BeamState, log_probs: Float[Array, "B K V"]) -> BeamState:
        """Extend the running texts by one token, given its log-probabilities."""
        state, parents = extend_beams(
            state,
            log_probs,
            state.prompt_length,
            state.limit,
            state.eos_tokens,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            sibling_penalty=self.sibling_penalty,
        )
        return reorder_cache(state, parents)

    def done(self, state: BeamState) -> Bool[Array, "B"]:
        """Prompts whose search has ended."""
        return state.done

    def result(self, state: BeamState) -> Decoded:
        """The best ``num_return`` texts; of a search not ended, running texts compete as they stand."""
        return rank(state, state.done[:, None], self.num_return or self.num_beams, self.length_penalty)


def check_settings(num_beams: int, length_penalty: float, num_return: int | None, early_stopping: bool | str):
    """Raise ``ValueError`` for settings that make no sense."""
    if num_beams < 1:
        raise ValueError(f"num_beams must be at least 1, got {num_beams}")
    if not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty must be finite, got {length_penalty}")
    if num_return is not None and not 1 <= num_return <= num_beams:
        raise ValueError(f"num_return must be between 1 and num_beams ({num_beams}), got {num_return}")
    if early_stopping not in (True, False, "never"):
        raise ValueError(f"early_stopping must be True, False or 'never', got {early_stopping!r}")


def begin(model: LanguageModel, prompt: Prompt, num_beams: int, width: int) -> tuple[BeamState, Float[Array, "B K V"]]:
    """Feed the prompts; return a state without generated tokens, and the first tokens' log-probabilities.

    Of every ``width`` beams of a prompt (one search) the first is alive with score 0, the others have ``-inf``: the first step
    is then no special case.

    Raises:
      ValueError: a vocabulary with fewer than ``width`` tokens that do not end a text.
    """
    num_ends = prompt.eos_tokens.shape[0]
    if width + num_ends > model.vocab_size:
        raise ValueError(
            f"num_beams gives {width} beams to one search: a vocabulary of {model.vocab_size} tokens, of which up to "
            f"{num_ends} end a text, cannot begin that many different texts"
        )
    logits, cache = feed_prompt(model, prompt, num_beams)
    batch = logits.shape[0]
    tokens = jnp.pad(prompt.tokens, ((0, 0), (0, prompt.capacity - prompt.tokens.shape[1])))
    tokens = jnp.repeat(tokens[:, None], num_beams, axis=1)
    length = jnp.repeat(prompt.length[:, None], num_beams, axis=1)
    zeros = jnp.zeros((batch, num_beams), logits.dtype)
    state = BeamState(
        tokens=tokens,
        length=length,
        log_prob=zeros,
        running_score=jnp.where(jnp.arange(num_beams) % width == 0, zeros, -jnp.inf),
        finished=Hypotheses(tokens, length, zeros - jnp.inf, zeros - jnp.inf),
        done=jnp.zeros(batch, bool),
        prompt_length=prompt.length,
        limit=prompt.length + prompt.max_new_tokens,
        eos_tokens=prompt.eos_tokens,
        rng=prompt.keys,
        cache=cache,
        stats=Stats(target_calls=jnp.ones(batch, jnp.int32)),
    )
    return state, jnp.repeat(jax.nn.log_softmax(logits, axis=-1)[:, None], num_beams, axis=1)


def feed(
    model: LanguageModel, state: AnyBeamState, active: Bool[Array, "B K"]
) -> tuple[AnyBeamState, Float[Array, "B K V"]]:
    """Feed the last token of every running text, ``B * K`` rows in one pass, and commit it where ``active``.

    Returns the state and the log-probabilities of the next tokens.
    """
    batch, num_beams = state.length.shape
    last = (state.length - 1)[..., None]
    tokens = jnp.take_along_axis(state.tokens, last, axis=2)
    logits, _, cache = model(tokens.reshape(-1, 1), last.reshape(-1, 1), state.cache)
    state = state.replace(
        cache=cache.commit(None, active.reshape(-1).astype(jnp.int32)),
        stats=Stats(target_calls=state.stats.target_calls + ~state.done),
    )
    return state, jax.nn.log_softmax(logits[:, 0], axis=-1).reshape(batch, num_beams, -1)


def reorder_cache(state: AnyBeamState, parents: Int[Array, "B K"]) -> AnyBeamState:
    """Give every running text the cache row of the text it continues; nothing is copied when all continue themselves."""
    batch, num_beams = parents.shape
    rows = (parents + jnp.arange(batch)[:, None] * num_beams).reshape(-1)
    same = (rows == jnp.arange(batch * num_beams)).all()
    return state.replace(cache=jax.lax.cond(same, lambda cache: cache, lambda cache: cache.fork(rows), state.cache))


def extend_beams(
    beams: AnyBeams,
    log_probs: Float[Array, "B K V"],
    prompt_length: Int[Array, "B"],
    limit: Int[Array, "B"],
    eos_tokens: Int[Array, "N"],
    *,
    length_penalty: float | int,
    early_stopping: bool | str,
    sibling_penalty: float | int = 0.0,
    penalty: Float[Array, "B #K V"] | None = None,
    accumulate: bool = True,
) -> tuple[AnyBeams, Int[Array, "B K"]]:
    """One step of one search per prompt.

    Args:
      beams: running and finished texts.
      log_probs: of the next token of each running text.
      prompt_length: tokens of each prompt.
      limit: length at which its texts stop.
      eos_tokens: ids that end a text.
      length_penalty: see :class:`BeamSearch`.
      early_stopping: see :class:`BeamSearch`.
      sibling_penalty: see :class:`BeamSearch`.
      penalty: subtracted from the log-probabilities for the selection.
      accumulate: whether ``penalty`` stays in the running score of the text that took it.

    Returns:
      The beams after the step and, per running text, the beam that it continues.
    """
    width, vocab_size = log_probs.shape[1:]
    gain = log_probs if penalty is None else log_probs - penalty
    # The best candidates overall are among the best of each text.
    gain, token = jax.lax.top_k(gain, min(width * (1 + eos_tokens.shape[0]), vocab_size))
    per_beam = token.shape[-1]
    raw = jnp.take_along_axis(log_probs, token, axis=2)
    log_prob = beams.log_prob[..., None] + raw
    running_score = beams.running_score[..., None] + (gain if accumulate else raw)
    selection = beams.running_score[..., None] + gain - sibling_penalty * jnp.arange(1, per_beam + 1)
    selection = jnp.where(jnp.isneginf(beams.running_score)[..., None], -jnp.inf, selection)  # a dead text may give NaN

    def flat(values):
        return values.reshape(values.shape[0], -1)

    num_candidates = min(width * (1 + eos_tokens.shape[0]), width * per_beam)
    selection, index = jax.lax.top_k(flat(selection), num_candidates)
    parent = index // per_beam
    token, log_prob, running_score = (
        jnp.take_along_axis(flat(values), index, axis=1) for values in (token, log_prob, running_score)
    )
    ends = (token[..., None] == eos_tokens).any(-1)

    def texts(chosen: Int[Array, "B K"]) -> Int[Array, "B K L"]:
        """Parent's text and the new token, of some candidates."""
        origin = jnp.take_along_axis(parent, chosen, axis=1)
        text = jnp.take_along_axis(beams.tokens, origin[..., None], axis=1)
        here = jnp.arange(text.shape[-1]) == beams.length[:, :1, None]
        return jnp.where(here, jnp.take_along_axis(token, chosen, axis=1)[..., None], text)

    length = beams.length[:, 0] + 1
    last = length >= limit
    size = (length - prompt_length).astype(log_prob.dtype)[:, None]
    first = jnp.broadcast_to(jnp.arange(width), beams.length.shape)
    best, going_on = jax.lax.top_k(jnp.where(ends, -jnp.inf, selection), width)
    alive = ~jnp.isneginf(best)
    after = Beams(
        tokens=texts(going_on),
        length=beams.length + 1,
        log_prob=jnp.take_along_axis(log_prob, going_on, axis=1),
        running_score=jnp.where(alive, jnp.take_along_axis(running_score, going_on, axis=1), -jnp.inf),
        finished=beams.finished,
        done=beams.done,
    )
    score = log_prob[:, :width] / size**length_penalty
    ended = Hypotheses(
        texts(first),
        after.length,
        log_prob[:, :width],
        jnp.where(ends[:, :width] & ~jnp.isneginf(selection[:, :width]), score, -jnp.inf),
    )
    finished = best_of(beams.finished, ended, as_hypotheses(after, last[:, None], prompt_length, length_penalty))
    # A text ahead can at best keep its log-probability; which length favours it depends on the sign of the penalty.
    best_length = size
    if early_stopping == "never":
        best_length = (limit - prompt_length).astype(size.dtype)[:, None] if length_penalty > 0 else size + 1
    bound = jnp.where(alive, after.log_prob / best_length**length_penalty, -jnp.inf).max(1)
    worst = finished.score[:, -1]
    over = ~jnp.isneginf(worst) | ~alive.any(1) if early_stopping is True else worst >= bound
    broken = (jnp.isnan(log_probs).any(-1) & ~jnp.isneginf(beams.running_score)).any(1)
    nan = jnp.where(broken, jnp.nan, 0).astype(score.dtype)[:, None]
    finished = finished.replace(log_prob=finished.log_prob + nan, score=finished.score + nan)
    after = after.replace(finished=finished, done=beams.done | last | over | broken)
    before = Beams(**{name: getattr(beams, name) for name in FIELDS})
    after = where_rows(beams.done, before, after)
    parents = jnp.where(beams.done[:, None], first, jnp.take_along_axis(parent, going_on, axis=1))
    return beams.replace(**{name: getattr(after, name) for name in FIELDS}), parents


FIELDS = tuple(field.name for field in dataclasses.fields(Beams))


def where_rows(condition: Bool[Array, "B"], yes: PyTree, no: PyTree) -> PyTree:
    """Choose between two pytrees row by row."""
    return jax.tree.map(lambda a, b: jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b), yes, no)


def as_hypotheses(
    beams: Beams, wanted: Bool[Array, "B #K"], prompt_length: Int[Array, "B"], length_penalty: float | int
) -> Hypotheses:
    """The running texts, scored as if they ended here; those not wanted become empty places."""
    size = (beams.length - prompt_length[:, None]).astype(beams.log_prob.dtype)
    alive = wanted & ~jnp.isneginf(beams.running_score)
    score = jnp.where(alive, beams.log_prob / size**length_penalty, -jnp.inf)
    return Hypotheses(beams.tokens, beams.length, beams.log_prob, score)


def best_of(first: Hypotheses, *others: Hypotheses) -> Hypotheses:
    """Merge lists, keeping as many texts as the first list has places; of equal scores the earlier list's comes first."""
    everything = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), first, *others)
    _, chosen = jax.lax.top_k(everything.score, first.score.shape[1])
    return jax.tree.map(
        lambda leaf: jnp.take_along_axis(leaf, chosen.reshape(*chosen.shape, *[1] * (leaf.ndim - 2)), axis=1),
        everything,
    )


def rank(state: BeamState, searched: Bool[Array, "B #K"], num_return: int, length_penalty: float | int) -> Decoded:
    """Cut the best ``num_return`` texts out of finished and, where the search goes on, running ones."""
    running = as_hypotheses(state, ~searched, state.prompt_length, length_penalty)
    best = best_of(state.finished, running)
    best = jax.tree.map(lambda leaf: leaf[:, :num_return], best)
    batch, _, positions = best.tokens.shape
    tokens = generated(best.tokens.reshape(-1, positions), jnp.repeat(state.prompt_length, num_return))
    length = jnp.where(jnp.isneginf(best.score), 0, best.length - state.prompt_length[:, None])
    return Decoded(
        tokens=tokens.reshape(batch, num_return, positions),
        length=length,
        log_prob=best.log_prob,
        score=best.score,
        target_calls=jnp.repeat(state.stats.target_calls[:, None], num_return, axis=1),
    )
