"""Diverse beam search against a plain-Python one, and against what must be true of it."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.decoding import BeamSearch, DiverseBeamSearch, Prompt, decode, stream
from jaxdec.decoding.loop import UNLIMITED, advance, start
from jaxdec.decoding.methods import build_method
from jaxdec.language_model import LanguageModel
from tests.decoding.beam_reference import search
from tests.decoding.test_beam_search import VOCAB, batches, check_against_reference, options
from tests.decoding.timed_markov import law_of, timed_markov
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.reference import full_logits
from tests.tiny_models import markov_model, tiny_transformer

METHODS = [
    DiverseBeamSearch(4, 2, 0.7),
    DiverseBeamSearch(4, 2, 0.4, accumulate=False, length_penalty=0.0),
    DiverseBeamSearch(4, 4, 0.9, "cumulative", early_stopping=True),
    DiverseBeamSearch(4, 4, 0.8, "ngram", accumulate=False, ngram_size=3, length_penalty=2.5, early_stopping=False),
    DiverseBeamSearch(4, 2, 0.8, "embedding", length_penalty=-0.7),
]
OTHER_PAIRS = [
    DiverseBeamSearch(4, 2, 0.3, "cumulative", accumulate=False, num_return=3),
    DiverseBeamSearch(6, 2, 1.5, "ngram"),
    DiverseBeamSearch(3, 3, 1.3, "embedding", accumulate=False),
]
STRENGTHS = (0.0, 0.5, 2.0, 1e4)


def four_groups(strength: float) -> DiverseBeamSearch:
    """Four groups of one beam."""
    return DiverseBeamSearch(4, 4, strength)


def texts_of(decoded, row: int) -> list[tuple[int, ...]]:
    return [tuple(ids[:n]) for ids, n in zip(decoded.tokens[row].tolist(), decoded.length[row].tolist())]


def group_lists(method, state, row: int) -> list[list[tuple[tuple[int, ...], float]]]:
    """Every group's finished texts (generated tokens) with their scores; empty places left out."""
    begin = int(state.prompt_length[row])
    found = state.finished
    everything = [
        (tuple(ids[begin:length]), score)
        for ids, length, score in zip(*(x[row].tolist() for x in (found.tokens, found.length, found.score)))
    ]
    lists = [everything[first : first + method.width] for first in range(0, method.num_beams, method.width)]
    return [[entry for entry in group if entry[1] != -math.inf] for group in lists]


def searched_to_the_end(method, model, prompt):
    return advance(method, model, start(method, model, prompt), UNLIMITED)


@settings(deadline=None, max_examples=32)
@given(st.sampled_from([METHODS[0], *METHODS[2:]]), batches)
def test_equals_the_plain_reference(method, batch):
    check_texts_and_groups(method, batch)


@pytest.mark.slow
@settings(deadline=None, max_examples=140)
@given(st.sampled_from([*METHODS, *OTHER_PAIRS]), batches)
def test_equals_the_plain_reference_in_more_settings(method, batch):
    check_texts_and_groups(method, batch)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.sampled_from(METHODS), batches)
def test_equals_the_plain_reference_to_rounding_in_float64(method, batch):
    with jax.enable_x64(True):
        check_against_reference(method, batch, jnp.float64, least_gap=1e-12, tolerance=1e-13)


