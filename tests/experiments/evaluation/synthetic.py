"""A result with known numbers."""

from typing import Any

from experiments.evaluation.arms import ARMS, DEFAULT_ARMS
from experiments.evaluation.summary import ALL

FAMILIES = ("chat", "summarise", "extract", "edit", ALL)
YIELD = {"greedy": 1.0, "prompt_lookup_7": 2.5, "aded_static_63": 1.4, "aded_adaptive_63": 1.5}
SPEED = {"greedy": 1.0, "prompt_lookup": 1.7, "aded_adaptive": 0.96}


def document(**changes: Any) -> dict[str, Any]:
    """A whole result; ``changes`` replace its fields."""
    rows = [one_row(arm, family) for family in FAMILIES for arm in DEFAULT_ARMS]
    over = [{"family": f, "arm": "prompt_lookup", "ratio": spread(1.1 if f != "edit" else 1.05)} for f in FAMILIES]
    cost = {"prompt": "chat-1", "prompt_tokens": 40, "drafting_ms": 0.5, "step_ms": 10.0, "share": 0.05}
    return {
        "schema": 2,
        "suite": "specbench",
        "smoke": False,
        "host": "a-machine",
        "date": "2026-01-02",
        "stem": "specbench_m-float32_a-machine_2026-01-02",
        "environment": {"date": "2026-01-02T03:04:05+00:00", "commit": "c" * 40, "jax": "0.10.2", "cpu_flags": ["avx"]},
        "model": {"name": "m", "dtype": "float32", "num_params": 10},
        "max_new_tokens": 64,
        "collection": {"texts": 88, "tokens": 9000, "files": [{"name": "a.txt", "tokens": 12345}]},
        "rounds": 3,
        "seed": 0,
        "loud_rounds": 2,
        "rounds_in_all": 96,
        "foreign_load": {"median": 0.01, "min": 0.0, "max": 0.2, "samples": None},
        "absent": [],
        "step_cost": {"float32": {"1": 1.0, "8": 1.875}},
        "tie": {"float32": 1e-4},
        "arms": {name: about(name) for name in DEFAULT_ARMS},
        "peer": {"llama.cpp": {"version": "xllamacpp 1"}},
        "rows": rows,
        "peer_rows": [{"family": f, "arm": "llama.cpp", "prompts": 8, "tokens_per_second": 150.0} for f in FAMILIES],
        "over_peer": over,
        "differences": {n: {"compared": 32, "equal": 32, "unequal": []} for n in DEFAULT_ARMS if n != "greedy"},
        "drafting": [{"arm": "aded_static", **cost}, {"arm": "draft_model", **cost, "share": 1.5}],
        "adaptation": [adaptation("code"), adaptation("chat")],
        "targets": [],
        "samples": {},
        **changes,
    }


def one_row(arm: str, family: str) -> dict[str, Any]:
    speculative = arm != "greedy"
    row = {
        "family": family,
        "arm": arm,
        "baseline": "greedy",
        "prompts": 8,
        "tokens_per_call": YIELD.get(arm, 1.25),
        "drafted": [100, 50, 4] if speculative else [],
        "accepted": [50, 10, 1] if speculative else [],
        "acceptance": [0.5, 0.2, 0.25] if speculative else [],
        "wasted_share": 0.6 if speculative else None,
        "dtype": "float32",
        "batch": 1,
    }
    if ARMS[arm].timed:
        speed = spread(SPEED.get(arm, 0.97))
        row |= {"tokens_per_second": 80.0, "prefill_ms": 150.0, "speedup": speed, "speedup_total": spread(1.2)}
        row |= {"speedup_spec_bench": 1.23}
    return row


def spread(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def about(name: str) -> dict[str, Any]:
    arm = ARMS[name]
    said = {"about": arm.about, "guarantee": "token_identical", "compile_seconds": 12.3}
    return said | {"auto": arm.auto, "timed": arm.timed, "baseline": arm.baseline}


def adaptation(domain: str) -> dict[str, Any]:
    curves = {"static": [1.0, 1.0, 1.0], "adaptive": [1.1, 1.2, 1.3], "adaptive_cold": [1.0, 1.1, 1.2]}
    return {
        "domain": domain,
        "nodes": 15,
        "ids": [f"{domain}-{n}" for n in range(3)],
        "tokens_per_call": curves,
        "mean": {arm: sum(curve) / 3 for arm, curve in curves.items()},
        "gap": spread(0.2),
        "gap_first_half": 0.1,
        "gap_second_half": 0.3,
        "trend": {"slope": 0.1, "low": 0.05, "high": 0.15},
    }
