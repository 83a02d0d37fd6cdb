"""Progress of a replica: lines where nobody looks at bars, bars on a terminal, and nothing on stdout."""

import io

from experiments.papers import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(shown):
    with shown.task("decoding", 3) as advance:
        for number in range(3):
            advance(f"loss {number}")


def test_lines_where_there_is_no_terminal(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.__setitem__(0, now[0] + 6.0) or now[0])
    with progress.on_stderr() as shown:
        work(shown)
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr == "decoding ...\ndecoding: 2 of 3 loss 1\n"  # every ten seconds; a unit takes six here


def test_bars_on_a_terminal(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.on_stderr() as shown, shown.task("decoding", 3) as advance:
        advance("loss 0.5")
        shown._bars.refresh()
    assert "decoding" in terminal.getvalue()
    assert "1/3" in terminal.getvalue()
    assert "loss 0.5" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_no_progress_shows_nothing(capsys):
    work(progress.NoProgress())
    assert capsys.readouterr() == ("", "")
