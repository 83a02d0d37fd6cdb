"""Progress goes to stderr, as a bar or as plain lines."""

import contextlib
import io
import sys

from experiments import progress
from experiments.progress import decoding_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_at_once_and_then_every_ten_seconds(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with decoding_progress(50) as report:
        report(1, "Decoding")
        now += 9.0
        report(2, "Decoding")
        now += 2.0
        report(3, "Decoding")
    assert sys.stderr.getvalue() == "Decoding: 1 tokens so far\nDecoding: 3 tokens so far\n"


def test_nothing_is_said_where_nothing_is_reported(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with decoding_progress(50):
        pass
    assert sys.stderr.getvalue() == ""


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with contextlib.suppress(RuntimeError), decoding_progress(50) as report:
        report(7, "2 of 5 prompts answered")
        raise RuntimeError
    text = sys.stderr.getvalue()
    assert "2 of 5 prompts answered" in text
    assert "7/50" in text
    assert "tokens so far" not in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0  # the cursor is back, also after an error
