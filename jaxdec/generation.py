"""Text in, text out: the methods of :mod:`jaxdec.decoding` applied to a loaded model and its tokenizer."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdec.chat_template import render_chat
from jaxdec.compat import CompileClock
from jaxdec.context_rules import attention_rule, kv_cache_rule, with_rules
from jaxdec.decoding.loop import UNLIMITED, Method, advance, start
from jaxdec.decoding.methods import AUTO_NODES, DRAFTERS, build_method
from jaxdec.decoding.sampling import Sampling
from jaxdec.decoding.speculative import Speculative
from jaxdec.decoding.state import Guarantee, Prompt
from jaxdec.kv_layout import check_layout, in_layout
from jaxdec.loading import LoadedModel
from jaxdec.shared_prompts import share
from jaxdec.speculation import COMPANIONS, take_companions, with_auto_sizes

STEPS_BETWEEN_STOP_CHECKS = 8


@dataclasses.dataclass(frozen=True)
class Generation:
    """One text and how it came about.

    Attributes:
      text: decoded new tokens, cut before the first stop string.
      token_ids: the new tokens; the end token is included if one was emitted.
      new_tokens: their number.
      finish_reason: ``"eos"``, ``"stop"`` (a stop string), ``"length"`` (the budget) or ``"interrupted"``.
      log_prob: sum of the model's own log-probabilities of all tokens decoded (nats).
      score: what the method ranks its texts by.
      target_calls: forward passes of the target model that worked on this text, the prefill included.
      tokens_per_call: ``new_tokens / target_calls``; plain decoding is 1.
      prefill_seconds: feeding the prompts of the batch and choosing the first tokens, without compiling.
      decode_seconds: all further steps of the batch, without compiling.
      tokens_per_second: tokens of the whole batch after the first ones, per second of ``decode_seconds``.
      compile_seconds: tracing, lowering, and compiling or reading the compilation cache.
      method: the method's name, or the class of a method object.
      guarantee: how the text relates to that of ``reference``.
      reference: what the guarantee is relative to, such as ``"greedy decoding"``.
      cache_bytes: bytes that the keys and values of the whole batch take while decoding, reserved room included.
      model: name of the model.
      alternatives: further texts of the same prompt (samples, beams), best first where they are ranked.
    """

    text: str
    token_ids: list[int]
    new_tokens: int
    finish_reason: str
    log_prob: float
    score: float
    target_calls: int
    tokens_per_call: float
    prefill_seconds: float
    decode_seconds: float
    tokens_per_second: float
    compile_seconds: float
    method: str
    guarantee: str
    reference: str
    cache_bytes: int
    model: str
    alternatives: tuple["Generation", ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; ``alternatives`` is left out when there are none."""
        fields = dataclasses.asdict(self)
        if not self.alternatives:
            del fields["alternatives"]
        return fields


class Piece(NamedTuple):
    """Text that has just become certain. ``row`` is the prompt, ``sample`` the text of that prompt."""

    row: int
    sample: int
    text: str


class _Texts(NamedTuple):
    """:class:`jaxdec.decoding.Decoded` on the host."""

    tokens: np.ndarray
    length: np.ndarray
    log_prob: np.ndarray
    score: np.ndarray
    target_calls: np.ndarray