def check_texts_and_groups(method, batch):
    _, expected = check_against_reference(method, batch)
    model, _, _ = timed_markov(VOCAB, batch["seed"], batch["sharpness"], batch["forbidden"])
    prompt = Prompt.create(batch["prompts"], batch["budgets"], eos_tokens=batch["ends"])
    state = searched_to_the_end(method, model, prompt)
    for row, found in enumerate(expected):
        lists = [[text for text, _ in group] for group in group_lists(method, state, row)]
        assert lists == [[text.tokens for text in group] for group in found.groups]
        assert all(len(texts) == len(set(texts)) for texts in lists)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        DiverseBeamSearch(6, 3, 0.8, length_penalty=0.3),
        pytest.param(DiverseBeamSearch(4, 4, 0.4, "cumulative", accumulate=False), marks=pytest.mark.slow),
        pytest.param(DiverseBeamSearch(4, 2, 2.5, "ngram"), marks=pytest.mark.slow),
        pytest.param(DiverseBeamSearch(4, 2, 0.9, "embedding"), marks=pytest.mark.slow),
    ],
    ids=lambda method: method.diversity,
)
def test_a_transformer_with_ragged_prompts_end_tokens_and_budgets(method):
    """Here, unlike with the Markov model, a beam that got another beam's cache row would give itself away."""
    model = tiny_transformer(scale=4.0, num_layers=1)
    prompts, budgets = [[3, 1, 4, 1, 5], [9, 2], list(range(17, 35)), [7]], [7, 9, 1, 6]
    embeddings = {"embeddings": np.asarray(model.token_embeddings(), np.float64).tolist()}
    cached = {}

    def law(text):
        if text not in cached:
            logits = full_logits(model, list(text))[-1].astype(np.float64)
            cached[text] = (logits - np.logaddexp.reduce(logits)).tolist()
        return cached[text]

    plain = search(law, prompts[0], 7, [], **options(method), **embeddings)
    ends = [plain.texts[0].tokens[5], plain.texts[-1].tokens[3]]
    decoded = decode(method, model, Prompt.create(prompts, budgets, eos_tokens=ends))
    beam = search(law, prompts[3], budgets[3], ends, num_beams=method.num_beams, length_penalty=method.length_penalty)
    assert [text.tokens for text in beam.texts] != texts_of(decoded, 3), "no penalty decided anything"
    for row, (prompt, budget) in enumerate(zip(prompts, budgets)):
        found = search(law, prompt, budget, ends, **options(method), **embeddings)
        if len({text.tokens for text in found.texts}) == len(found.texts):
            assert found.gap > 1e-5, "the comparison would depend on rounding: choose other prompts"
        texts = texts_of(decoded, row)
        assert texts == [text.tokens for text in found.texts]
        np.testing.assert_allclose(decoded.score[row], [text.score for text in found.texts], atol=1e-4)
        # The stored log-probability is what teacher forcing gives, without penalties.
        for text, log_prob in zip(texts, decoded.log_prob[row]):
            forced = sum(law((*prompt, *text[:i]))[text[i]] for i in range(len(text)))
            assert forced == pytest.approx(float(log_prob), abs=1e-4)


def small_batch(ends=(0, 5)):
    return Prompt.create([[1, 2, 3], [4], [6, 7]], [8, 5, 8], eos_tokens=ends)


def test_one_group_is_beam_search():
    model, _, _ = timed_markov(VOCAB, seed=4)
    common = {"num_beams": 4, "length_penalty": 0.6, "num_return": 3}
    beam = decode(BeamSearch(**common), model, small_batch())
    group = decode(DiverseBeamSearch(num_groups=1, diversity_strength=3.0, **common), model, small_batch())
    for name in ("length", "log_prob", "score", "target_calls"):
        np.testing.assert_array_equal(getattr(group, name), getattr(beam, name), err_msg=name)
    assert [texts_of(group, row) for row in range(3)] == [texts_of(beam, row) for row in range(3)]


@pytest.mark.parametrize(
    "method", [METHODS[0], METHODS[2], METHODS[3], four_groups(2.0)], ids=lambda m: f"{m.diversity}-{m.width}"
)
def test_the_first_group_is_beam_search_whatever_the_others_do(method):
    model, log_probs, _ = timed_markov(VOCAB, seed=9)
    state = searched_to_the_end(method, model, small_batch())
    alone = {"length_penalty": method.length_penalty, "early_stopping": method.early_stopping}
    for row, prompt in enumerate([[1, 2, 3], [4], [6, 7]]):
        found = search(law_of(log_probs), prompt, (8, 5, 8)[row], (0, 5), num_beams=method.width, **alone)
        texts, scores = zip(*group_lists(method, state, row)[0])
        assert list(texts) == [text.tokens for text in found.texts]
        np.testing.assert_allclose(scores, [text.score for text in found.texts], rtol=1e-5)


def test_without_a_penalty_all_groups_are_equal():
    model, _, _ = timed_markov(VOCAB, seed=1)
    method = four_groups(0.0)
    state = searched_to_the_end(method, model, small_batch())
    for row in range(3):
        first, *others = group_lists(method, state, row)
        assert len(first) == 1
        assert others == [first] * 3


