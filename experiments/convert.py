"""Turn a model into a Hugging Face directory (safetensors) or an Orbax directory.

    python -m experiments.convert --model=model.gguf --out=folder --format=safetensors
    python -m experiments.convert --model=smollm2-135m-instruct --out=folder --format=orbax --dtype=bfloat16

A GGUF file is dequantised. Both kinds of folder can be given to ``--model`` of the other commands; transformers reads the
first. The folder appears whole or not at all, and an old one is replaced only with ``--overwrite``. Progress goes to stderr.
Exit status: 0, 2 for bad input, 130 after Ctrl-C (nothing has been written then).
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.all_or_nothing import NOTHING, run_command, say
from experiments.interrupts import Interrupts

if TYPE_CHECKING:
    from absl import flags

FORMATS = ("safetensors", "orbax")
DTYPES = ("float32", "bfloat16")


def main(arguments: Sequence[str], interrupts: Interrupts) -> int:
    """Run, and turn what can go wrong into one line and an exit status.

    Args:
      arguments: the command line, the program's name first.
      interrupts: installed, if Ctrl-C is to be answered.
    """
    return run_command(arguments, __doc__, define_flags, lambda values: convert(values, interrupts))


def define_flags() -> "flags.FlagValues":
    """The flags of the command, in a set of their own."""
    from absl import flags

    values = flags.FlagValues()
    model = "Name, GGUF file, Hugging Face or Orbax folder, or hf:owner/name."
    flags.DEFINE_string("model", None, model, flag_values=values)
    flags.DEFINE_string("out", None, "Folder to write.", flag_values=values)
    flags.DEFINE_string("format", None, "safetensors (a Hugging Face directory) or orbax.", flag_values=values)
    flags.DEFINE_string("dtype", "float32", "float32 or bfloat16: type of the weights written.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace --out if it is a model folder.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this.", flag_values=values)
    return values


def convert(values: "flags.FlagValues", interrupts: Interrupts) -> None:
    """Check the flags, read the model, write it.

    Raises:
      ValueError: bad input.
      OSError: a file that cannot be read or written.
    """
    for name in ("model", "out", "format"):
        if not values[name].value:
            raise ValueError(f"--{name} is missing: give --model, --out and --format")
    for name, allowed in (("format", FORMATS), ("dtype", DTYPES)):
        if values[name].value not in allowed:
            raise ValueError(f"--{name} must be one of {', '.join(allowed)}, got {values[name].value!r}")
    from jaxdec.checkpoints.files import check_replaceable

    out = Path(values.out).expanduser()
    try:
        check_replaceable(out, overwrite=values.overwrite)
    except FileExistsError as error:
        raise ValueError(f"--out={values.out}: {str(error).replace('overwrite=True', '--overwrite')}") from None
    import jax.numpy as jnp

    from jaxdec.checkpoints import load_checkpoint
    from jaxdec.checkpoints.registry import resolve

    with interrupts.raising():  # an interrupted fetch leaves nothing behind, and neither does an interrupted save
        path = resolve(os.path.expanduser(values.model))
    say(f"Reading {path} ...")
    checkpoint = load_checkpoint(path, jnp.dtype(values.dtype))
    if values.format == "safetensors":
        from jaxdec.checkpoints.hf_directory import save_hf_directory as save
    else:
        from jaxdec.checkpoints.orbax import save_orbax as save
    say(f"Writing {out} ...")
    with interrupts.raising():
        save(out, checkpoint.config, checkpoint.params, checkpoint.tokenizer, overwrite=values.overwrite)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    say(f"{out}: {size / 1e6:.1f} MB, {values.dtype}, {values.format}")


if __name__ == "__main__":
    handler = Interrupts(when_nothing_is_lost=NOTHING)
    handler.install()
    status = main(sys.argv, handler)
    handler.ignore()
    sys.exit(status)