class Run:
    """One decoding run over a batch of prompts: iterate over it for the text as it appears, then take ``results()``.

    ``results()`` works at any time: after an interruption it holds the text so far.

    Args:
      lm: what :func:`jaxdec.load` returned.
      prompts: texts, or lists of chat messages.
      method: a name of :data:`jaxdec.decoding.methods.METHODS`, or a method object.
      sampling: how ``"sample"`` chooses tokens.
      max_new_tokens: budget of every prompt.
      seed: seed of all draws.
      raw: feed texts as they are, without the chat template.
      stop: strings that end a text; the text is cut before the first of them.
      num_samples: texts per prompt, for methods that sample.
      share_prefixes: whether what prompts have in common is fed and kept once (:mod:`jaxdec.decoding.prefix_sharing`):
        ``"auto"`` where it saves enough to pay, True wherever rows have 32 tokens in common, False never; or a tree of yours,
        per level ``(number of prompts, number of tokens)`` of each segment.
      kv_layout: how keys and values lie in memory: ``"contiguous"``, as much room for every row as the longest needs, or
        ``"paged"`` (:mod:`jaxdec.cache.paged`), as much as each needs, for batches of very different lengths.
      attention: by which rule less than all of the context is read, such as ``"vertical_slash:vertical=256,slash=256"`` for
        prompts or ``"quest:budget=1024"`` while decoding (:data:`jaxdec.context_rules.ATTENTION_RULES`), or a rule object;
        dense by default. With a rule here or in ``kv_cache`` the text is approximate, whatever the method.
      kv_cache: by which rule less of the prompt is kept, such as ``"snapkv:capacity=1024"``, or all in fewer bits, such as
        ``"quantized:bits=4"`` (:data:`jaxdec.context_rules.KV_CACHE_RULES`), or a rule object; full by default.
      **method_options: fields of the method, such as ``num_beams``; for speculative methods also ``tree_size`` (a number, or
        ``"auto"``: what pays on this machine, measured on first use), and what accompanies the model: ``draft`` (a model or its
        name) or ``draft_layers``, ``datastore``, ``trigram_table``, ``adaptive_table`` (files or objects).

    Raises:
      ValueError: an argument that makes no sense.
      FloatingPointError: while decoding, if the model returns NaN.
    """

    def __init__(
        self,
        lm: LoadedModel,
        prompts: Sequence[str] | Sequence[Sequence[dict[str, str]]],
        *,
        method: str | Method = "greedy",
        sampling: Sampling | None = None,
        max_new_tokens: int = 128,
        seed: int = 0,
        raw: bool = False,
        stop: Sequence[str] = (),
        num_samples: int = 1,
        share_prefixes: bool | str | Sequence[Sequence[tuple[int, int]]] = "auto",
        kv_layout: str = "contiguous",
        attention: Any = None,
        kv_cache: Any = None,
        **method_options: Any,
    ):
        if isinstance(stop, str):
            raise ValueError(f"stop must be a sequence of strings, got the string {stop!r}")
        if any(not text for text in stop):
            raise ValueError("stop contains an empty string, which every text contains")
        check_layout(kv_layout)
        rules = {"attention": attention_rule(attention), "kv_cache": kv_cache_rule(kv_cache)}
        if any(rule is not None for rule in rules.values()) and share_prefixes == "auto":
            share_prefixes = False
        self.lm = lm
        self.method_name = method if isinstance(method, str) else type(method).__name__
        # What a method can be asked for is checked before a second model or a table is read.
        auto = method_options.get("tree_size") == "auto" and method in DRAFTERS
        if auto:
            method_options = {**method_options, "tree_size": AUTO_NODES[-1]}
        own = {
            name: value for name, value in method_options.items() if name not in COMPANIONS.get(self.method_name, ())
        }
        self.method = build_method(method, sampling=sampling, num_samples=num_samples, **own)
        self.stop = tuple(stop)
        token_ids = [encode_prompt(lm, prompt, raw=raw) for prompt in prompts]
        unshared = Prompt.create(
            token_ids,
            max_new_tokens,
            eos_tokens=lm.tokenizer.eos_token_ids,
            seed=seed,
            vocab_size=lm.model.vocab_size,
            max_positions=lm.model.max_positions,
        )
        texts_per_prompt = getattr(self.method, "num_beams", getattr(self.method, "num_samples", 1))
        shared, self._row_of = share(unshared, token_ids, share_prefixes, texts_per_prompt)
        self.prompt = with_rules(in_layout(shared, kv_layout), **rules)
        self.model = lm.model.accompanied(**take_companions(method, method_options, lm))
        if auto:
            assert isinstance(self.method, Speculative)
            self.method = with_auto_sizes(self.method, lm.model, len(token_ids) * num_samples)
        self._clock = CompileClock()
        self._prefill_seconds = 0.0
        self._decode_seconds = 0.0
        self._state: Any = None
        self._decoded: Any = None
        self._finished = False

    def __iter__(self) -> Iterator[Piece]:
        return self.pieces()

    def pieces(self, steps: int = 1) -> Iterator[Piece]:
        """Decode, returning to the host every ``steps`` steps; yield text as soon as no later token can change it.

        Methods that rank several texts (beams) only know their texts at the end, and yield them then.
        """
        shown: dict[tuple[int, int], int] = {}  # characters yielded so far, per text
        for finished in self.states(steps):
            if self.method.incremental or finished:
                yield from self._new_text(shown, finished)

    def states(self, steps: int = 1) -> Iterator[bool]:
        """Decode, returning to the host every ``steps`` steps; yield whether all texts are finished."""
        self._timed(start, self.method, self.model, self.prompt)
        yield self._finished
        while not self._finished:
            self._timed(advance, self.method, self.model, self._state, steps)
            if self.method.incremental:
                self._stop_rows()
            yield self._finished

    def run(self) -> list[Generation]:
        """Decode to the end without streaming."""
        for _ in self.states(STEPS_BETWEEN_STOP_CHECKS if self.stop and self.method.incremental else UNLIMITED):
            pass
        return self.results()

    @property
    def state(self) -> Any:
        """The method's state after the last step, such as the counters of a speculative method; None before the first."""
        return self._state

    def tokens_so_far(self) -> int:
        """New tokens of all texts."""
        return 0 if self._decoded is None else int(self._decoded.length.sum())

    def results(self) -> list[Generation]:
        """One :class:`Generation` per prompt, its further texts in ``alternatives``."""
        if self._decoded is None:
            return []
        decoded = self._decoded
        new_after_first = int(np.maximum(decoded.length - 1, 0).sum())
        rate = new_after_first / self._decode_seconds if self._decode_seconds > 0 else 0.0
        results = []
        for row in range(decoded.tokens.shape[0]):
            texts = [self._generation(row, sample, rate) for sample in range(decoded.tokens.shape[1])]
            results.append(dataclasses.replace(texts[0], alternatives=tuple(texts[1:])))
        return results

    def _timed(self, function: Any, *arguments: Any):
        """Call ``start`` or ``advance`` and bring the texts to the host; book the time without that spent compiling."""
        begin, compiled = time.perf_counter(), self._clock.seconds
        with self._clock:
            self._state = function(*arguments)
            self._fetch()
        seconds = time.perf_counter() - begin - (self._clock.seconds - compiled)
        if function is start:
            self._prefill_seconds += seconds
        else:
            self._decode_seconds += seconds

    def _fetch(self):
        """Bring the texts to the host, so that they outlive the donated state."""
        decoded = _result(self.method, self._state)
        self._decoded = _Texts(**{name: np.asarray(getattr(decoded, name))[self._row_of] for name in _Texts._fields})
        self._finished = bool(self.method.done(self._state).all())
        broken = np.isnan(self._decoded.log_prob).any(axis=1)
        if broken.any():
            raise FloatingPointError(
                f"model {self.lm.name!r} returned NaN logits for prompt {int(np.argmax(broken))}: its weights are damaged, or "
                f"values overflow in {jax.tree.leaves(self.model.params)[0].dtype}"
            )

    def _stop_rows(self):
        """End the rows whose text has come to contain a stop string."""
        if not self.stop or self._finished:
            return
        hit = [self._cut(self._ids(row, sample))[1] for row, sample in np.ndindex(*self._decoded.length.shape)]
        if any(hit):
            by_row = np.reshape(hit, self._decoded.length.shape)[np.argsort(self._row_of)].reshape(-1)
            self._state = self._state.replace(done=self._state.done | by_row)
            self._finished = bool(self._state.done.all())

    def _ids(self, row: int, sample: int) -> list[int]:
        return self._decoded.tokens[row, sample, : self._decoded.length[row, sample]].tolist()

    def _cut(self, ids: list[int]) -> tuple[str, bool]:
        """Decode and cut before the first stop string."""
        text = self.lm.tokenizer.decode(ids)
        ends = [text.find(stop) for stop in self.stop if stop in text]
        return (text[: min(ends)], True) if ends else (text, False)

    def _new_text(self, shown: dict[tuple[int, int], int], finished: bool) -> Iterator[Piece]:
        held_back = max(map(len, self.stop), default=1) - 1  # a stop string may be here but for its last character
        for row, sample in np.ndindex(*self._decoded.length.shape):
            text, stopped = self._cut(self._ids(row, sample))
            if not (finished or stopped):
                text = text.rstrip("\ufffd")  # the first bytes of a character that is still to come
                text = text[: len(text) - held_back]
            before = shown.get((row, sample), 0)
            if len(text) > before:
                yield Piece(row, sample, text[before:])
                shown[row, sample] = len(text)

    def _generation(self, row: int, sample: int, rate: float) -> Generation:
        ids = self._ids(row, sample)
        text, stopped = self._cut(ids)
        if stopped:
            reason = "stop"
        elif ids and ids[-1] in self.lm.tokenizer.eos_token_ids:
            reason = "eos"
        else:
            reason = "length" if len(ids) >= int(self.prompt.max_new_tokens[row]) else "interrupted"
        calls = int(self._decoded.target_calls[row, sample])
        return Generation(
            text=text,
            token_ids=ids,
            new_tokens=len(ids),
            finish_reason=reason,
            log_prob=float(self._decoded.log_prob[row, sample]),
            score=float(self._decoded.score[row, sample]),
            target_calls=calls,
            tokens_per_call=len(ids) / calls,
            prefill_seconds=self._prefill_seconds,
            decode_seconds=self._decode_seconds,
            tokens_per_second=rate,
            compile_seconds=self._clock.seconds,
            method=self.method_name,
            guarantee=str(self.method.guarantee if self.prompt.rules is None else Guarantee.APPROXIMATE),
            cache_bytes=int(getattr(getattr(self._state, "cache", None), "nbytes", 0)),
            reference=self.method.reference,
            model=self.lm.name,
        )