def test_an_immense_penalty_lets_no_token_be_used_twice_at_a_step():
    """Groups of one beam, no more groups than tokens: every step spreads them over different tokens."""
    model, log_probs, _ = timed_markov(VOCAB, seed=7, sharpness=3.0)
    method = four_groups(1e4)
    states = stream(method, model, small_batch(ends=(-1, -1)))
    for step, state in enumerate(states, start=1):
        for row, size in enumerate(state.prompt_length.tolist()):
            last = state.tokens[row, :, min(size + step, int(state.limit[row])) - 1].tolist()
            assert len(set(last)) == 4
    plain = search(law_of(log_probs), [4], 5, [], num_beams=4)
    assert len({text.tokens[0] for text in plain.texts}) < 4, "even beam search does this here"


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([0.3, 1.0, 3.0]))
def test_first_tokens_grow_no_less_varied_with_the_strength(seed, sharpness):
    model, _, _ = timed_markov(VOCAB, seed, sharpness)
    states = [start(four_groups(strength), model, small_batch()) for strength in STRENGTHS]
    varied = [[len(set(state.tokens[row, :, size].tolist())) for row, size in enumerate((3, 1, 2))] for state in states]
    assert (np.diff(varied, axis=0) >= 0).all()
    assert varied[0] == [1, 1, 1]
    assert varied[-1] == [4, 4, 4]


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda method: f"accumulate={method.accumulate}")
def test_the_running_score_is_the_log_probability_less_the_penalties_gathered(method):
    """Followed from step to step; and each group's choice is the best set of extensions there is (brute force)."""
    model, log_probs, _ = timed_markov(VOCAB, seed=3, sharpness=1.0)
    law, strength, prompt = law_of(log_probs), method.diversity_strength, (1, 2, 3)
    groups = [[((), 0.0, 0.0)] for _ in range(2)]  # generated tokens, log-probability, penalties gathered
    most = 0.0
    for state in stream(method, model, small_batch(ends=(-1, -1))):
        used = [0] * VOCAB
        for number, group in enumerate(groups):
            extensions = []
            for text, total, gathered in group:
                for token, log_prob in enumerate(law(prompt + text)):
                    kept = gathered + strength * used[token] if method.accumulate else 0.0
                    gain = total - gathered + log_prob - strength * used[token]
                    extensions.append((gain, (*text, token), total + log_prob, kept))
            pairs = itertools.combinations(extensions, 2)
            best = max(pairs, key=lambda pair: pair[0][0] + pair[1][0])
            groups[number] = [extension[1:] for extension in sorted(best, reverse=True)]
            for text, _, _ in groups[number]:
                used[text[-1]] += 1
        end = int(state.length[0, 0])
        assert [tuple(ids[3:end]) for ids in state.tokens[0].tolist()] == [t for group in groups for t, _, _ in group]
        totals, gathered = np.array([(total, kept) for group in groups for _, total, kept in group]).T
        np.testing.assert_allclose(state.log_prob[0], totals, atol=1e-5)
        np.testing.assert_allclose(state.running_score[0], totals - gathered, atol=1e-5)
        most = max(most, gathered.max())
    assert (most > 2 * strength) == method.accumulate


@pytest.mark.parametrize("poison", [np.nan, -np.inf, np.inf])
def test_a_broken_law_ends_its_row_with_nan_and_leaves_the_others_alone(poison):
    model, _, _ = timed_markov(VOCAB, seed=2)
    table = model.params["table"].at[3, :].set(poison)  # what follows position 3
    broken = LanguageModel(model.module, {**model.params, "table": table})
    prompt = Prompt.create([[1, 2], [1, 2], [1]], [9, 2, 2])  # only the first row gets that far
    good, bad = (decode(METHODS[0], m, prompt) for m in (model, broken))
    assert np.isnan(bad.score[0]).all()
    assert np.isnan(bad.log_prob[0]).all()
    assert bad.target_calls.tolist() == [[3] * 4, [2] * 4, [2] * 4]
    np.testing.assert_array_equal(good.score[1:], bad.score[1:])


def test_a_law_broken_for_one_group_ends_that_group_and_counts_for_nobody():
    """The second group runs into a token behind which there is NaN; the others go on as if it were not there."""
    model, _, _ = timed_markov(VOCAB, seed=6)
    begin = np.log([0.02, 0.02, 0.02, 0.34, 0.30, 0.25, 0.02, 0.02, 0.01])
    table = model.params["table"].at[2, 3].set(begin)  # the law of the first token of prompt [1, 2, 3]
    broken = LanguageModel(model.module, {**model.params, "table": table.at[3, 4].set(np.nan)})
    laws = np.asarray(jax.nn.log_softmax(table, axis=-1), np.float64)
    method = four_groups(0.5)
    state = searched_to_the_end(method, broken, small_batch(ends=(-1, -1)))
    assert np.isnan(state.finished.score[0]).tolist() == [False, True, False, False]
    assert not np.isnan(state.finished.score[1:]).any()
    decoded = method.result(state)
    assert np.isnan(decoded.score[0]).sum() == np.isnan(decoded.log_prob[0]).sum() == 1
    texts = {0: [3], 2: [5], 3: [3]}
    for time in range(1, 8):
        used = []
        for text in texts.values():
            gains = laws[2 + time, text[-1]] - 0.5 * np.bincount(used, minlength=VOCAB)
            text.append(int(gains.argmax()))
            used.append(text[-1])
    assert [state.tokens[0, group, 3:11].tolist() for group in texts] == list(texts.values())


