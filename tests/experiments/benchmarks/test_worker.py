"""Both ends of a worker, with a real child process between them."""

import contextlib
import io
import json
import os
import time

import pytest

from experiments.benchmarks.worker import serve
from experiments.benchmarks.worker_process import WorkerError, WorkerProcess
from tests.experiments.benchmarks.toy_engine import ToyEngine

TOY = "tests.experiments.benchmarks.toy_engine:ToyEngine"


@contextlib.contextmanager
def toy(timeout=60.0, **options):
    worker = WorkerProcess("toy", TOY, options, timeout=timeout)
    try:
        yield worker
    finally:
        worker.close()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_describes_itself_and_replies():
    with toy(greeting="grüße") as worker:
        assert worker.description["greeting"] == "grüße"
        assert worker.description["load_peak_rss_bytes"] > 1 << 20
        assert worker.call("echo", a=[1, 2.5, None], b="x\n") == {"a": [1, 2.5, None], "b": "x\n"}
        assert worker.call("echo", text="x" * 300_000) == {"text": "x" * 300_000}  # more than a pipe holds


def test_nothing_that_libraries_print_lands_between_the_replies():
    with toy(noisy=True) as worker:
        assert worker.call("noise") == "the reply"
        assert worker.call("echo", a=1) == {"a": 1}
        words = worker.last_words()
    for text in ("printed while loading", "forged", "from a child"):
        assert text in words


def test_an_exception_in_the_engine_is_an_error_here_and_the_worker_lives_on():
    with toy() as worker:
        with pytest.raises(WorkerError, match=r"^worker toy: RuntimeError: no such luck$"):
            worker.call("fail", text="no such luck")
        assert worker.last_words().startswith("Traceback")
        with pytest.raises(WorkerError, match="has no attribute 'nothing'"):
            worker.call("nothing")
        with pytest.raises(WorkerError, match="unexpected keyword argument"):
            worker.call("sleep", minutes=1)
        with pytest.raises(WorkerError, match="set is not JSON serializable"):
            worker.call("not_json")
        with pytest.raises(WorkerError, match="not JSON compliant"):
            worker.call("not_a_number")
        assert worker.call("echo", a=1) == {"a": 1}


def test_reading_the_log_leaves_it_whole():
    with toy() as worker:
        worker.call("say", text="first")
        assert worker.last_words() == "first"
        worker.call("say", text="second")
        assert worker.last_words() == "first\nsecond"
        assert worker.last_words(characters=4) == "cond"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fail": "no weights"}, r"^worker toy: ValueError: no weights$"),
        ({"die": True}, r"^worker toy died with status 3: about to die\n"),
        ({"nonsense": 1}, "unexpected keyword argument 'nonsense'"),
    ],
)
def test_an_engine_that_does_not_load(options, message):
    with pytest.raises(WorkerError, match=message):
        WorkerProcess("toy", TOY, options)


def test_a_target_that_does_not_exist():
    with pytest.raises(WorkerError, match="ModuleNotFoundError: No module named 'nowhere'"):
        WorkerProcess("toy", "nowhere:Engine", {})


def test_a_worker_that_dies_says_how_in_the_first_line():
    with toy() as worker:
        with pytest.raises(WorkerError) as error:
            worker.call("die", status=7)
        assert str(error.value).splitlines()[0] == "worker toy died with status 7: last words"
        with pytest.raises(WorkerError, match=r"^worker toy is closed$"):
            worker.call("echo", a=1)


def test_a_late_answer_is_never_taken_for_another():
    with toy(timeout=0.5) as worker:
        pid = worker.pid
        with pytest.raises(WorkerError, match=r"^worker toy did not answer within 0\.5 s$"):
            worker.call("sleep", seconds=0.8)
        assert not alive(pid)
        with pytest.raises(WorkerError, match="closed"):
            worker.call("echo", a=1)


def test_loading_takes_no_longer_than_the_timeout():
    begin = time.monotonic()
    with pytest.raises(WorkerError, match=r"did not answer within 0\.3 s"):
        WorkerProcess("toy", TOY, {"slow": 60.0}, timeout=0.3)
    assert time.monotonic() - begin < 30


def test_close_ends_an_idle_worker_by_itself_and_kills_a_busy_one():
    worker = WorkerProcess("toy", TOY, {})
    pid = worker.pid
    worker.close()
    assert not alive(pid)
    assert worker._process.returncode == 0
    worker.close()  # and again

    worker = WorkerProcess("toy", TOY, {})
    worker._process.stdin.write(b'{"call": "sleep", "arguments": {"seconds": 60}}\n')
    worker._process.stdin.flush()
    pid = worker.pid
    worker.close(patience=0.1)
    assert not alive(pid)
    assert worker._process.returncode < 0


def test_processor_seconds_and_memory_are_those_of_the_worker():
    with toy() as worker:
        before = worker.cpu_seconds()
        worker.call("burn", seconds=0.3)
        assert worker.cpu_seconds() - before >= 0.2
        worker.call("hold", megabytes=200)
        assert worker.peak_rss() > 200 << 20
        assert worker.reset_peak_rss()
        assert worker.peak_rss() < 100 << 20
        assert worker.description["load_peak_rss_bytes"] < 100 << 20


def test_compiled_programs_are_never_read_from_a_cache():
    with toy() as worker:
        assert worker.call("environment_variable", name="JAX_ENABLE_COMPILATION_CACHE") == "0"


def test_serve_without_a_process():
    requests = io.StringIO('{"call": "echo", "arguments": {"a": 1}}\n')
    replies = io.StringIO()
    serve(ToyEngine, requests, replies)
    assert [json.loads(line) for line in replies.getvalue().splitlines()] == [
        {"result": {"engine": "toy", "greeting": "hello"}},
        {"result": {"a": 1}},
    ]
