"""Decode a prompt and write an HTML page that shows how: who produced each token, and what every step guessed.

    python -m experiments.trace --prompt="Say this twice: a rose is a rose." --method=prompt_lookup --out=trace.html
    python -m experiments.trace --prompt="What is the capital of France?" --method=draft_model --max_new_tokens=32

The page stands alone: no scripts, and nothing that is fetched. Flags are those of experiments.generate; methods whose texts are
known at the end only (beams) have no trace. Decoding returns to the host after every step, so that nothing here is a measure
of speed. An older trace at --out is replaced, at once; any other file is not. Progress goes to stderr. Exit status: 0, 2 for
bad input, 130 after Ctrl-C (the page then shows the steps so far, if there were any).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.interrupts import Interrupts

if TYPE_CHECKING:
    from absl import flags

LEFT_OUT = ("prompt_file", "json", "batch_size", "out")
"""Flags of ``experiments.generate`` that are about files of prompts and the form of the output."""
SHOWN_APART = ("prompt", "model", "method", "out", "config", "help")
NOTHING = "Interrupted: nothing had been decoded yet."


def main(arguments: Sequence[str], interrupts: Interrupts) -> int:
    """Run, and turn what can go wrong into one line and an exit status.

    Args:
      arguments: the command line, the program's name first.
      interrupts: installed, if Ctrl-C is to be answered.
    """
    # Imported here, where Ctrl-C is answered already.
    from absl import flags, logging

    from experiments import answers, generate_flags

    logging.set_verbosity(logging.WARNING)  # jax reports every accelerator it does not find
    try:
        values = define_flags()
        if generate_flags.parse(values, arguments):
            return write_trace(values, interrupts)
        print(f"{__doc__}\n{values.get_help(include_special_flags=False)}", flush=True)
        return 0
    except KeyboardInterrupt:
        answers.say(NOTHING)
        return 130
    except (flags.Error, ValueError, OSError, FloatingPointError) as error:  # the last: a model that returns NaN
        answers.say(f"error: {error}")
        return 2


def define_flags() -> "flags.FlagValues":
    """The flags of ``experiments.generate``, but those that make no sense here, and ``--out``."""
    from absl import flags

    from experiments import generate_flags

    values = generate_flags.define_flags(leave_out=LEFT_OUT)
    flags.DEFINE_string("out", "trace.html", "Page to write.", flag_values=values)
    return values


def write_trace(values: "flags.FlagValues", interrupts: Interrupts) -> int:
    """Check the flags, decode, write the page. Returns an exit status.

    Raises:
      ValueError: bad input.
      OSError: a file that cannot be read or written.
    """
    from experiments import answers
    from experiments.generate_flags import run_options

    options = check(values, run_options(values))
    lm = answers.load(values, interrupts)
    options = answers.read_companions(options, values.dtype)
    entry = {"id": 0, "prompt": values.prompt}
    run = answers.build_run(lm, [entry], {**options, "seed": values.seed}, None, interrupts)

    from experiments.decode_trace import record
    from experiments.progress import decoding_progress
    from experiments.record import write_text
    from experiments.trace_page import render

    with decoding_progress(answers.budget(run)) as report:
        traces = record(run, lambda: report(run.tokens_so_far(), "Decoding"))
    out = write_text(Path(values.out).expanduser(), render(run, traces, settings(values)))
    for trace in traces:
        counts = trace.counts
        answers.say(f"{counts.new_tokens} tokens in {counts.target_calls} calls, {counts.tokens_per_call:.2f} per call")
    answers.say(f"{out}: {len(traces)} text{'s' * (len(traces) > 1)}, {out.stat().st_size / 1e3:.0f} kB")
    return answers.interrupted("the page shows the steps so far") if interrupts.requested else 0


def check(values: "flags.FlagValues", options: dict[str, Any]) -> dict[str, Any]:
    """Refuse what can have no trace, or nowhere to go; returns ``options``.

    Raises:
      ValueError: bad input.
    """
    from experiments.generate_flags import method_of
    from experiments.prompts import is_text
    from experiments.trace_page import MARK

    if not values.prompt:
        raise ValueError("--prompt is missing: give at least one character")
    if not is_text(values.prompt):
        raise ValueError("--prompt is not UTF-8")
    if not method_of(options).incremental:
        raise ValueError(f"--method={options['method']} has no trace: its texts are known at the end only")
    out = Path(values.out).expanduser()
    if not out.parent.is_dir():
        raise ValueError(f"--out={values.out}: there is no folder {out.parent}")
    if out.is_dir() or (out.exists() and MARK not in out.read_bytes()[:1000].decode(errors="replace")):
        raise ValueError(f"--out={values.out}: it exists and is no trace; it is not replaced")
    return options


def settings(values: "flags.FlagValues") -> dict[str, Any]:
    """Flags that are not as they are by default, and those that decide how long the text may be and what is drawn."""
    always = ("max_new_tokens", "seed", "dtype")
    names = [name for name in sorted(values) if name not in SHOWN_APART]
    return {name: values[name].value for name in names if name in always or values[name].value != values[name].default}


if __name__ == "__main__":
    handler = Interrupts(when_nothing_is_lost=NOTHING)
    handler.install()
    status = main(sys.argv, handler)
    handler.ignore()
    sys.exit(status)
