"""Beam search against a plain-Python one, and against what must be true of it."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxdec.decoding import Autoregressive, BeamSearch, Prompt, decode, stream
from jaxdec.decoding.beam_search import BeamState
from jaxdec.decoding.loop import UNLIMITED, advance, start
from jaxdec.decoding.methods import build_method
from jaxdec.language_model import LanguageModel
from tests.decoding.beam_reference import search
from tests.decoding.timed_markov import law_of, timed_markov
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.reference import full_logits, on_host
from tests.tiny_models import tiny_transformer

VOCAB = 9
METHODS = [
    BeamSearch(1),
    BeamSearch(2),
    BeamSearch(4),
    BeamSearch(7),
    BeamSearch(3, length_penalty=0.0),
    BeamSearch(3, length_penalty=-0.7, num_return=2),
    BeamSearch(3, length_penalty=2.5, early_stopping=False),
    BeamSearch(4, early_stopping=True),
    BeamSearch(4, sibling_penalty=0.6),
    BeamSearch(2, sibling_penalty=3.0, length_penalty=0.5),
]

batches = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "sharpness": st.sampled_from([0.3, 1.5, 4.0]),
        "forbidden": st.sampled_from([0.0, 0.5, 0.9]),
        "prompts": st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6), min_size=3, max_size=3),
        "budgets": st.lists(st.integers(1, 9), min_size=3, max_size=3),
        "ends": st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=2, unique=True) | st.just([-1, -1]),
    }
)


def options(method) -> dict:
    return {name: getattr(method, name) for name in method.__dataclass_fields__}


def check_against_reference(method, batch, dtype=jnp.float32, least_gap=1e-4, tolerance=1e-4):
    model, log_probs, embeddings = timed_markov(
        VOCAB, batch["seed"], batch["sharpness"], batch["forbidden"], dtype=dtype
    )
    prompt = Prompt.create(batch["prompts"], batch["budgets"], eos_tokens=batch["ends"])
    ends = [end for end in batch["ends"] if end >= 0]
    extra = {"embeddings": embeddings.tolist()} if hasattr(method, "diversity") else {}
    expected = [
        search(law_of(log_probs), tokens, budget, ends, **options(method), **extra)
        for tokens, budget in zip(batch["prompts"], batch["budgets"])
    ]
    assume(min(found.gap for found in expected) > least_gap)
    decoded = on_host(decode(method, model, prompt))
    for row, found in enumerate(expected):
        num_found = len(found.texts)
        texts = [tuple(ids[:n]) for ids, n in zip(decoded.tokens[row].tolist(), decoded.length[row])]
        assert texts[:num_found] == [text.tokens for text in found.texts]
        np.testing.assert_allclose(decoded.score[row, :num_found], [t.score for t in found.texts], tolerance, tolerance)
        np.testing.assert_allclose(
            decoded.log_prob[row, :num_found], [t.log_prob for t in found.texts], tolerance, tolerance
        )
        assert (decoded.length[row, num_found:] == 0).all()
        assert np.isneginf(decoded.score[row, num_found:]).all()
        assert (decoded.target_calls[row] == found.calls).all()
    return decoded, expected


@settings(deadline=None, max_examples=24)
@given(st.sampled_from(METHODS), batches)
def test_equals_the_plain_reference(method, batch):
    check_against_reference(method, batch)


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(st.sampled_from(METHODS), batches)
def test_equals_the_plain_reference_in_many_cases(method, batch):
    check_against_reference(method, batch)


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(st.sampled_from(METHODS[1:3] + METHODS[-1:]), batches)
def test_equals_the_plain_reference_to_rounding_in_float64(method, batch):
    with jax.enable_x64(True):
        check_against_reference(method, batch, jnp.float64, least_gap=1e-12, tolerance=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("method", [BeamSearch(4), BeamSearch(3, length_penalty=0.3, sibling_penalty=0.5)])
def test_a_transformer_with_ragged_prompts_end_tokens_and_budgets(method):
    model = tiny_transformer(scale=4.0)
    prompts, budgets = [[3, 1, 4, 1, 5], [9, 2], list(range(17, 35)), [7]], [9, 12, 1, 6]
    cached = {}

    def law(text):
        if text not in cached:
            cached[text] = jax.nn.log_softmax(full_logits(model, list(text))[-1]).tolist()
        return cached[text]

    plain = search(law, prompts[0], 9, [], **options(method))
    ends = [plain.texts[0].tokens[5], plain.texts[-1].tokens[3]]
    decoded = decode(method, model, Prompt.create(prompts, budgets, eos_tokens=ends))
    for row, (prompt, budget) in enumerate(zip(prompts, budgets)):
        found = search(law, prompt, budget, ends, **options(method))
        assert found.gap > 1e-5, "the comparison would depend on rounding: choose other prompts"
        texts = [tuple(ids[:n]) for ids, n in zip(decoded.tokens[row].tolist(), decoded.length[row])]
        assert texts == [text.tokens for text in found.texts]
        np.testing.assert_allclose(decoded.score[row], [text.score for text in found.texts], atol=1e-4)
        # The stored log-probability is what teacher forcing gives.
        for text, log_prob in zip(texts, decoded.log_prob[row]):
            forced = sum(law((*prompt, *text[:i]))[text[i]] for i in range(len(text)))
            assert forced == pytest.approx(float(log_prob), abs=1e-4)


@pytest.mark.slow
def test_one_beam_is_greedy_decoding():
    model = tiny_transformer(scale=4.0)
    prompt = Prompt.create([[3, 1, 4], [1, 5, 9, 2, 6]], [11, 7], eos_tokens=[5])
    beam, greedy = decode(BeamSearch(1), model, prompt), decode(Autoregressive(), model, prompt)
    np.testing.assert_array_equal(beam.length, greedy.length)
    for row, length in enumerate(greedy.length[:, 0].tolist()):
        assert beam.tokens[row, 0, :length].tolist() == greedy.tokens[row, 0, :length].tolist()
    np.testing.assert_allclose(beam.log_prob, greedy.log_prob, atol=1e-4)


def test_the_running_texts_are_the_best_set_of_extensions_there_is():
    """Brute force: of all sets of K extensions of the last step's texts, the one with the largest sum was chosen."""
    model, log_probs, _ = timed_markov(5, seed=3)
    law, num_beams = law_of(log_probs), 2
    texts = [((2, 1), 0.0)]
    for state in stream(BeamSearch(num_beams), model, Prompt.create([[2, 1]], 6)):
        extensions = [((*text, v), total + p) for text, total in texts for v, p in enumerate(law(text))]
        texts = list(max(itertools.combinations(extensions, num_beams), key=lambda chosen: sum(c[1] for c in chosen)))
        running = {tuple(ids[: state.length[0, 0]]) for ids in state.tokens[0].tolist()}
        assert running == {text for text, _ in texts}


