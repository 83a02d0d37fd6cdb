"""The suite `cpu_decode`: what it measures and what it claims."""

import pytest

from experiments.benchmarks import cpu_decode
from experiments.benchmarks.cpu_decode import PREFILL_TOKENS, agreement, model_file, real_cases, sides
from experiments.benchmarks.harness import Record
from experiments.benchmarks.suite import Options
from tests.experiments.benchmarks.synthetic import FakeWorker, cpu_session


def session_with(tmp_path, ours, theirs, logits):
    session = cpu_session()
    session.record = Record(tmp_path / "r", {"cases": [{"name": "decode", "arguments": {"prompt": [1, 2]}}]})
    session.warm = {("decode", "us"): {"tokens": ours}, ("decode", "them"): {"tokens": theirs}}
    asked = []

    class Worker(FakeWorker):
        def call(self, method, **arguments):
            asked.append((self.side, method, arguments))
            return logits[self.side]

    session.workers = {side: Worker(side) for side in ("us", "them")}
    return session, asked


def test_equal_texts(tmp_path):
    session, asked = session_with(tmp_path, [3, 4], [3, 4], {})
    assert agreement(session, "us", "them") == {"sides": ["us", "them"], "tokens": 2, "equal": True}
    assert asked == []


def test_the_first_difference_comes_with_both_gaps(tmp_path):
    session, asked = session_with(tmp_path, [3, 4, 5], [3, 7, 5], {"us": [2.0, 1.75], "them": [1.0, 1.5]})
    assert agreement(session, "us", "them") == {
        "sides": ["us", "them"], "tokens": 3, "equal": False, "first_difference": 1, "gap_ours": 0.25, "gap_theirs": 0.5,
    }  # fmt: skip
    arguments = {"context": [1, 2, 3], "tokens": [4, 7]}
    assert asked == [("us", "token_logits", arguments), ("them", "token_logits", arguments)]


def test_the_prefill_prompt_has_its_length_whatever_the_text():
    for length in (1, 39, 512, 600):
        cases = {case.name: case for case in real_cases(list(range(length)))}
        assert len(cases["prefill"].arguments["prompt"]) == PREFILL_TOKENS
        assert cases["decode"].arguments["prompt"] == list(range(length))
        assert cases["step_cost"].arguments["rows"][0] == 1  # what the others are relative to
        assert cases["cold_start"].sides == ("command",)


def test_sides_carry_dtype_quantisation_and_what_is_missing(monkeypatch):
    packages = {"transformers": ["torch"], "llama.cpp": []}
    monkeypatch.setattr(cpu_decode, "missing_packages", packages.__getitem__)
    by_name = {side.name: side for side in sides("/models/SmolLM2.Q4_1.gguf")}
    assert set(by_name) == {*cpu_decode.OURS, *cpu_decode.PEERS}
    assert by_name["transformers-bfloat16"].missing == "not installed: torch (pip install -e '.[peers]')"
    assert not by_name["llama.cpp"].missing
    assert by_name["llama.cpp"].options["dtype"] == "Q4_1"
    assert by_name["jaxdec-bfloat16"].options == {"model": "/models/SmolLM2.Q4_1.gguf", "dtype": "bfloat16"}
    assert {name for name, side in by_name.items() if side.peer} == set(cpu_decode.PEERS)


def test_the_model_must_be_a_file_that_all_engines_read(tmp_path):
    (tmp_path / "model.gguf").write_text("")
    with model_file(Options(out=tmp_path, rounds=1, model=str(tmp_path / "model.gguf"))) as path:
        assert path == tmp_path / "model.gguf"
    with (
        pytest.raises(ValueError, match="--model must be a GGUF file, which all engines read, got"),
        model_file(Options(out=tmp_path, rounds=1, model=str(tmp_path))),
    ):
        pass


def test_the_smoke_model_vanishes(tmp_path):
    with model_file(Options(out=tmp_path, rounds=1, smoke=True)) as path:
        assert path.read_bytes().startswith(b"GGUF")
    assert not path.exists()
