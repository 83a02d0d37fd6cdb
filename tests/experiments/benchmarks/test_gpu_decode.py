"""The suite `gpu_decode`, on a tiny model without a GPU."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.benchmarks.gpu_decode import BATCHES, GpuEngine, bytes_per_step, cases
from experiments.benchmarks.random_weights import TINY
from tests.experiments.benchmarks.synthetic import gpu_document


@given(st.integers(1, 8), st.integers(1, 50), st.integers(2, 30))
def test_bytes_per_step_are_the_mean_over_the_steps(batch, prompt_tokens, new_tokens):
    said = {"weights_bytes_per_step": 1000, "kv_bytes_per_token": 3}
    steps = [batch * (prompt_tokens + step) * 3 for step in range(1, new_tokens)]
    read = bytes_per_step(said, batch, prompt_tokens, new_tokens)
    assert read == {"weights": 1000, "kv": pytest.approx(np.mean(steps))}


def test_fractions_are_taken_round_by_round(tmp_path):
    document = gpu_document(tmp_path)
    plain_copy, *rows = document["rows"]
    assert [row["batch"] for row in rows] == list(BATCHES)
    for row in rows:
        read = sum(row["bytes_per_step"].values())
        for i in range(3):
            rate = read / row["metrics"]["step_ms"]["samples"][i] / 1e6
            assert row["metrics"]["gigabytes_per_second"]["samples"][i] == pytest.approx(rate)
            fraction = rate / plain_copy["metrics"]["gigabytes_per_second"]["samples"][i]
            assert row["metrics"]["fraction_of_copy"]["samples"][i] == pytest.approx(fraction)


def test_cases_name_every_batch_once():
    names = [case.name for case in cases(256, smoke=True)]
    assert names == ["copy", *(f"decode_batch_{n}" for n in BATCHES)]


@pytest.fixture(scope="module")
def engine():
    return GpuEngine("random:tiny", "bfloat16", any_device=True)


def test_random_models_have_the_shape_and_the_dtype_asked_for(engine):
    hidden, inner, layers, vocab = TINY.hidden_size, TINY.intermediate_size, TINY.num_layers, TINY.vocab_size
    kv = TINY.num_kv_heads * TINY.head_dim
    per_layer = hidden * (hidden + 2 * kv) + hidden * hidden + 3 * hidden * inner + 2 * hidden
    assert engine.model.num_params() == vocab * hidden + layers * per_layer + hidden
    matrices = [leaf for leaf in jax.tree.leaves(engine.model.params) if leaf.ndim == 2]
    assert {leaf.dtype for leaf in matrices} == {jnp.dtype("bfloat16")}
    assert np.std(np.asarray(matrices[0], np.float32)) == pytest.approx(0.02, rel=0.1)
    with pytest.raises(ValueError, match="no tokenizer"):
        engine.encode("a")


def test_what_a_step_reads(engine):
    said = engine.describe()
    assert said["weights_bytes_per_step"] == said["weights_bytes"]  # the table is the output head too
    assert said["kv_bytes_per_token"] == 2 * TINY.num_layers * TINY.num_kv_heads * TINY.head_dim * 2
    untied = dataclasses.replace(engine.model.module.config, tie_embeddings=False)
    module = engine.model.module.clone(config=untied)
    engine = copy.copy(engine)
    engine.model = engine.model.replace(module=module)
    table = TINY.vocab_size * TINY.hidden_size * 2
    assert engine.describe()["weights_bytes_per_step"] == said["weights_bytes"] - table


def test_the_copy_reads_and_writes(engine, monkeypatch):
    clock = iter([10.0, 12.0])
    monkeypatch.setattr("experiments.benchmarks.gpu_decode.time.perf_counter", lambda: next(clock))
    metrics = engine.measure("copy", nbytes=1 << 16)
    assert metrics == {"gigabytes_per_second": pytest.approx(2 * (1 << 16) * 20 / 2.0 / 1e9)}


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_without_a_gpu_the_suite_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"suite gpu_decode needs a GPU, and jax sees only .* try --smoke"):
        GpuEngine("random:tiny", "bfloat16", any_device=False)
