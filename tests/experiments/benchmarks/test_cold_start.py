"""What a start costs, measured on commands that cost next to nothing."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from experiments.benchmarks import first_text
from experiments.benchmarks.cold_start import ColdStart
from experiments.benchmarks.worker_process import WorkerError

DESCRIPTION = {"engine": "jaxdec", "version": "1", "dtype": "float32", "load_seconds": 3.0, "load_peak_rss_bytes": 5}


def python(program):
    return [sys.executable, "-S", "-c", textwrap.dedent(program)]


SLOW = """
    import sys, time
    print(end="  ", flush=True)
    time.sleep(0.3)
    print("text", flush=True)
    time.sleep(0.3)
    print("more")
"""


def test_the_first_text_is_the_first_that_is_not_white_space():
    seen = first_text.measure(python(SLOW))
    assert seen["status"] == 0
    assert seen["wrote"] is True
    assert seen["first_text_seconds"] >= 0.3
    assert seen["total_seconds"] >= seen["first_text_seconds"] + 0.3


@pytest.mark.parametrize(
    ("program", "status", "wrote"),
    [
        ("raise SystemExit(3)", 3, False),
        ("print('   ')", 0, False),
        ("import os; print('a', flush=True); os.kill(os.getpid(), 9)", -9, True),
    ],
)
def test_status_and_silence(program, status, wrote):
    seen = first_text.measure(python(program))
    assert (seen["status"], seen["wrote"]) == (status, wrote)


def test_peak_memory_is_the_commands_own():
    ballast = b"x" * (300 << 20)  # ours, which a child started from here would be charged with
    small = ColdStart(python("print('a')"), DESCRIPTION).call("measure")["peak_rss_bytes"]
    assert small < 60 << 20
    large = ColdStart(python("text = b'x' * (200 << 20); print('a')"), DESCRIPTION).call("measure")["peak_rss_bytes"]
    assert 200 << 20 < large < 300 << 20
    assert len(ballast) == 300 << 20


def test_measuring_takes_one_process_and_warming_up_asks_for_the_report(tmp_path):
    log = tmp_path / "log"
    program = f"""
        import json, sys
        with open({str(log)!r}, "a") as file:
            file.write(" ".join(sys.argv[1:]) + ";")
        print(json.dumps({{"compile_seconds": 0.5, "tokens_per_call": 1.0, "text": "x"}}))
    """
    start = ColdStart(python(program), DESCRIPTION, report=["--json"])
    assert start.peak_rss() is None
    assert start.call("warm_up") == {"compile_seconds": 0.5, "tokens_per_call": 1.0}
    assert log.read_text() == ";--json;"
    metrics = start.call("measure")
    assert log.read_text() == ";--json;;"
    assert set(metrics) == {"first_text_seconds", "total_seconds", "peak_rss_bytes"}
    assert start.peak_rss() == metrics["peak_rss_bytes"]
    json.dumps(metrics)
    assert start.description == {"engine": "jaxdec", "version": "1", "dtype": "float32"}


def test_without_a_report_nothing_is_known_of_compiling():
    assert ColdStart(python("print('a')"), DESCRIPTION).call("warm_up") == {}


@pytest.mark.parametrize("method", ["warm_up", "measure"])
def test_a_command_that_fails_says_why_in_the_first_line(method):
    start = ColdStart(python("import sys; print('text'); sys.exit('no weights')"), DESCRIPTION)
    with pytest.raises(WorkerError) as error:
        start.call(method)
    assert str(error.value).splitlines()[0].endswith("failed: no weights")


def test_a_command_that_writes_nothing_has_failed():
    with pytest.raises(WorkerError, match="failed: it wrote nothing"):
        ColdStart(python("pass"), DESCRIPTION).call("measure")


def test_a_report_that_is_no_json_has_failed():
    with pytest.raises(WorkerError, match="--json failed"):
        ColdStart(python("print('a')"), DESCRIPTION, report=["--json"]).call("warm_up")


def test_its_processor_time_counts_as_its_own():
    start = ColdStart(python("import time\nwhile time.process_time() < 0.4: pass\nprint('a')"), DESCRIPTION)
    before = start.cpu_seconds()
    start.call("measure")
    assert start.cpu_seconds() - before >= 0.3


def test_an_interruption_leaves_no_process(tmp_path):
    """The probe and what it runs are killed together."""
    pids = tmp_path / "pids"
    inner = f"import os, time; open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    outer = f"""
        import os, signal, sys, threading, time
        from pathlib import Path
        from experiments.benchmarks.cold_start import ColdStart

        def interrupt():
            while not Path({str(pids)!r}).exists() or not Path({str(pids)!r}).read_text():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
        threading.Thread(target=interrupt).start()
        try:
            ColdStart([sys.executable, "-S", "-c", {inner!r}], {{}}).call("measure")
        except KeyboardInterrupt:
            print("interrupted")
    """
    command = [sys.executable, "-c", textwrap.dedent(outer)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
    status = Path(f"/proc/{pids.read_text()}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()  # gone, or waiting for somebody to notice
