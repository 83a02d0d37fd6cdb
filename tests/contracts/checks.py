"""What a decoding method is held to. Each check raises ``AssertionError`` when a method does not keep a promise."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxdec.cache import PagedCache
from jaxdec.decoding import Method, Prompt, Sampling, decode, stream
from jaxdec.decoding.loop import UNLIMITED, advance, start
from jaxdec.decoding.prefix_sharing import PrefixSharing
from jaxdec.kv_layout import in_layout
from jaxdec.language_model import LanguageModel
from tests.contracts.expected import Text
from tests.reference import full_logits
from tests.tiny_models import markov_model

TIE = {"float32": 1e-4, "float64": 0.0}
NO_ENDS = (-1, -1)  # never matched; of the same shape as two end tokens, so that tests share compiled programs


def texts_of(decoded, row: int) -> list[list[int]]:
    """Token lists of one prompt."""
    return [ids[:length] for ids, length in zip(decoded.tokens[row].tolist(), decoded.length[row].tolist())]


def check_text(method: Method, model: LanguageModel, prompt: Prompt, expected: Sequence[list[Text]], tie: float) -> int:
    """Every text is that of the plain reference. Returns how many prompts differ at a near-tie (allowed, reported)."""
    decoded = decode(method, model, prompt)
    ties = 0
    for row, wanted in enumerate(expected):
        found = texts_of(decoded, row)[: len(wanted)]
        if found == [text.tokens for text in wanted]:
            log_probs = np.asarray(decoded.log_prob[row, : len(wanted)])
            np.testing.assert_allclose(log_probs, [text.log_prob for text in wanted], rtol=1e-4, atol=1e-3)
            continue
        gap = min(text.gap for text in wanted)
        assert gap < tie, (
            f"prompt {row}: {found}, expected {wanted}; no near-tie: the closest decision is {gap:.1e} apart"
        )
        ties += 1
    return ties


def check_sharing(method: Method, model: LanguageModel, prompt: Prompt, sharing: PrefixSharing):
    """What prompts share can be fed and kept once: the same texts, after the same number of passes."""
    expected, found = decode(method, model, prompt), decode(method, model, prompt.replace(sharing=sharing))
    for row in range(expected.tokens.shape[0]):
        assert texts_of(found, row) == texts_of(expected, row), f"prompt {row}: another text when prefixes are shared"
    np.testing.assert_allclose(found.log_prob, expected.log_prob, rtol=1e-4, atol=1e-3)
    assert found.target_calls.tolist() == expected.target_calls.tolist()


def check_paging(method: Method, model: LanguageModel, prompt: Prompt, page_size: int):
    """Rows can keep what they need themselves, in pages: the same texts and scores, after the same number of passes."""
    expected, found = decode(method, model, prompt), decode(method, model, in_layout(prompt, "paged", page_size))
    for row in range(expected.tokens.shape[0]):
        assert texts_of(found, row) == texts_of(expected, row), f"prompt {row}: another text when keys lie in pages"
    for name in ("log_prob", "score"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-3)
    assert found.target_calls.tolist() == expected.target_calls.tolist()


def check_law(
    method: Method,
    sampling: Sampling,
    companions: Callable[[LanguageModel], dict] = lambda model: {},
    num_rows: int = 6144,
    seed: int = 0,
    least_p: float = 1e-4,
):
    """The first two tokens follow the exact joint law, for rows of a batch with different prompts, decoded together."""
    model, table = markov_model(num_states=6, seed=1, concentration=0.9)
    model = model.accompanied(**companions(model))
    law = process(table, sampling)
    kinds = [[2, 0], [1, 3, 4], [5]]
    prompt = Prompt.create([kinds[row % 3] for row in range(num_rows)], 3, seed=seed)
    tokens = np.asarray(decode(method, model, prompt).tokens)[:, 0]
    for kind, context in enumerate(kinds):
        expected = law[context[-1]][:, None] * law
        counts = Counter(map(tuple, tokens[kind::3, :2].tolist()))
        observed = np.array([[counts[a, b] for b in range(6)] for a in range(6)], float)
        total = observed.sum()
        assert observed[expected == 0].sum() == 0, f"{sampling}: tokens of probability zero were drawn"
        likely = expected * total >= 5  # the usual condition; the rest becomes one cell
        cells = [*observed[likely], observed[~likely].sum()]
        wanted = [*(expected[likely] * total), expected[~likely].sum() * total]
        if wanted[-1] < 5:
            cells, wanted = np.array(cells[:-1]), np.array(wanted[:-1])
            wanted = wanted * cells.sum() / wanted.sum()
        p_value = scipy.stats.chisquare(cells, wanted).pvalue
        assert p_value > least_p, f"prompt {context}: chi-square p = {p_value:.1e} against {sampling}"


def process(table: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Temperature, top-k, top-p and min-p in plain NumPy, row by row."""
    rows = []
    for p in table:
        p = p ** (1 / sampling.temperature)
        p = p / p.sum()
        order = np.argsort(p)[::-1]
        if sampling.top_k is not None:
            p[order[sampling.top_k :]] = 0
            p = p / p.sum()
        if sampling.top_p is not None:
            before = np.cumsum(p[order]) - p[order]
            p[order[before >= sampling.top_p]] = 0
            p = p / p.sum()
        if sampling.min_p is not None:
            p = np.where(p >= sampling.min_p * p.max(), p, 0)
        rows.append(p / p.sum())
    return np.array(rows)


