"""The replica of MMCR: what is measured, by hand, and every verdict both ways."""

import json

import numpy as np
import pytest

from experiments.papers.command import config_of, run_command
from experiments.papers.manifolds.measurements import (
    ALL,
    CLASSES,
    PIXELS,
    RANDOM,
    Digits,
    arm_part,
    balanced,
    by_class,
    mmcr_arm,
    summary,
    view_manifolds,
)
from experiments.papers.manifolds.report import draw_figures, tables
from experiments.papers.manifolds.verdicts import Results, all_claims
from experiments.papers.progress import NoProgress

RNG = np.random.default_rng(0)
LABELS = np.arange(60, dtype=np.int32) % CLASSES
IMAGES = RNG.uniform(size=(60, 8, 8, 1)).astype(np.float32)
DATA = Digits(IMAGES[:40], LABELS[:40], IMAGES[40:], LABELS[40:])
VIEWS, DIMENSIONS, SEEDS = (4,), (16, 64, 128), 3


def test_draws_are_balanced_and_manifolds_are_of_one_class():
    chosen = balanced(LABELS, 3, np.random.default_rng(1))
    assert np.bincount(LABELS[chosen]).tolist() == [3] * CLASSES
    assert len(set(chosen.tolist())) == 30
    features = np.arange(60)[:, None]
    assert all((LABELS[manifold[:, 0]] == label).all() for label, manifold in enumerate(by_class(features, LABELS)))


@pytest.mark.slow
def test_views_of_an_image_are_one_manifold():
    marked = np.zeros((3, 8, 8, 1), np.float32)
    marked[np.arange(3), 2 + 2 * np.arange(3), 4] = 50.0  # one bright pixel per image
    manifolds = view_manifolds(lambda images: images.reshape(len(images), -1), marked, {"images": 3, "views": 4}, 0)
    assert [manifold.shape for manifold in manifolds] == [(4, 64)] * 3
    for number, manifold in enumerate(manifolds):
        rows = manifold.reshape(4, 8, 8).max(axis=(0, 2)) > 10
        assert rows[max(0, 1 + 2 * number) : 4 + 2 * number].sum() == rows.sum() > 0


def test_losses_are_summed_up():
    losses = [*range(100, 0, -1)]
    found = summary(losses, -5.0)
    assert (found["first"], found["last"], found["lowest"], found["bound"]) == (95.5, 5.5, 1.0, -5.0)
    assert found["curve"][0] == [2, 99.5]
    assert found["curve"][-1] == [100, 1.5]


@pytest.mark.slow
def test_parts_measure_every_arm():
    config = {**config_of("mmcr", smoke=True, path=None), "batch_size": 20, "steps": 3, "labels": [10]}
    found = {}
    for arm, num_views in {PIXELS: None, RANDOM: None, mmcr_arm(2): 2}.items():
        found[arm] = arm_part(DATA, config, arm, num_views, 0, NoProgress())
        assert {name: len(values) for name, values in found[arm]["probes"].items()} == {"10": 2, ALL: 1}
        assert all(value > 0 for kind in ("classes", "views") for value in found[arm][kind].values())
    assert found[PIXELS]["losses"] is found[RANDOM]["losses"] is None
    assert found[mmcr_arm(2)]["losses"]["lowest"] > found[mmcr_arm(2)]["losses"]["bound"]
    again = arm_part(DATA, config, mmcr_arm(2), 2, 0, NoProgress())
    assert again == found[mmcr_arm(2)]


def made_up(changes):
    own = {"first": -20.0, "lowest": -40.0, "few": 0.10, "pixels": 0.60, "capacity": 1.0, "radius": 0.5, "dimension": 5.0,
           "classes": {}, "gaps": (0.2, 0.4, 0.3), **changes}  # fmt: skip

    def part(arm, seed):
        trained = arm not in (PIXELS, RANDOM)
        few = {PIXELS: own["pixels"], RANDOM: 0.6}.get(arm, 0.6 + own["few"] + 1e-3 * (seed - 1))
        theirs = {"capacity": 0.5, "radius": 1.0, "dimension": 8.0, "correlation": 0.2}
        ours = {name: own[name] for name in ("capacity", "radius", "dimension")} | {"correlation": 0.1}
        return {
            "losses": {"curve": [[1, -20.0], [2, -39.0]], "first": own["first"], "last": -39.0, "lowest": own["lowest"],
                       "bound": -64.0} if trained else None,
            "probes": {"30": [few, few + 0.01], "100": [0.9, 0.9], ALL: [0.98]},
            "views": ours if trained else theirs,
            "classes": {**ours, **own["classes"]} if trained else theirs,
        }  # fmt: skip

    arms = (PIXELS, RANDOM, *map(mmcr_arm, VIEWS))
    return Results(
        views=VIEWS,
        labels=(30, 100),
        batch_size=64,
        arms={arm: [part(arm, seed) for seed in range(SEEDS)] for arm in arms},
        norms=[{"shape": [16, 8], "foreign_load": 0.0, "milliseconds": {"gram": [1.0, 2.0], "svd": [3.0, 4.0]}}],
        sweep={
            dimension: [{"last": -64 * (1 - gap) + 0.01 * seed, "bound": -64.0} for seed in range(SEEDS)]
            for dimension, gap in zip(DIMENSIONS, own["gaps"])
        },
    )


@pytest.mark.parametrize(
    ("changes", "others"),
    [
        ({}, {}),
        ({"first": -39.5}, {0: False}),
        ({"lowest": -64.1}, {0: False}),
        ({"few": 0.03}, {1: False, 2: False}),
        ({"pixels": 0.67}, {2: False}),
        ({"few": 0.04}, {1: None, 2: None}),
        ({"capacity": 0.4}, {3: False, 4: False}),
        ({"radius": 1.5}, {3: False, 4: False}),
        ({"classes": {"dimension": 9.0}}, {4: False}),
        ({"classes": {"dimension": 8.0}}, {4: None}),
        ({"gaps": (0.2, 0.3, 0.4)}, {5: False}),
        ({"gaps": (0.4, 0.4, 0.3)}, {5: None}),
    ],
)
def test_every_claim_can_fail(changes, others):
    found = all_claims(made_up(changes))
    assert [entry["reproduced"] for entry in found] == [others.get(index, True) for index in range(6)]
    assert all(entry["reason"] for entry in found if not entry["reproduced"])


def test_tables_and_figures(tmp_path):
    results = made_up({})
    shown = tables(results)
    assert [len(table["rows"]) for table in shown] == [3, 6, 3, 1]
    assert all(len(row) == len(table["header"]) for table in shown for row in table["rows"])
    names = [figure["file"] for figure in draw_figures(results, tmp_path)]
    assert names == ["losses.svg", "probes.svg", "capacity.svg", "dimensions.svg"]
    assert "random encoder" in (tmp_path / "capacity.svg").read_text()


@pytest.mark.slow
def test_the_smoke_run_judges_nothing(tmp_path):
    assert run_command(["reproduce", "--paper=mmcr", "--smoke", f"--out={tmp_path}"], "") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [claim["reproduced"] for claim in metrics["claims"]] == [None] * 6
    assert (tmp_path / "report.md").read_text().count("![") == 4
