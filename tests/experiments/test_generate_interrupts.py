"""The launcher: Ctrl-C, at every stage, and readers that have had enough."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

import jaxdec
from experiments.interrupts import Interrupts
from tests.experiments.prompt_files import read_lines, write_lines


@pytest.fixture
def interrupt_after(monkeypatch):
    """``interrupt_after(n)``: Ctrl-C when ``n`` states have been seen; returns the installed handler."""
    before = signal.getsignal(signal.SIGINT)
    handler = Interrupts("early")
    handler.install()
    states = jaxdec.Run.states

    def prepare(count):
        seen = 0

        def interrupted(self, steps=1):
            nonlocal seen
            for state in states(self, 1):
                seen += 1
                if seen == count:
                    handler.keep_results()
                    os.kill(os.getpid(), signal.SIGINT)
                yield state

        monkeypatch.setattr(jaxdec.Run, "states", interrupted)
        return handler

    yield prepare
    signal.signal(signal.SIGINT, before)


def test_interrupting_a_stream_prints_all_there_is(run_generate, ask_generate, tiny_gguf, interrupt_after):
    """Also what was held back for a stop string that never came."""
    whole = ask_generate("--prompt=abc", "--max_new_tokens=12")["text"]
    flags = ("--prompt=abc", f"--model={tiny_gguf}", "--max_new_tokens=12", "--stop=a stop string")
    status, out, err = run_generate(*flags, interrupts=interrupt_after(5))
    assert (status, out) == (130, whole[:5] + "\n")
    assert err.splitlines()[-1] == "Interrupted: the text so far was kept."


def test_interrupting_json_leaves_one_object(run_generate, ask_generate, tiny_gguf, interrupt_after):
    whole = ask_generate("--prompt=abc", "--max_new_tokens=12")["text"]
    flags = ("--prompt=abc", f"--model={tiny_gguf}", "--max_new_tokens=12", "--json")
    status, out, err = run_generate(*flags, interrupts=interrupt_after(5))
    answer = json.loads(out)
    assert status == 130
    assert (answer["text"], answer["finish_reason"]) == (whole[:5], "interrupted")
    assert set(answer) == set(ask_generate("--prompt=abc"))  # all the fields that it has otherwise
    assert "Traceback" not in err


def test_interrupting_beams_prints_the_best_so_far(run_generate, tiny_gguf, interrupt_after):
    flags = ("--prompt=abc", f"--model={tiny_gguf}", "--max_new_tokens=12", "--method=beam", "--num_beams=2")
    status, out, _ = run_generate(*flags, interrupts=interrupt_after(3))
    assert status == 130
    assert [len(line) for line in out.splitlines()] == [len("[1] abc")] * 2


@pytest.mark.parametrize("kind", ["lines", "json", "out"])
def test_interrupting_a_file_keeps_whole_answers_and_the_text_so_far(
    run_generate, tiny_gguf, tmp_path, interrupt_after, kind
):
    prompts = write_lines(
        tmp_path / "prompts.jsonl", *({"prompt": text} for text in ("abc", "de", "fgh", "i", "j", "k"))
    )
    base = (f"--prompt_file={prompts}", f"--model={tiny_gguf}", "--max_new_tokens=6", "--batch_size=2")
    whole = [json.loads(line)["text"] for line in run_generate(*base)[1].splitlines()]
    out = tmp_path / "answers.jsonl"
    flags = {"lines": (), "json": ("--json",), "out": (f"--out={out}",)}[kind]
    status, text, err = run_generate(*base, *flags, interrupts=interrupt_after(6 + 3))  # six states a batch
    assert status == 130
    last = err.splitlines()[-1]
    assert last.startswith("Interrupted: 2 of 6 prompts were answered")
    printed = [json.loads(text)] if kind == "json" else [json.loads(line) for line in text.splitlines()]
    lines = printed[0]["generations"] if kind == "json" else printed
    if kind == "out":
        assert f"; {out} has them, and the same command goes on from there" in last
        assert [line["finish_reason"] for line in read_lines(out)] == ["length"] * 2
        lines = read_lines(out) + lines
    assert [(line["id"], line["text"]) for line in lines] == [
        (0, whole[0]), (1, whole[1]), (2, whole[2][:3]), (3, whole[3][:3]),
    ]  # fmt: skip
    assert [line["finish_reason"] for line in lines[2:]] == ["interrupted"] * 2


def test_an_interrupted_file_goes_on(run_generate, tiny_gguf, tmp_path, interrupt_after):
    prompts = write_lines(tmp_path / "prompts.jsonl", *({"prompt": text} for text in ("abc", "de", "fgh", "i")))
    out = tmp_path / "answers.jsonl"
    base = (
        f"--prompt_file={prompts}",
        f"--model={tiny_gguf}",
        "--max_new_tokens=6",
        "--batch_size=2",
        "--temperature=3",
    )
    whole = [json.loads(line) for line in run_generate(*base)[1].splitlines()]
    assert run_generate(*base, f"--out={out}", interrupts=interrupt_after(6 + 3))[0] == 130
    assert run_generate(*base, f"--out={out}")[0] == 0
    assert [(line["id"], line["text"]) for line in read_lines(out)] == [(line["id"], line["text"]) for line in whole]


def test_ctrl_c_while_decoding_keeps_the_text(start_generate, tiny_gguf):
    """The budget is a hundred thousand tokens: it cannot be used up before the signal comes."""
    process = start_generate("--prompt=abc", f"--model={tiny_gguf}", "--max_new_tokens=100000")
    first = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    text = first + rest
    assert text.endswith("\n")
    assert text[:-1].isalpha()
    assert err.splitlines()[-1] == "Interrupted: the text so far was kept."
    assert f"{len(text) - 1} tokens" in err
    assert "Traceback" not in err


def test_ctrl_c_while_loading_is_one_line(start_generate, tmp_path):
    """A model that never finishes loading: its config is a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "config.json")
    process = start_generate("--prompt=abc", f"--model={tmp_path}", "--json")
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert first == f"Loading {tmp_path} ...\n"
    assert (process.returncode, out, err) == (130, "", "Interrupted: nothing had been decoded yet.\n")


def test_a_reader_that_has_had_enough_is_no_error(start_generate, tiny_gguf):
    process = start_generate("--prompt=abc", f"--model={tiny_gguf}", "--max_new_tokens=100000")
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    process.wait(60)
    assert process.returncode == 128 + signal.SIGPIPE
    assert err == f"Loading {tiny_gguf} ...\n"


FETCH = """
    import os, signal, sys
    from jaxdec.checkpoints import registry
    from experiments.generate import NOTHING, main
    from experiments.interrupts import Interrupts

    def resolve(name):  # a fetch, which has something to tidy up
        try:
            os.kill(os.getpid(), signal.SIGINT)
            print("not reached")
        finally:
            print("tidied", file=sys.stderr, flush=True)

    registry.resolve = resolve
    handler = Interrupts(NOTHING)
    handler.install()
    sys.exit(main(["generate", "--prompt=a"], handler))
"""


def test_ctrl_c_while_fetching_lets_the_fetch_tidy_up(generate_environment):
    line = [sys.executable, "-c", textwrap.dedent(FETCH)]
    done = subprocess.run(line, env=generate_environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (130, "")
    loading, *rest = done.stderr.splitlines()
    assert loading.startswith("Loading ")
    assert rest == ["tidied", "Interrupted: nothing had been decoded yet."]
