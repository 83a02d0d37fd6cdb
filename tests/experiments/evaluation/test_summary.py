"""Rows from samples with known numbers."""

import pytest

from experiments.evaluation.rounds import compact
from experiments.evaluation.summary import decode_rate, over_peer, peer_row, row, total_rate


def sample(new, calls, decode, prefill=0.1, **more):
    times = {"prefill_seconds": prefill, "decode_seconds": decode}
    return {"new_tokens": new, "target_calls": calls, "tokens": "1 2", **times, **more}


SAMPLES = {
    "greedy": {"p": [sample(11, 11, 1.0), sample(11, 11, 2.0), sample(11, 11, 1.0)], "q": [sample(21, 21, 2.0)] * 3},
    "fast": {
        "p": [
            sample(11, 5, 0.5, drafted=[4, 2], accepted=[3, 1], fed=8),
            sample(11, 5, 0.5),
            sample(11, 5, 0.4),
        ],
        "q": [sample(21, 20, 4.0, drafted=[1, 0], accepted=[0, 0], fed=2)] * 3,
    },
    "peer": {"p": [{"tokens_per_second": 5.0}] * 3, "q": [{"tokens_per_second": 20.0}] * 3},
}


def test_rates():
    assert decode_rate(sample(11, 5, 0.5)) == 20.0
    assert total_rate(sample(11, 5, 0.45, prefill=0.1)) == pytest.approx(20.0)
    assert decode_rate(sample(1, 1, 0.0)) is None


def test_counters_are_pooled_and_speedups_are_means_over_prompts_of_medians_over_rounds():
    found = row("f", "fast", "greedy", ["p", "q"], SAMPLES, timed=True, seed=0)
    assert found["tokens_per_call"] == 32 / 25
    assert (found["drafted"], found["accepted"], found["fed"]) == ([5, 2], [3, 1], 10)
    assert found["acceptance"] == [0.6, 0.5]
    assert found["wasted_share"] == 0.6
    # p: 2, 4 and 2.5 in the three rounds; q: 0.5.
    assert found["speedup"]["mean"] == pytest.approx((2.5 + 0.5) / 2)
    assert (found["speedup"]["low"], found["speedup"]["high"]) == (pytest.approx(0.5), pytest.approx(2.5))
    assert found["tokens_per_second"] == pytest.approx((20 + 5) / 2)
    assert found["prefill_ms"] == pytest.approx(100)
    # With the prefill: p 1.1 / 0.6, 2.1 / 0.6, 1.1 / 0.5; q 2.1 / 4.1.
    assert found["speedup_total"]["mean"] == pytest.approx((2.2 + 2.1 / 4.1) / 2)
    plain, ours = (11 / 1.1 + 21 / 2.1) / 2, (11 / 0.6 + 21 / 4.1) / 2
    assert found["speedup_spec_bench"] == pytest.approx(ours / plain)


def test_the_baseline_is_as_fast_as_itself():
    found = row("f", "greedy", "greedy", ["p", "q"], SAMPLES, timed=True, seed=0)
    assert found["speedup"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert (found["tokens_per_call"], found["speedup_spec_bench"], found["wasted_share"]) == (1.0, 1.0, None)


def test_what_is_not_timed_claims_no_speed():
    found = row("f", "fast", "greedy", ["p"], SAMPLES, timed=False, seed=0)
    assert found["tokens_per_call"] == 11 / 5
    assert not {"speedup", "tokens_per_second", "speedup_spec_bench"} & set(found)


def test_texts_of_one_token_have_no_rate_of_decoding():
    samples = {"greedy": {"p": [sample(1, 1, 0.0)]}, "fast": {"p": [sample(1, 1, 0.0)]}}
    found = row("f", "fast", "greedy", ["p"], samples, timed=True, seed=0)
    assert (found["speedup"], found["tokens_per_second"]) == (None, None)
    assert found["speedup_total"]["mean"] == 1.0


def test_against_a_peer():
    assert peer_row("f", ["p", "q"], SAMPLES, "peer")["tokens_per_second"] == 12.5
    found = over_peer(["p", "q"], SAMPLES, "fast", "peer", 0)
    assert found is not None
    assert found["mean"] == pytest.approx((20 / 5 + 5 / 20) / 2)
    assert over_peer(["p"], {"fast": {"p": [sample(1, 1, 0.0)]}, "peer": SAMPLES["peer"]}, "fast", "peer", 0) is None


def test_samples_on_file_keep_times_by_round_and_drop_the_text():
    kept = compact(SAMPLES["fast"]["p"])
    assert kept == {"new_tokens": 11, "target_calls": 5, "prefill_ms": [100.0] * 3, "decode_ms": [500.0, 500.0, 400.0]}
    assert compact(SAMPLES["peer"]["p"]) == {"tokens_per_second": [5.0] * 3}