def test_an_end_token_counts_for_nobody():
    """One text of the first group ends and nothing takes its place: the second group may end at that step unpenalised."""
    model, _, _ = timed_markov(VOCAB, seed=6)
    table = model.params["table"]
    laws = {  # (position, token): what may follow, and how likely
        (2, 3): {3: 0.3, 4: 0.28, 5: 0.22, 6: 0.2},  # the first group takes 3 and 4, the second 5 and 6
        (3, 3): {8: 1.0},  # 8 ends a text
        (3, 4): {2: 1.0},
        (3, 5): {8: 0.5, 1: 0.4, 7: 0.1},
        (3, 6): {2: 1.0},
    }
    for place, law in laws.items():
        table = table.at[place].set([math.log(law[token]) if token in law else -math.inf for token in range(VOCAB)])
    model = LanguageModel(model.module, {**model.params, "table": table})
    states = stream(METHODS[0], model, small_batch(ends=(8, -1)))
    next(states)
    state = next(states)
    assert np.isneginf(state.running_score[0]).tolist() == [False, True, False, False]
    assert [[text for text, _ in group] for group in group_lists(METHODS[0], state, 0)] == [[(3, 8)], [(5, 8)]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 0}, "num_beams must be at least 1, got 0"),
        ({"num_groups": 0}, "num_groups must be at least 1, got 0"),
        ({"num_beams": 5}, r"num_beams \(5\) must be a multiple of num_groups \(2\)"),
        ({"num_beams": 2, "num_groups": 4}, r"num_beams \(2\) must be a multiple of num_groups \(4\)"),
        ({"diversity_strength": -0.1}, "diversity_strength must be a finite number >= 0, got -0.1"),
        ({"diversity_strength": math.inf}, "diversity_strength must be a finite number >= 0, got inf"),
        ({"diversity_strength": math.nan}, "diversity_strength must be a finite number >= 0, got nan"),
        ({"diversity": "spice"}, "diversity must be one of hamming, cumulative, ngram, embedding, got 'spice'"),
        ({"ngram_size": 0}, "ngram_size must be at least 1, got 0"),
        ({"length_penalty": math.inf}, "length_penalty must be finite, got inf"),
        ({"num_return": 5}, r"num_return must be between 1 and num_beams \(4\), got 5"),
        ({"early_stopping": "late"}, "early_stopping must be True, False or 'never', got 'late'"),
    ],
)
def test_settings_without_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiverseBeamSearch(**arguments)


def test_what_the_model_cannot_offer_is_refused():
    model, _, _ = timed_markov(5, seed=0)
    with pytest.raises(ValueError, match="num_beams gives 4 beams to one search: a vocabulary of 5 tokens"):
        decode(DiverseBeamSearch(8, 2), model, Prompt.create([[1]], 3, eos_tokens=[0, 1]))
    enough = DiverseBeamSearch(8, 4)  # two beams to each search
    start(enough, model, Prompt.create([[1]], 3, eos_tokens=[0, 1]))
    without, _ = markov_model()
    with pytest.raises(ValueError, match="module MarkovModule has no token embeddings"):
        decode(DiverseBeamSearch(2, 2, 0.5, "embedding"), without, Prompt.create([[1]], 3))
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        Prompt.create([[1]], 0)


def test_is_known_by_name():
    method = build_method("diverse_beam", num_beams=6, num_groups=3, diversity_strength=0.8, diversity="ngram")
    assert method == DiverseBeamSearch(6, 3, 0.8, "ngram")
    assert {field.name for field in dataclasses.fields(method)} >= {"accumulate", "ngram_size", "num_return"}
    with pytest.raises(ValueError, match="method 'diverse_beam' has no option 'sibling_penalty'"):
        build_method("diverse_beam", sibling_penalty=1.0)
