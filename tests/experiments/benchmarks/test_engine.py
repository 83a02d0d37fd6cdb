"""The engine that is measured does what the library does, on the file that smoke runs decode."""

import jax
import jax.numpy as jnp
import pytest

import jaxdec
from experiments.benchmarks.engine import JaxdecEngine, synthetic_tokens, timed_ms
from experiments.benchmarks.smoke_model import write_smoke_model

PROMPT = [64, 65, 66, 67]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_smoke_model(tmp_path_factory.mktemp("model") / "smoke.F32.gguf")


@pytest.fixture(scope="module")
def engine(path):
    return JaxdecEngine(str(path), "float32")


def test_the_smoke_model_is_the_same_every_time_and_says_letters(path, tmp_path):
    assert write_smoke_model(tmp_path / "again.gguf").read_bytes() == path.read_bytes()
    assert write_smoke_model(tmp_path / "other.gguf", seed=1).read_bytes() != path.read_bytes()
    text = jaxdec.generate(jaxdec.load(str(path)), "Where? 12", max_new_tokens=24).text
    assert text.isascii()
    assert text.isalpha()
    assert len(text) == 24
    assert len(set(text)) > 5  # and not always the same ones


def test_it_decodes_what_the_library_decodes(engine):
    said = engine.warm_up("decode", prompt=PROMPT, new_tokens=6, batch=1)
    prompt = jaxdec.Prompt.create([PROMPT], 6)
    expected = jaxdec.decode(jaxdec.Autoregressive(), engine.model, prompt).tokens[0, 0, :6].tolist()
    assert said["tokens"] == expected
    assert said["tokens_per_call"] == 1.0
    assert said["compile_seconds"] > 0


def test_measured_rates_belong_together(engine):
    engine.warm_up("decode", prompt=PROMPT, new_tokens=6, batch=3)
    metrics = engine.measure("decode", prompt=PROMPT, new_tokens=6, batch=3)
    assert metrics["tokens_per_second"] == pytest.approx(3 * 1e3 / metrics["step_ms"])
    assert engine.warm_up("prefill", prompt=PROMPT)["tokens_per_call"] == 1.0
    metrics = engine.measure("prefill", prompt=PROMPT)
    assert metrics["tokens_per_second"] == pytest.approx(len(PROMPT) * 1e3 / metrics["first_token_ms"])


def test_token_logits_are_those_of_the_next_token(engine):
    tokens = engine.warm_up("decode", prompt=PROMPT, new_tokens=6, batch=1)["tokens"]
    logits = engine.token_logits(context=[*PROMPT, *tokens[:3]], tokens=list(range(engine.model.vocab_size)))
    assert int(jnp.argmax(jnp.array(logits))) == tokens[3]


def test_step_costs_have_every_count_and_the_floor(engine):
    engine.warm_up("step_cost", context=16, rows=[1, 3], seconds=0.01)
    metrics = engine.measure("step_cost", context=16, rows=[1, 3], seconds=0.01)
    assert set(metrics) == {
        "ms_1", "ms_3", "relative_1", "relative_3",
        "floor_ms", "flat_floor_ms", "step_over_floor", "step_over_flat_floor",
    }  # fmt: skip
    assert metrics["relative_1"] == 1.0
    assert metrics["relative_3"] == metrics["ms_3"] / metrics["ms_1"]
    assert metrics["step_over_floor"] == metrics["ms_1"] / metrics["floor_ms"]


def test_passes_are_counted_so_that_they_take_the_time_asked_for(engine, monkeypatch):
    monkeypatch.setattr("experiments.benchmarks.engine.timed_ms", lambda prepare: 30.0)
    assert engine._enough(16, 1, seconds=0.3) == 30  # three passes took 30 ms
    assert engine._enough(16, 1, seconds=0.0) == 2


def test_what_passes_cost_is_the_difference_between_many_and_one(engine, monkeypatch):
    times = iter([7.0, 5.0, 6.0, 45.0])  # one pass, three times; eleven passes
    monkeypatch.setattr("experiments.benchmarks.engine.timed_ms", lambda prepare: next(times))
    assert engine._step_ms(16, 1, 10) == pytest.approx(4.0)


def test_the_clock_starts_behind_the_preparation():
    begun = []

    def prepare():
        jax.block_until_ready(jnp.ones(4) + 1)
        begun.append("prepared")
        return lambda: begun.append("called") or jnp.ones(())

    assert timed_ms(prepare) >= 0
    assert begun == ["prepared", "called"]


def test_it_describes_itself(engine):
    said = engine.describe()
    assert (said["engine"], said["dtype"], said["jax"]) == ("jaxdec", "float32", jax.__version__)
    assert said["weights_bytes"] == 4 * said["num_params"] == engine.model.nbytes()
    assert engine.encode("a b") == engine.tokenizer.encode("a b")


def test_synthetic_tokens():
    assert synthetic_tokens(5, 10) == synthetic_tokens(5, 10)
    assert synthetic_tokens(500, 10) != synthetic_tokens(500, 10, seed=1)
    assert set(synthetic_tokens(500, 10)) == set(range(10))
