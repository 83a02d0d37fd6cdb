"""Rounds with a peer: what it is asked for is known before it is measured."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from experiments.evaluation.arms import ARMS
from experiments.evaluation.peer import PEER
from experiments.evaluation.rounds import samples_of, take_rounds
from experiments.papers.progress import NoProgress

LENGTHS = {"chat-1": 5, "edit-1": 1}


class Worker:
    """Notes its calls in a list that all share."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def call(self, method, **arguments):
        self.calls.append((self.name, method, arguments))
        return {"new_tokens": LENGTHS.get(arguments.get("name"), 0)}

    def cpu_seconds(self):
        return 0.0

    def reset_peak_rss(self):
        return False

    def peak_rss(self):
        return None


@pytest.fixture
def setting(tmp_path):
    options = SimpleNamespace(arms=[ARMS["greedy"]], rounds=2, repeats=0, wait_quiet=0.0)
    questions = [SimpleNamespace(id=name) for name in LENGTHS]
    ids = {"chat-1": [1, 2], "edit-1": [3]}
    parts = SimpleNamespace(folder=tmp_path, key={"a": "key"})
    return SimpleNamespace(options=options, questions=questions, token_ids=ids, parts=parts, show=NoProgress())


def test_a_peer_is_asked_for_as_many_tokens_and_plain_decoding_does_not_run_meanwhile(setting):
    calls = []
    workers = {"greedy": Worker("greedy", calls), PEER: Worker(PEER, calls)}
    record = take_rounds(setting, workers, Console())
    asked = [arguments for name, _, arguments in calls if name == PEER]
    assert sorted((entry["prompt"], entry["new_tokens"]) for entry in asked) == [([1, 2], 5)] * 2 + [([3], 2)] * 2
    before = calls[: [name for name, *_ in calls].index(PEER)]
    assert {arguments["name"] for _, method, arguments in before if method == "measure"} >= set(LENGTHS)
    per_round = [name for name, method, _ in calls if method in ("measure", "decode")][len(LENGTHS) :]
    assert sorted(per_round) == sorted([PEER, "greedy"] * 2 * len(LENGTHS))  # each once per prompt and round
    assert set(samples_of(record, list(LENGTHS))) == {"greedy", PEER}
