"""Ctrl-C is answered at any moment."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from experiments.interrupts import STATUS, Interrupts


@pytest.fixture
def interrupts():
    before = signal.getsignal(signal.SIGINT)
    handler = Interrupts("nothing lost")
    handler.install()
    yield handler
    signal.signal(signal.SIGINT, before)


def test_ignoring(interrupts):
    interrupts.ignore()
    press()
    assert not interrupts.requested


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_with_results_the_first_interrupt_only_asks(interrupts):
    interrupts.keep_results()
    assert not interrupts.requested
    press()
    assert interrupts.requested


def test_raising_is_for_its_block_only(interrupts):
    interrupts.keep_results()
    with pytest.raises(KeyboardInterrupt), interrupts.raising():
        press()
    assert not interrupts.requested
    press()
    assert interrupts.requested


PROGRAM = """
    import os, signal, sys
    from experiments.interrupts import Interrupts
    interrupts = Interrupts("nothing lost")
    interrupts.install()
    for step in sys.argv[1]:
        if step == "k":
            interrupts.keep_results()
        else:
            os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""


@pytest.mark.parametrize(
    ("steps", "status", "output", "error"),
    [
        ("p", STATUS, "", "nothing lost\n"),
        ("kp", 0, "still here\n", ""),
        ("kpp", STATUS, "", "Interrupted twice: ended at once.\n"),
        ("kkpk", 0, "still here\n", ""),
    ],
)
def test_a_process(steps, status, output, error):
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), steps]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, output, error)


def test_the_status_is_that_of_a_shell():
    assert STATUS == 130