def test_the_cache_holds_every_running_text_but_its_last_token():
    """The Markov model stores (token, position) as keys: after each reordering they must be those of the beam's own text."""
    model, _, _ = timed_markov(VOCAB, seed=11, sharpness=0.5)
    reordered = False
    previous = None
    for state in stream(BeamSearch(4), model, Prompt.create([[1, 2, 3], [4]], [9, 5], eos_tokens=[0])):
        assert isinstance(state, BeamState)
        for row, searched in enumerate(state.done.tolist()):
            for beam in range(4):
                if searched or np.isneginf(state.running_score[row, beam]):
                    continue
                length = int(state.length[row, beam])
                entries = state.cache.keys[0][row * 4 + beam, 0, : length - 1]
                assert int(state.cache.length[row * 4 + beam]) == length - 1
                np.testing.assert_array_equal(entries[:, 0], state.tokens[row, beam, : length - 1])
                np.testing.assert_array_equal(entries[:, 1], np.arange(length - 1))
        texts = [[tuple(ids[:3]) for ids in row] for row in state.tokens[:, :, 3:].tolist()]
        reordered |= previous is not None and texts != previous
        previous = texts
    assert reordered, "no beam was ever reordered: the test shows nothing"


@pytest.mark.slow
def test_rows_do_not_depend_on_their_batch():
    model = tiny_transformer(scale=4.0)
    prompts, budgets = [[3, 1, 4], [2, 7, 1, 8, 2, 8], [5]], [9, 3, 6]
    together = decode(BeamSearch(3), model, Prompt.create(prompts, budgets, eos_tokens=[13]))
    for row in range(3):
        alone = decode(BeamSearch(3), model, Prompt.create([prompts[row]], budgets[row], eos_tokens=[13]))
        np.testing.assert_array_equal(alone.length[0], together.length[row])
        for beam, length in enumerate(alone.length[0].tolist()):
            assert alone.tokens[0, beam, :length].tolist() == together.tokens[row, beam, :length].tolist()
        assert alone.target_calls[0, 0] == together.target_calls[row, 0]


