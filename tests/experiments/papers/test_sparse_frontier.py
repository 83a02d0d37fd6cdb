"""The replica of The Sparse Frontier: training texts, masks, both protocols of the sweep, every verdict both ways."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.papers.sparse_frontier import get_config
from experiments.papers import sparse_frontier
from experiments.papers.command import run_command
from experiments.papers.long_context import recall as recall_module
from experiments.papers.long_context import small_models, sweep
from experiments.papers.long_context.figures import draw_figures
from experiments.papers.long_context.iso_flops import crossover, needed_compression, points, sparse_wins
from experiments.papers.long_context.results import Results
from experiments.papers.long_context.swept_rules import (
    DECODE,
    METHODS,
    PREFILL,
    prompt_mask,
    rule_of,
    settings_of,
)
from experiments.papers.long_context.tables import tables
from experiments.papers.long_context.verdicts import all_claims
from experiments.papers.progress import NoProgress
from jaxdec.evaluation.attention_costs import QWEN25, prefill_flops
from jaxdec.evaluation.long_context.token_tasks import (
    BOS,
    SET,
    TASKS,
    TokenTaskSizes,
    chance,
    score,
    token_samples,
)
from jaxdec.models.rope import rotate, rotation
from jaxdec.training import SequenceCache

SIZES = TokenTaskSizes(pairs=4, queries=2, chains=2, hops=2, words=8, common=2, ratio=2)
SIZE = {"hidden_size": 32, "num_heads": 4, "num_layers": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def model():
    return small_models.untrained_model(SIZE, seed=0)


def test_training_texts_ask_for_what_was_said_before():
    stages = [{"steps": 1, "lengths": (0,), "tokens": 100}, {"steps": 2, "lengths": (40, 48), "tokens": 200}]
    batch_at = small_models.batch_maker(stages, SIZES, seed=1)
    texts = batch_at(0)
    tokens, weights = np.asarray(texts.tokens), np.asarray(texts.weights)
    assert tokens.shape == (3, small_models.RECALL_LENGTH)
    for row, counted in zip(tokens, weights):
        assert row[0] == BOS
        known = {}
        for at in range(1, len(row), 3):
            assert row[at] == SET
            key, value = row[at + 1 : at + 3].tolist()
            assert counted[at + 2] == (key in known)
            assert known.setdefault(key, value) == value
        assert counted.sum() == (weights.shape[1] // 3) - len(known)
    assert batch_at(2).tokens.shape[1] == 40 + 2 * 4 + 1  # lengths take turns by the update's number
    assert batch_at(1).tokens.shape[1] == 48 + 2 * 4 + 1
    np.testing.assert_array_equal(batch_at(2).tokens, batch_at(2).tokens)
    tokens, weights = np.asarray(batch_at(2).tokens), np.asarray(batch_at(2).weights)
    assert (weights[:, :40] == 0).all()
    assert sorted(set(weights.sum(axis=1))) == [2, 4]  # of chains and words 2, of pairs all


def test_first_layer_begins_by_looking_back(model):
    config = model.module.config
    attention = model.params["layer_0"]["attention"]["qkv"]
    x = jax.random.normal(jax.random.key(0), (1, 40, config.hidden_size))
    x = x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True))
    rows = (x @ attention["weight"].T + attention["bias"]).reshape(1, 40, -1, config.head_dim)
    rope = rotation(config, jnp.arange(40)[None])
    query, key = rotate(rows[:, :, :1], *rope)[0, :, 0], rotate(rows[:, :, 4:5], *rope)[0, :, 0]
    weights = jax.nn.softmax(query[20] @ key[:21].T / config.head_dim**0.5)
    assert int(weights.argmax()) == 19
    assert float(weights[19]) > 0.5


@pytest.mark.slow
def test_a_minute_of_training_finds_what_was_said_before(tmp_path):
    config = {"stages": [{"steps": 400, "lengths": (0,), "tokens": 2048}]}
    size = {"hidden_size": 64, "num_heads": 4, "num_layers": 2, "learning_rate": 4e-3}
    trained = small_models.trained_model(config, size, TokenTaskSizes(), 0, tmp_path, NoProgress())
    texts = small_models.batch_maker(config["stages"], TokenTaskSizes(), seed=9)(0)
    positions = jnp.broadcast_to(jnp.arange(texts.tokens.shape[1]), texts.tokens.shape)
    logits = trained(texts.tokens, positions, SequenceCache.create(texts.tokens.shape[0])).logits
    right = (logits[:, :-1].argmax(-1) == texts.tokens[:, 1:]) * texts.weights[:, 1:]
    assert right.sum() / texts.weights.sum() > 0.6


def heads(seed, num_tokens):
    rng = np.random.default_rng(seed)
    make = lambda count: jnp.asarray(rng.normal(size=(num_tokens, count, 8)), jnp.float32)  # noqa: E731
    return make(4), make(2)


@pytest.mark.parametrize("method", [PREFILL[0], *(pytest.param(m, marks=pytest.mark.slow) for m in PREFILL[1:])])
def test_masks_are_those_of_the_rules(method):
    q, k = heads(0, 72)
    rule = rule_of(method, 72, 4.0)
    mine = jax.jit(prompt_mask, static_argnums=0)(rule, q, k, jnp.int32(60))
    theirs = jax.jit(rule.mask)(q[None], k[None], jnp.full(1, 60, jnp.int32))[0]
    np.testing.assert_array_equal(mine, theirs)
    dense = prompt_mask(None, q, k, jnp.int32(60))
    assert dense.sum() == 4 * 60 * 61 // 2


def test_sizes_follow_length_and_compression():
    for method, length in itertools.product(METHODS, (128, 512)):
        rules = [rule_of(method, length, compression) for compression in (2.0, 4.0, 8.0, 16.0)]
        assert len(set(rules)) >= 3
    assert rule_of("snapkv", 128, 4.0).capacity == rule_of("quest", 128, 4.0).budget == 32
    assert [one.compression for one in settings_of(DECODE, [2.0])] == [1.0, 2.0, 2.0, 2.0]
    with pytest.raises(ValueError, match=r"method must be one of vertical_slash, .*; got 'window'"):
        rule_of("window", 128, 2.0)
    with pytest.raises(ValueError, match=r"compression must be one of 2\.0, 4.0, 8.0, 16.0; got 3.0"):
        rule_of("flex_prefill", 128, 3.0)


@pytest.mark.slow
def test_a_pass_over_texts_is_dense_under_the_dense_rule_and_not_under_others(model):
    samples = token_samples("needle", 64, 3, 0, SIZES)
    settings = settings_of(["block_sparse"], [4.0])
    rules = (None, rule_of("block_sparse", 64, 4.0))
    texts = jnp.asarray([sample.prompt for sample in samples])
    positions = jnp.broadcast_to(jnp.arange(64), texts.shape)
    dense = model(texts, positions, SequenceCache.create(3)).logits.argmax(-1)
    lengths = jnp.full(3, 64, jnp.int32)
    likeliest, sparsity = sweep.pass_over(model, texts, lengths, jnp.int32(0), rules)
    np.testing.assert_array_equal(likeliest, dense)
    np.testing.assert_allclose(sparsity, 0, atol=1e-6)
    likeliest, sparsity = sweep.pass_over(model, texts, lengths, jnp.int32(1), rules)
    assert (np.asarray(likeliest) != np.asarray(dense)).any()
    np.testing.assert_allclose(sparsity, rules[1].sparsity(64), atol=1e-6)
    found = sweep.prefill_scores(model, samples, settings, rules)
    assert [one["compression"] for one in found] == [pytest.approx(1), pytest.approx(4, rel=0.3)]


@pytest.mark.slow
def test_decoding_by_what_is_kept_is_decoding_under_that_mask(model):
    """Against one dense pass over the whole text; and SnapKV forgets what Quest finds."""
    samples = token_samples("needle", 64, 3, 1, SIZES)
    rules = (None, rule_of("quest", 64, 1.0), rule_of("snapkv", 64, 8.0))
    prompts = jnp.asarray([sample.prompt for sample in samples])
    answers = jnp.asarray(sweep.padded([sample.answer for sample in samples]))
    everything = jnp.ones(answers.shape, bool)
    cache = sweep.feed(model, prompts, rules)
    said = [np.asarray(sweep.say(model, cache, jnp.int32(n), answers, everything))[:, 1:6] for n in range(3)]
    texts = jnp.concatenate([prompts, answers[:, :5]], axis=1)
    positions = jnp.broadcast_to(jnp.arange(texts.shape[1]), texts.shape)
    dense = model(texts, positions, SequenceCache.create(3)).logits.argmax(-1)[:, 64:]
    np.testing.assert_array_equal(said[0], dense)
    np.testing.assert_array_equal(said[1], dense)  # a budget of everything
    kept = cache.keep[0][2]
    assert kept[:, :, :64].sum() == 3 * 2 * rules[2].capacity
    assert kept[:, :, 64:].all()
    settings = settings_of(["quest", "snapkv"], [8.0])
    found = sweep.decode_scores(model, samples, settings, rules)
    assert [one["compression"] for one in found] == [1, 1, 8]
    free = sweep.say(model, cache, jnp.int32(0), answers, jnp.asarray(sweep.padded([s.given for s in samples], 1) > 0))
    assert found[0]["scores"] == [
        score(sample, [int(token) for token, fed in zip(row, sample.given) if not fed])
        for sample, row in zip(samples, np.asarray(free))
    ]


def test_scores_with_the_right_answer_fed():
    needle, track, count = (token_samples(task, 64, 1, 0, SIZES)[0] for task in TASKS)
    assert sweep.taught(needle, list(needle.answer)) == 1
    assert sweep.taught(needle, [0, 0, 0, 0, needle.answer[4]]) == 0.5
    assert sweep.taught(track, [0, 0, track.answer[2], 0]) == 0.5
    first, second = count.answer[1:]
    assert sweep.taught(count, [0, second, second]) == 1  # any of those left
    assert sweep.taught(count, [0, first, first]) == 0.5  # what was said before is no longer right


@pytest.mark.slow
def test_recall_is_the_share_of_attention_on_what_is_read(model):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 60, (1, 160)), jnp.int32)
    (layer,) = recall_module.capture(model, tokens, (1,))
    q, k, _ = layer
    for method in DECODE:
        whole, error, left_out = recall_module.decode_recall(layer, method, 1.0, 128)
        assert (float(whole), float(left_out)) == (pytest.approx(1), 0)
        assert error < 1e-6
        part, error, left_out = recall_module.decode_recall(layer, method, 2.0, 128)
        assert 0 < part < 1
        assert error > 0.01
        assert 0.3 < left_out <= 0.5
    rule = recall_module.prefill_rule("block_sparse", 160, 2.0)
    found, error, left_out = recall_module.prefill_recall(layer, rule)
    mask = np.asarray(rule.mask(q, k, jnp.full(1, 160, jnp.int32)))
    scores = np.einsum("bthe,bshe->bhts", q, np.repeat(k, 2, axis=2)) / 8**0.5
    weights = np.where(np.tri(160, dtype=bool), np.exp(scores), 0)
    share = (weights * mask).sum(-1) / weights.sum(-1)
    assert float(found) == pytest.approx(share.mean(), rel=1e-4)
    assert float(left_out) == pytest.approx(rule.sparsity(160), abs=1e-5)
    assert error > 0
    with pytest.raises(
        ValueError, match="method must be one of vertical_slash, flex_prefill, block_sparse; got 'quest'"
    ):
        recall_module.prefill_rule("quest", 160, 2.0)


def made_up(**changes) -> Results:
    """Results under which every claim holds that can, with some of the levels changed."""
    levels = {
        "needle": 0.0, "track": 0.0, "count": 0.25, "size": 0.1, "length": 0.06, "best": 0.15, "best decode": 0.15,
        "unasked": 0.3, "exact": 0.0, "recall": 0.2, "recall length": 0.05, "prefill": 0.05, "dense": 0.7, "track best": 0.3,
        "fall": 0.05,
    } | changes  # fmt: skip
    sizes = [{"hidden_size": h, "num_heads": 4, "num_layers": 2} for h in (32, 64, 128)]
    sweeps = []
    for model in range(3):
        entries = []
        for phase, methods in (("prefill", PREFILL), ("decode", DECODE)):
            for task, length, asked in itertools.product(TASKS, (64, 128, 256), (True, False)):
                if not asked and (phase == "prefill" or task == "count"):
                    continue
                at = np.log2(length / 64)
                for method, nominal in [("dense", 1.0), *itertools.product(methods, (2.0, 8.0))]:
                    top = levels["dense"] + 0.08 * model - levels["fall"] * at
                    loss = 0.0
                    if nominal > 1:
                        loss = 0.08 * np.log2(nominal) + levels[task]
                        loss -= levels["size"] * model + levels["length"] * at - 0.22
                        loss += levels["prefill"] if phase == "prefill" else 0
                        better = levels["best"] if phase == "prefill" else levels["best decode"]
                        loss += better if method not in ("vertical_slash", "quest") else 0
                        loss -= levels["track best"] if (task, method) == ("track", methods[1]) else 0
                        loss += 0 if asked or method == "quest" else levels["unasked"]
                    accuracy = float(np.clip(top * (1 - loss), 0, 1))
                    scores = (np.arange(40) < round(40 * accuracy)).astype(float).tolist()
                    about = {"phase": phase, "task": task, "length": length, "asked": asked, "method": method}
                    entries.append(about | {"nominal": nominal, "compression": nominal, "scores": scores})
        sweeps.append(entries)
    recall = []
    for phase, methods in (("prefill", PREFILL), ("decode", DECODE)):
        for method, nominal, length in itertools.product(methods, (1.0, 2.0, 8.0), (100, 200)):
            value = 0.5 + (levels["recall"] if method in ("vertical_slash", "quest") else 0)
            value = 1.0 if nominal == 1 else value + levels["recall length"] * length / 200
            numbers = {"recall": value, "error": levels["exact"] if nominal == 1 else 0.3, "sparsity": 1 - 1 / nominal}
            about = {"phase": phase, "method": method, "nominal": nominal, "length": length, "layer": 0}
            recall.append(about | numbers)
    return Results(
        shapes=[sparse_frontier.shape_of(size) for size in sizes],
        params=[20_000, 80_000, 300_000],
        sweeps=sweeps,
        recall=recall,
        chance={task: chance(task) for task in TASKS},
        seed=0,
    )


@functools.cache
def unchanged():
    return all_claims(made_up())


def verdict(claim_start: str, **changes):
    claims = all_claims(made_up(**changes)) if changes else unchanged()
    (found,) = [one for one in claims if one["claim"].startswith(claim_start)]
    assert found["reproduced"] is True or found["reason"]
    return found["reproduced"]


@pytest.mark.parametrize(
    ("claim_start", "changes"),
    [
        ("with a budget of everything", {"exact": 0.1}),
        ("prefill: vertical_slash is the best", {"best": -0.2}),
        ("decode: quest is the best", {"best decode": -0.2}),
        ("decoding (Quest) tolerates", {"prefill": -0.5}),
        ("almost every setting", {"needle": -1.0, "track": -1.0, "count": -1.0}),
        ("no method is best", {"track best": 0.0, "best": 0.3, "best decode": 0.3}),
        ("larger models tolerate", {"size": -0.1}),
        ("longer prompts tolerate", {"length": -0.1}),
        ("a task in which all of the text counts", {"count": -0.1}),
        ("Quest beats SnapKV", {"unasked": -0.5}),
        ("prefill (vertical_slash): accuracy follows", {"fall": -0.2, "length": 0.3}),
        ("decode (quest): accuracy follows", {"fall": -0.2, "length": 0.3}),
        ("SmolLM2's attention: Quest recalls", {"recall": -0.1}),
        ("SmolLM2's attention: at a fixed share", {"recall length": -0.1}),
    ],
)
def test_claims_hold_and_fail(claim_start, changes):
    assert verdict(claim_start) is True
    assert verdict(claim_start, **changes) is False


def test_what_was_not_learnt_decides_nothing():
    for start in ("decoding (Quest)", "almost every setting", "larger models", "a task in which", "Quest beats"):
        assert verdict(start, dense=0.05) is None


def test_equal_cost():
    results = made_up()
    found = points(results)
    assert len(found) == 3 * 3 * 3
    dense = [point for point in found if point.compression == 1]
    for point in dense:
        assert point.flops == prefill_flops(results.shapes[point.model], point.length)
    assert sparse_wins(found, 256) == []  # attention of small models over short prompts costs little
    small, *_ = dense
    cheap = dataclasses.replace(small, model=1, compression=8.0, flops=small.flops, accuracy=small.accuracy)
    assert sparse_wins([*dense, cheap], small.length) == [cheap]
    assert sparse_wins([*dense, dataclasses.replace(cheap, flops=small.flops + 1)], small.length) == []
    needed = needed_compression(QWEN25["14B"], QWEN25["7B"], 1 << 17)
    assert needed is not None
    large = prefill_flops(QWEN25["14B"], 1 << 17, 1 - 1 / needed)
    assert large == pytest.approx(prefill_flops(QWEN25["7B"], 1 << 17))
    assert needed_compression(QWEN25["14B"], QWEN25["7B"], 1 << 12) is None
    sooner, later = (crossover("14B", "7B", compression) for compression in (20.0, 5.0))
    assert sooner < later
    assert crossover("14B", "7B", 5.0, "square") < later


def test_tables_and_figures(tmp_path):
    results = made_up()
    for table in tables(results):
        assert {len(row) for row in table["rows"]} == {len(table["header"])}
    for figure in draw_figures(results, tmp_path):
        assert (tmp_path / figure["file"]).read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("longest", "message"),
    [
        (64, r"recall\.lengths must be more than 64; got 64"),
        (10_000_000, r"recall\.lengths must be at most \d+, the tokens there are; got 10000000"),
    ],
)
def test_texts_too_short_or_too_long_are_refused(tmp_path, longest, message):
    config = {"model": "", "recall": {**get_config().to_dict()["recall"], "lengths": (longest,)}}
    with pytest.raises(ValueError, match=message):
        sparse_frontier.recalled(config, tmp_path, NoProgress())


@pytest.mark.slow
def test_smoke_run_goes_on_from_its_parts(tmp_path, monkeypatch, capsys):
    command = ["reproduce", "--paper=sparse_frontier", "--smoke", f"--out={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(sparse_frontier, "recalled", lambda *_: (_ for _ in ()).throw(ValueError("stop")))
        assert run_command(command, "") == 2
    made = {path.name for path in (tmp_path / "parts").glob("*.json")}
    assert made == {"training_0.json", "training_1.json", "sweep_0.json", "sweep_1.json"}
    with monkeypatch.context() as patch:
        patch.setattr(sparse_frontier, "trained_model", lambda *_: pytest.fail("it was trained again"))
        assert run_command(command, "") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert len(metrics["claims"]) == 16
    assert all(one["reproduced"] is None for one in metrics["claims"])
    assert (tmp_path / "report.md").is_file()
    assert "wrote" not in capsys.readouterr().out