_result = jax.jit(lambda method, state: method.result(state), static_argnums=0)


def encode_prompt(lm: LoadedModel, prompt: str | Sequence[dict[str, str]], *, raw: bool) -> list[int]:
    """Turn a prompt into token ids.

    Args:
      lm: the model.
      prompt: a text, or a list of chat messages ``{"role": ..., "content": ...}``.
      raw: feed the text as it is; otherwise, if the model has a chat template, the text becomes a user message.

    Raises:
      ValueError: an empty prompt, or messages together with ``raw``.
    """
    if not prompt:
        raise ValueError("prompt is empty: give at least one character")
    if isinstance(prompt, str) and (raw or lm.tokenizer.chat_template is None):
        return lm.tokenizer.encode(prompt)
    if raw:
        raise ValueError("raw is True and prompt is a list of messages: messages need the chat template")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return lm.tokenizer.encode(render_chat(lm.tokenizer, messages, add_generation_prompt=True), add_bos=False)


def generate(lm: LoadedModel, prompt: Any, **options: Any) -> Any:
    """Generate text.

    Args:
      lm: what :func:`jaxdec.load` returned.
      prompt: a text, a list of chat messages, or a list of either for a batch.
      **options: ``method`` (a name of :data:`jaxdec.decoding.methods.METHODS`, or a method object), ``sampling``,
        ``max_new_tokens``, ``seed``, ``raw`` (skip the chat template), ``stop`` (strings that end a text), ``num_samples``,
        ``share_prefixes``, ``kv_layout``, ``attention``, ``kv_cache``; anything else goes to the method, for example
        ``num_beams=4``. See :class:`Run`.

    Returns:
      A :class:`Generation`, or a list of them for a batch.

    Raises:
      ValueError: an argument that makes no sense; its name, value and what is allowed are in the message.
    """
    single = isinstance(prompt, str) or (bool(prompt) and isinstance(prompt[0], dict))
    results = Run(lm, [prompt] if single else prompt, **options).run()
    return results[0] if single else results
