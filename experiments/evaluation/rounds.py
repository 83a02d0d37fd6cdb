"""Measure: arms and peer in turn, prompt by prompt, round by round; what is not timed once."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from experiments.benchmarks.harness import Case, Record, run_rounds
from experiments.evaluation.peer import PEER, PeerWorker
from experiments.evaluation.setting import Setting

PEER_METRICS = ("tokens_per_second", "first_token_ms")


def take_rounds(setting: Setting, workers: Mapping[str, Any], console: Console) -> Record:
    """Measure: what is timed in all rounds, the rest once."""
    options = setting.options
    names = [question.id for question in setting.questions]
    timed = tuple(arm.name for arm in options.arms if arm.timed) + ((PEER,) if PEER in workers else ())
    counted = tuple(arm.name for arm in options.arms if not arm.timed)
    with setting.show.task("compiling", len(options.arms)) as advance:
        for arm in options.arms:
            for name in names:
                workers[arm.name].call("warm_up", name=name)
            advance(arm.name)
    record = Record.open(setting.parts.folder / "rounds.json", dict(setting.parts.key), options.rounds)
    if record.attempts:
        console.print(f"continuing after {len(record.attempts)} measurements", style="yellow", highlight=False)
    cases = [Case(name, timed, "", {"name": name}) for name in names]
    sides = dict(workers)
    if PEER in workers:  # a plain decoding tells llama.cpp how long the text is
        lengths = {}
        with setting.show.task("lengths of the plain texts", len(names)) as advance:
            for name in names:
                lengths[name] = workers[options.arms[0].name].call("measure", name=name)["new_tokens"]
                advance(name)
        sides[PEER] = PeerWorker(workers[PEER], setting, lengths)
    with setting.show.task("measuring", options.rounds * len(cases)) as advance:
        for attempt in {(entry["case"], entry["round"]) for entry in record.attempts if "/" not in entry["case"]}:
            advance(f"{attempt[0]} round {attempt[1] + 1}")

        def tell(attempt: dict[str, Any]):
            advance(f"{attempt['case']} round {attempt['round'] + 1}" + (", loud" if attempt["loud"] else ""))

        settings = {"rounds": options.rounds, "repeats": options.repeats, "quiet_seconds": options.wait_quiet}
        run_rounds(cases, sides, record, **settings, on_attempt=tell)
    if counted:
        cases = [Case(f"{name}/count", counted, "", {"name": name}) for name in names]
        with setting.show.task("counting", len(cases)) as advance:
            run_rounds(cases, sides, record, rounds=1, repeats=0, on_attempt=lambda attempt: advance(attempt["case"]))
    return record


def samples_of(record: Record, names: Sequence[str]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Metrics by side and prompt, round by round."""
    samples: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in names:
        for case in (name, f"{name}/count"):
            for attempt in record.chosen(case):
                for side, measurement in attempt["measurements"].items():
                    samples.setdefault(side, {}).setdefault(name, []).append(measurement["metrics"])
    return samples


def compact(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The measurements of one prompt on one side, round by round."""
    counters = {name: rounds[0][name] for name in ("new_tokens", "target_calls") if name in rounds[0]}
    times = {
        name: name.replace("_seconds", "_ms") for name in ("prefill_seconds", "decode_seconds") if name in rounds[0]
    }
    milliseconds = {new: [round(entry[old] * 1e3, 3) for entry in rounds] for old, new in times.items()}
    plain = {name: [round(entry[name], 3) for entry in rounds] for name in PEER_METRICS if name in rounds[0]}
    return counters | milliseconds | plain
