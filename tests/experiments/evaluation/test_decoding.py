"""An arm under the stopwatch: the right text and counters, whatever the padding, and nothing compiled while the clock runs."""

import jax
import pytest

from experiments.evaluation.decoding import SHORTEST, ArmWorker, counts_of, decode_timed, padded_prompt
from jaxdec.decoding import Autoregressive, Prompt
from jaxdec.decoding.loop import decode
from jaxdec.decoding.methods import build_method
from tests.tiny_models import markov_model

CYCLE = [1, 2, 3, 4] * 3


@pytest.fixture(scope="module")
def model():
    return markov_model(num_states=30, seed=1, concentration=0.2)[0]


def test_padding_changes_shapes_and_not_the_text(model):
    prompts = [padded_prompt(tokens, 20, [], model) for tokens in ([3], [3] * 60, [3] * (SHORTEST + 1))]
    assert [prompt.tokens.shape[1] for prompt in prompts] == [SHORTEST, SHORTEST, 2 * SHORTEST]
    assert [int(prompt.length[0]) for prompt in prompts] == [1, 60, SHORTEST + 1]
    assert all(prompt.capacity >= prompt.tokens.shape[1] + 20 for prompt in prompts)
    plain = decode(Autoregressive(), model, Prompt.create([[3] * 60], 20))
    found = decode(Autoregressive(), model, prompts[1])
    assert found.tokens[0, 0, :20].tolist() == plain.tokens[0, 0, :20].tolist()


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(ValueError, match="outside the vocabulary"):
        padded_prompt([30], 4, [], model)


def test_the_measurement_tells_tokens_calls_and_counters(model):
    prompt = padded_prompt(CYCLE, 24, [], model)
    plain, _ = decode_timed(Autoregressive(), model, prompt)
    measured, state = decode_timed(build_method("prompt_lookup", tree_size=3), model, prompt)
    assert measured["tokens"] == plain["tokens"]
    assert len(plain["tokens"].split()) == plain["new_tokens"] == plain["target_calls"] == 24
    assert plain.keys() == {"prefill_seconds", "decode_seconds", "tokens", "new_tokens", "target_calls"}
    counts = counts_of(measured)
    assert counts.target_calls == int(state.stats.target_calls[0]) < 24
    assert counts.fed == 3 * (counts.target_calls - 1)
    assert counts.accepted == tuple(state.stats.accepted[0].tolist())
    assert sum(counts.accepted) > 0
    assert counts_of(plain).fed == 0


def test_each_shape_is_compiled_in_the_warm_up_and_never_again(model):
    jax.clear_caches()
    prompts = {f"p{n}": padded_prompt([3] * n, 8, [], model) for n in (2, 5, SHORTEST + 2)}
    worker = ArmWorker(Autoregressive(), model, prompts)
    compiled = []
    for name in prompts:
        worker.call("warm_up", name=name)
        compiled.append(worker.compile_seconds)
    assert 0 < compiled[0] == compiled[1] < compiled[2]
    measured = [worker.call("measure", name=name) for name in prompts]
    assert worker.compile_seconds == compiled[2]
    assert [entry["new_tokens"] for entry in measured] == [8] * 3
    assert worker.cpu_seconds() > 0
    assert (worker.peak_rss(), worker.reset_peak_rss()) == (None, False)


def test_companions_follow_the_prompt(model):
    seen = []

    def companions(name):
        seen.append(name)
        return {"note": jax.numpy.ones(2)}

    worker = ArmWorker(Autoregressive(), model, {"p": padded_prompt([3], 4, [], model)}, companions)
    assert set(worker.inputs("p")[0].companions) == {"note"}
    assert seen == ["p"]