def check_cache(method: Method, model: LanguageModel, prompt: Prompt, tolerance: float):
    """After each step, the committed keys and values are those of a fresh prefill of the committed tokens."""
    steps = 0
    for state in stream(method, model, prompt):
        tokens = state.tokens.reshape(-1, state.tokens.shape[-1])
        length = np.asarray(state.length).reshape(-1)
        alive = np.asarray(getattr(state, "running_score", jnp.zeros(length.shape))).reshape(-1) > -np.inf
        done = np.repeat(np.asarray(method.done(state)), len(length) // len(prompt.length))
        committed = np.asarray(state.cache.length)
        cache = state.cache.contiguous() if isinstance(state.cache, PagedCache) else state.cache
        fresh = _prefilled(model, tokens)
        for row in np.flatnonzero(alive & ~done):
            assert committed[row] == length[row] - 1, f"row {row}: {committed[row]} entries for {length[row]} tokens"
            for kept, wanted in zip((*cache.keys, *cache.values), (*fresh.keys, *fresh.values)):
                here, there = kept[row, :, : committed[row]], wanted[row, :, : committed[row]]
                np.testing.assert_allclose(here, there, atol=tolerance, err_msg=f"row {row} after step {steps}")
        steps += 1
    assert steps > 1


@jax.jit
def _prefilled(model: LanguageModel, tokens: jax.Array):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return model(tokens, positions, model.init_cache(*tokens.shape)).cache


def check_stopping(method: Method, model: LanguageModel, prompt: Prompt):
    """Texts end right behind their first end token or at their budget; a finished row keeps its state, to the last bit."""
    ends = [end for end in prompt.eos_tokens.tolist() if end >= 0]
    decoded = decode(method, model, prompt)
    reasons = set()
    for row, budget in enumerate(prompt.max_new_tokens.tolist()):
        for text in texts_of(decoded, row):
            stops = [index for index, token in enumerate(text) if token in ends]
            assert 1 <= len(text) <= budget
            assert stops in ([], [len(text) - 1]), f"prompt {row}: {text} goes on behind an end token"
            assert stops or len(text) == budget, f"prompt {row}: {text} stopped before its end"
            reasons.add("end" if stops else "budget")
    assert reasons == {"end", "budget"}, "the test shows nothing: give prompts that end both ways"
    before = None
    for state in stream(method, model, prompt):
        done = np.asarray(method.done(state))
        now = {"done": done, **{name: np.asarray(getattr(state, name)) for name in ("tokens", "length", "log_prob")}}
        calls = np.asarray(state.stats.target_calls)
        if before is not None:
            for row in np.flatnonzero(before["done"]):
                for name, value in now.items():
                    chex.assert_trees_all_equal(value[row], before[name][row])
                assert calls[row] == before["calls"][row]
        before = {**now, "calls": calls}


def check_statistics(method: Method, model: LanguageModel, prompt: Prompt):
    """Calls, lengths and log-probabilities add up."""
    decoded = decode(method, model, prompt)
    loops = sum(1 for _ in stream(method, model, prompt))
    calls = np.asarray(decoded.target_calls)
    assert (calls >= 1).all()
    assert calls.max() == loops, "target calls are not the number of passes"
    assert (np.asarray(decoded.length).max(1) >= calls.max(1)).all(), "a pass emits at least one token"
    for row, context in enumerate(prompt.tokens.tolist()):
        context = context[: int(prompt.length[row])]
        for text, log_prob in zip(texts_of(decoded, row), decoded.log_prob[row].tolist()):
            laws = jax.nn.log_softmax(full_logits(model, [*context, *text]), axis=-1)
            forced = sum(float(laws[len(context) + i - 1, token]) for i, token in enumerate(text))
            np.testing.assert_allclose(log_prob, forced, rtol=1e-4, atol=1e-3)


def check_unused_slots(method: Method, model: LanguageModel, prompt: Prompt):
    """Slots that hold nothing are never read: with NaN in them, everything stays as it was."""
    state = start(method, model, prompt)
    clean = method.result(advance(method, model, start(method, model, prompt), UNLIMITED))

    def poison(buffer):
        if isinstance(state.cache, PagedCache):
            return jnp.where(_unused_slots(state.cache)[..., None, None], jnp.nan, buffer)
        unused = jnp.arange(buffer.shape[2]) >= state.cache.length[:, None]
        return jnp.where(unused[:, None, :, None], jnp.nan, buffer)

    cache = state.cache.replace(
        keys=tuple(map(poison, state.cache.keys)), values=tuple(map(poison, state.cache.values))
    )
    poisoned = method.result(advance(method, model, state.replace(cache=cache), UNLIMITED))
    for name in ("tokens", "length", "log_prob", "score"):
        np.testing.assert_array_equal(getattr(poisoned, name), getattr(clean, name), err_msg=name)
    assert np.isfinite(clean.log_prob).all()


def _unused_slots(cache: PagedCache) -> np.ndarray:
    """Slots of a pool that hold nothing: all but what lies in the pages of a row, up to its length."""
    unused = np.ones((cache.keys[0].shape[0], cache.page_size), bool)
    for pages, length in zip(np.asarray(cache.page_table), cache.length.tolist()):
        slots = np.arange(length)
        unused[pages[slots // cache.page_size], slots % cache.page_size] = False
    return unused


def check_independence(method: Method, model: LanguageModel, prompts: Sequence[Sequence[int]], budget: int):
    """A prompt gives the same text alone as in a batch."""
    together = decode(method, model, Prompt.create(prompts, budget, eos_tokens=NO_ENDS))
    for row, tokens in enumerate(prompts):
        alone = decode(method, model, Prompt.create([tokens], budget, eos_tokens=NO_ENDS))
        assert texts_of(alone, 0) == texts_of(together, row), f"prompt {row} depends on its batch"
        assert alone.target_calls[0, 0] == together.target_calls[row, 0]


def check_streaming(method: Method, model: LanguageModel, prompt: Prompt):
    """Returning to the host does not change the text."""
    whole = decode(method, model, prompt)
    for steps in (1, 3):
        *_, state = stream(method, model, prompt, steps)
        chex.assert_trees_all_equal(method.result(state), whole)


def check_traces(method: Method, model: LanguageModel, prompts: Sequence[Prompt]):
    """Prompts of one bucket share one compiled program: neither lengths, budgets, seeds nor end tokens are shapes."""
    chex.clear_trace_counter()
    once: Callable = functools.partial(chex.assert_max_traces, n=1)
    begin = jax.jit(once(lambda model, prompt: method.init(model, prompt)))
    step = jax.jit(once(lambda model, state: method.step(model, state)))
    for prompt in prompts:
        begin.trace(model, prompt)
        step.trace(model, start(method, model, prompt))