def test_a_search_ends_only_when_nothing_can_enter_the_list():
    """With and without the early end, the result is the same; the early end saves calls."""
    model, _, _ = timed_markov(VOCAB, seed=5, sharpness=3.0)
    prompt = Prompt.create([[1], [2], [3], [4]], 14, eos_tokens=[0, 6])
    method = BeamSearch(2, length_penalty=0.2)
    ended = decode(method, model, prompt)
    state = start(method, model, prompt)
    for _ in range(13):  # undo every early end: search on to the budget
        over = state.length[:, 0] >= state.limit
        state = advance(method, model, state.replace(done=over), 1)
    full = method.result(state)
    assert (np.asarray(ended.target_calls)[:, 0] < 14).any()
    np.testing.assert_array_equal(ended.length, full.length)
    np.testing.assert_allclose(ended.score, full.score, atol=1e-6)


def test_an_interrupted_search_returns_running_texts():
    model, _, _ = timed_markov(VOCAB, seed=5)
    state = start(BeamSearch(3), model, Prompt.create([[1, 2]], 9))
    partial = BeamSearch(3).result(state)
    assert partial.length.tolist() == [[1, 1, 1]]
    assert (np.diff(partial.score[0]) <= 0).all()
    final = BeamSearch(3).result(advance(BeamSearch(3), model, state, UNLIMITED))
    assert final.length.tolist() == [[9, 9, 9]]


@pytest.mark.parametrize("poison", [np.nan, -np.inf, np.inf])
def test_a_broken_law_ends_its_row_with_nan_and_leaves_the_others_alone(poison):
    model, _, _ = timed_markov(VOCAB, seed=2)
    table = model.params["table"].at[3, :].set(poison)  # what follows position 3
    broken = LanguageModel(model.module, {**model.params, "table": table})
    prompt = Prompt.create([[1, 2], [1, 2]], [9, 2])  # only the first row gets that far
    good, bad = (decode(BeamSearch(3), m, prompt) for m in (model, broken))
    assert np.isnan(bad.score[0]).all()
    assert np.isnan(bad.log_prob[0]).all()
    assert bad.target_calls.tolist() == [[3] * 3, [2] * 3]
    np.testing.assert_array_equal(good.score[1], bad.score[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 0}, "num_beams must be at least 1, got 0"),
        ({"length_penalty": math.nan}, "length_penalty must be finite, got nan"),
        ({"num_beams": 3, "num_return": 4}, r"num_return must be between 1 and num_beams \(3\), got 4"),
        ({"num_return": 0}, r"num_return must be between 1 and num_beams \(4\), got 0"),
        ({"early_stopping": "sometimes"}, "early_stopping must be True, False or 'never', got 'sometimes'"),
        ({"sibling_penalty": -1}, "sibling_penalty must be a finite number >= 0, got -1"),
    ],
)
def test_settings_without_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BeamSearch(**arguments)


def test_a_vocabulary_too_small_for_the_beams_is_refused():
    model, _, _ = timed_markov(5, seed=0)
    with pytest.raises(ValueError, match="num_beams gives 4 beams to one search: a vocabulary of 5 tokens"):
        decode(BeamSearch(4), model, Prompt.create([[1]], 3, eos_tokens=[0, 1]))
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        Prompt.create([[1]], 0)


def test_is_known_by_name():
    assert build_method("beam", num_beams=3, length_penalty=0.5) == BeamSearch(3, 0.5)
    with pytest.raises(ValueError, match="method 'beam' has no option 'num_samples'"):
        build_method("beam", num_samples=2)
