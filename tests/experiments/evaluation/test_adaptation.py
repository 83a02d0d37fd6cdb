"""Handing the adaptive table on."""

import pytest

from experiments.evaluation.adaptation import ADAPTATION_ARMS, over_domain, summarise_adaptation, trend
from experiments.evaluation.decoding import padded_prompt
from jaxdec.decoding.speculative.trigram_table import TrigramTable, build_trigram_table
from tests.tiny_models import markov_model


@pytest.fixture(scope="module")
def lines():
    """Four times the same prompt: whoever remembers knows the answer from the second on."""
    model, _ = markov_model(num_states=40, seed=5, concentration=0.2)
    prompts = {f"p{n}": padded_prompt([1, 2], 16, [], model) for n in range(4)}
    table = build_trigram_table([[1, 2, 3]], 40)
    return {arm: over_domain(arm, model, table, prompts) for arm in ADAPTATION_ARMS}


def yields(lines):
    return [line["new_tokens"] / line["target_calls"] for line in lines]


@pytest.mark.slow
def test_what_was_learnt_is_there_at_the_next_prompt(lines):
    assert len(set(yields(lines["static"]))) == 1
    for arm in ("adaptive", "adaptive_cold"):
        curve = yields(lines[arm])
        assert curve[1] > curve[0]
        assert curve[-1] > 2
        assert curve[-1] > yields(lines["static"])[-1]
    assert [line["id"] for line in lines["static"]] == ["p0", "p1", "p2", "p3"]


@pytest.mark.slow
def test_the_cold_arm_does_not_see_the_table():
    model, _ = markov_model(num_states=40, seed=5, concentration=0.2)
    prompts = {"p": padded_prompt([1, 2], 16, [], model)}
    nothing = TrigramTable.empty(64, 40)
    answer = over_domain("static", model, nothing, prompts)
    assert yields(answer) == [1.0]
    # A table of the answer itself helps the arms that see it.
    from experiments.evaluation.decoding import decode_timed
    from jaxdec.decoding import Autoregressive

    text = [1, 2, *map(int, decode_timed(Autoregressive(), model, prompts["p"])[0]["tokens"].split())]
    table = build_trigram_table([text], 40)
    by_arm = {arm: yields(over_domain(arm, model, table, prompts))[0] for arm in ADAPTATION_ARMS}
    assert by_arm["static"] > 2
    assert by_arm["adaptive_cold"] < by_arm["adaptive"]


def test_rows_by_domain():
    made = {"static": [{"id": n, "new_tokens": 10, "target_calls": 10} for n in "abcd"]}
    made["adaptive"] = [{"id": n, "new_tokens": 10 + 2 * i, "target_calls": 10} for i, n in enumerate("abcd")]
    made["adaptive_cold"] = made["static"]
    (row,) = summarise_adaptation({"code": made})
    assert row["tokens_per_call"]["adaptive"] == [1.0, 1.2, 1.4, 1.6]
    assert row["mean"] == {"static": 1.0, "adaptive": pytest.approx(1.3), "adaptive_cold": 1.0}
    assert row["gap"]["mean"] == pytest.approx(0.3)
    assert (row["gap_first_half"], row["gap_second_half"]) == (pytest.approx(0.1), pytest.approx(0.5))
    assert row["trend"]["slope"] == pytest.approx(0.2)
    assert row["ids"] == list("abcd")


def test_trend():
    assert trend([1.0, 2.0]) is None
    line = trend([0.0, 0.5, 1.0, 1.5, 2.0])
    assert line is not None
    assert (line.slope, line.low, line.high) == (pytest.approx(0.5),) * 3
    noisy = trend([0.0, 2.0, 1.0, 3.0, 0.5, 2.5, 1.5])
    assert noisy is not None
    assert noisy.low < noisy.slope < noisy.high
