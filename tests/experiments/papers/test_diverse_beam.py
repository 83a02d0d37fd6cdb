"""The replica of diverse beam search: its arms, its scores, and how it judges claims, on numbers made up for each verdict."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.papers.diverse_beam.arms import Arm, arms, batches, decode_lists
from experiments.papers.diverse_beam.claims import claim, difference, rise, sign_verdict
from experiments.papers.diverse_beam.figures import draw_curves
from experiments.papers.diverse_beam.paraphrase_lists import cutoffs, drawn_references, scores_by_item
from experiments.papers.diverse_beam.results import Results, Task, best_arm, means
from experiments.papers.diverse_beam.tables import tables
from experiments.papers.diverse_beam.verdicts import all_claims
from experiments.papers.paraphrases import Meaning, encode_sentence
from experiments.papers.progress import NoProgress
from jaxdec.decoding import BeamSearch, DiverseBeamSearch, Prompt, decode
from tests.tiny_models import markov_model

STRENGTHS = (0.2, 0.8)
BEAM, SAMPLE = Arm("beam", 4), Arm("sample", 4)
BAKER = Meaning(agent=9, action=7, patient=8, time=3)


def test_arms_of_a_list_size():
    everything = arms(6, (2, 6), (0.8, 0.2), (1.0,))
    assert [arm.name for arm in everything] == [
        "beam",
        "diverse G=2 lambda=0.2",
        "diverse G=2 lambda=0.8",
        "diverse G=6 lambda=0.2",
        "diverse G=6 lambda=0.8",
        "siblings gamma=1",
        "sample",
    ]
    assert everything[0].method() == BeamSearch(6, length_penalty=0.0)
    assert everything[3].method() == DiverseBeamSearch(6, 6, 0.2, length_penalty=0.0)
    assert everything[5].method() == BeamSearch(6, length_penalty=0.0, sibling_penalty=1.0)
    assert everything[6].method().num_samples == 6
    assert everything[3].slug == "diverse_G6_lambda0.2"


def test_batches_are_of_one_size():
    assert list(batches([[1], [2], [3]], 2)) == [[[1], [2]], [[3], [3]]]


@pytest.mark.parametrize("arm", [Arm("diverse", 4, 2, 0.5), SAMPLE], ids=lambda arm: arm.family)
def test_lists_are_ordered_by_log_probability_and_complete(arm):
    model, _ = markov_model()
    prompts = [[1], [2, 3], [4]]
    options = {"max_new_tokens": 6, "eos_tokens": [3], "batch_size": 2, "seed": 4}
    lists = decode_lists(arm, "texts", model, prompts, NoProgress(), **options)
    assert len(lists) == 3
    for texts in lists:
        assert [len(texts), texts[0]["log_prob"]] == [4, max(text["log_prob"] for text in texts)]
        assert all(text["tokens"][-1] == 3 or len(text["tokens"]) == 6 for text in texts)
    if arm.family == "diverse":
        whole = decode(arm.method(), model, Prompt.create(prompts[:2], 6, eos_tokens=[3]))
        for row, texts in enumerate(lists[:2]):
            np.testing.assert_allclose(
                [text["log_prob"] for text in texts], jnp.asarray(whole.log_prob[row]), atol=1e-5
            )


def text(sentence: str, log_prob: float) -> dict:
    return {"tokens": encode_sentence(sentence), "log_prob": log_prob, "calls": 7}


def test_scores_of_a_list_by_hand():
    reference = "the baker praised the farmer yesterday"
    texts = [text("the baker praised the the", -2.0), text(reference, -1.0), text(reference, -3.0)]
    (scores,) = zip(*scores_by_item([texts], [(BAKER,)], [[reference, reference]], 3).values())
    scores = dict(zip(scores_by_item([texts], [(BAKER,)], [[reference]], 3), scores))
    assert cutoffs(3) == (1, 3)
    assert scores["oracle_drawn@3"] == scores["oracle_all@3"] == pytest.approx(100)
    assert 0 < scores["oracle_drawn@1"] <= scores["oracle_all@1"] < 100
    assert scores["validity"] == pytest.approx(2 / 3)
    assert scores["coverage"] == 1 / 12
    assert scores["chance"] == pytest.approx(0.62 * 0.5)  # said twice in the list, and counted once
    assert scores["different"] == pytest.approx(2 / 3)
    assert scores["distinct-1"] == 5 / 17
    assert (scores["best_log_prob"], scores["mean_log_prob"], scores["calls"]) == (-1.0, -2.0, 7.0)


def test_oracle_is_the_mean_over_references_of_the_best_text():
    first, second = "the baker praised the farmer yesterday", "one day ago the farmer was praised by the baker"
    one, two, both = (
        scores_by_item([[text(first, -1.0), text(second, -2.0)]], [(BAKER,)], [references], 2)
        for references in ([first], [second], [first, second])
    )
    assert both["oracle_drawn@1"][0] == pytest.approx((one["oracle_drawn@1"][0] + two["oracle_drawn@1"][0]) / 2)
    assert both["oracle_drawn@1"][0] < 99 < both["oracle_drawn@2"][0]


def test_drawn_references_are_right_and_reproducible():
    drawn = drawn_references([(BAKER,), (BAKER,)], 5, seed=1)
    assert drawn == drawn_references([(BAKER,), (BAKER,)], 5, seed=1)
    assert drawn[0] != drawn[1]
    assert all(sentence in BAKER.sentences() for sentences in drawn for sentence in sentences)


def test_rising_curves():
    found = rise([[1, 2, 3], [0, 1, 2]], [2.5, 1.5])
    assert found.verdict
    assert found.told == "of 2 curves 2 end higher than they begin and 2 above beam search; 4 of 4 steps rise"
    below, falling, wavy = rise([[1, 2, 3]], [3.5]), rise([[3, 2, 1]], [0]), rise([[0, 5, 4, 3, 2]], [0])
    assert [entry.verdict for entry in (below, falling, wavy)] == [False, False, False]
    assert below.reason == "1 end no higher than beam search"
    assert falling.reason.startswith("1 curves do not end higher; fewer than 90% of the steps rise")
    assert wavy.reason == "fewer than 90% of the steps rise; the largest fall is 1.000"


def test_an_interval_with_zero_decides_nothing():
    noise = np.random.default_rng(0).normal(0, 1, 50)
    ours, theirs = Arm("diverse", 4, 4, 0.2), BEAM
    for shift, verdict in ((1.0, True), (-1.0, False), (0.0, None)):
        scores = {ours: {"x": list(noise - noise.mean() + shift)}, theirs: {"x": [0.0] * 50}}
        assert sign_verdict(difference(scores, "x", ours, theirs)) is verdict


def test_a_claim_reproduces_if_every_comparison_does():
    reasons = {None: "noise", False: "no"}
    assert claim("c", "p", "m", [True, True], reasons)["reproduced"] is True
    assert claim("c", "p", "m", [True, None], reasons) | {"reproduced": None, "reason": "noise"} == claim(
        "c", "p", "m", [True, None], reasons
    )
    assert claim("c", "p", "m", [True, None, False], reasons)["reason"] == "no"


def made_up(changes: dict[str, float]) -> Results:
    """Results under which every claim holds, with some of the numbers changed."""
    values = {
        "beam oracle": 50.0,
        "tuned oracle": 55.0,
        "weak oracle": 52.0,
        "strong oracle": 51.0,
        "siblings oracle": 52.0,
        "first": 40.0,
        "beam first": 40.0,
        "siblings distinct": 0.3,
        "strong distinct": 0.9,
        "several groups": 0.01,
        "best": -5.0,
        "calls": 20.0,
        "time": 1.05,
    } | changes
    noise = np.random.default_rng(1).normal(0, 0.1, 40)

    def item(oracle, first, distinct, best, calls=20.0):
        scores = {"oracle_drawn@4": oracle, "oracle_drawn@1": first, "best_log_prob": best, "calls": calls}
        scores |= {f"distinct-{n}": distinct for n in (1, 2, 3, 4)}
        scores |= dict.fromkeys(("oracle_drawn@2", "oracle_all@1", "oracle_all@2", "oracle_all@4"), 0.0)
        scores |= dict.fromkeys(("validity", "coverage", "chance", "different", "self_bleu", "mean_log_prob"), 1.0)
        return {name: [value + value * 0.01 * x for x in noise] for name, value in scores.items()}

    line = {0.0: "weak", 0.2: "tuned", 0.8: "strong"}
    scores = {BEAM: item(values["beam oracle"], values["beam first"], 0.4, -6.0)}
    for groups in (2, 4):
        for strength, name in line.items():
            oracle = values[f"{name} oracle"] - (10 if groups == 2 else 0)
            distinct = {"weak": 0.45, "tuned": 0.5, "strong": values["strong distinct"]}[name]
            arm = Arm("diverse", 4, groups, strength)
            more = values["several groups"] * groups
            scores[arm] = item(oracle, values["first"], distinct + more, values["best"], values["calls"])
    scores[Arm("siblings", 4, strength=1.0)] = item(values["siblings oracle"], 40.0, values["siblings distinct"], -6.0)
    scores[SAMPLE] = item(50.0, 30.0, 0.9, -9.0)
    entry = {"median": values["time"], "min": 1.0, "max": 2.0}
    times = {
        arm.name: dict.fromkeys(("seconds", "ratio", "cpu_seconds", "cpu_ratio"), entry) | {"foreign_load": None}
        for arm in (BEAM, Arm("diverse", 4, 4, 0.2))
    }
    pooled = {arm: {"pooled distinct-1, %": 1.0} for arm in scores}
    return Results(4, {"short": Task(4, scores, scores, pooled)}, scores, times)


CLAIMS = (
    "short paraphrases: distinct-2 to 4 rise with the strength",
    "SmolLM2: distinct-2 to 4 rise with the strength",
    "short paraphrases: distinct-2 to 4 rise with the number of groups",
    "SmolLM2: distinct-2 to 4 rise with the number of groups",
    "short paraphrases: the oracle BLEU",
    "short paraphrases: too strong a penalty",
    "short paraphrases: the first text",
    "short paraphrases: better oracle and more distinct 4-grams",
    "short paraphrases: the likeliest text",
    "SmolLM2: the likeliest text",
    "SmolLM2: the cost",
)


@pytest.mark.parametrize(
    ("changes", "others"),
    [
        ({}, {}),
        ({"strong distinct": 0.46}, {0: False, 1: False}),
        ({"several groups": -0.01}, {2: False, 3: False}),
        ({"beam oracle": 55.0}, {4: None}),
        ({"beam oracle": 60.0}, {4: False}),
        ({"strong oracle": 56.0}, {5: False}),
        ({"first": 43.0}, {6: False}),
        ({"siblings oracle": 60.0}, {7: False}),
        ({"siblings distinct": 0.95}, {7: False}),
        ({"best": -7.0}, {8: False, 9: False}),
        ({"calls": 22.0}, {10: False}),
        ({"time": 1.3}, {10: False}),
    ],
)
def test_every_claim_can_fail(changes, others):
    expected = [others.get(index, True) for index in range(len(CLAIMS))]
    for results in ([made_up(changes)], [made_up({}), made_up(changes)]):  # one list size that fails is enough
        found = all_claims(results, STRENGTHS)
        assert all(entry["claim"].startswith(text) for entry, text in zip(found, CLAIMS, strict=True))
        assert [entry["reproduced"] for entry in found] == expected
        assert all(entry["reason"] for entry in found if not entry["reproduced"])


def test_settings_are_chosen_on_the_validation_items():
    task = made_up({}).tasks["short"]
    assert task.tuned == Arm("diverse", 4, 4, 0.2)
    assert best_arm(task.validation, "distinct-4", "diverse") == Arm("diverse", 4, 4, 0.8)
    assert task.chosen("diverse", 2) == Arm("diverse", 4, 2, 0.2)


def test_tables_and_figures_show_every_arm(tmp_path):
    result = made_up({})
    shown = tables(result)
    assert [len(table["rows"]) for table in shown] == [9, 9, 9, 2]
    assert all(len(row) == len(table["header"]) for table in shown for row in table["rows"])
    for name in ("a.svg", "b.svg"):
        draw_curves(tmp_path / name, [(means(result.continuations), "distinct-4", "distinct-4")])
    figure = (tmp_path / "a.svg").read_text()
    assert figure == (tmp_path / "b.svg").read_text()
    for label in ("diverse, G = 2", "diverse, G = 4", "beam", "sample", "sibling penalty"):
        assert label in figure
