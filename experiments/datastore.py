"""Build what retrieval drafters guess from: a suffix datastore (REST) or a table of tri-grams (ADED).

    python -m experiments.datastore --kind=suffix --out=datastore.safetensors
    python -m experiments.datastore --kind=trigram --out=table.safetensors --text=notes.txt --text='docs/**/*.md'
    python -m experiments.datastore --kind=suffix --out=datastore.safetensors --model_outputs=answers.jsonl

Texts come from files (--text), from the model's own answers (--model_outputs, JSONL files that experiments.generate wrote;
the best source, where there is time to make them), or, with neither, from what is installed: Python's language reference, the
docstrings of its standard library, and the descriptions of the installed packages, in this order. Only the tokenizer of the
model is read. The file appears whole or not at all, and fits models with this tokenizer alone. Progress and a summary of what
went in go to stderr. Exit status: 0, 2 for bad input, 130 after Ctrl-C (nothing has been written then).
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.all_or_nothing import NOTHING, run_command, say
from experiments.interrupts import Interrupts

if TYPE_CHECKING:
    from absl import flags

    from experiments.text_sources import Source, Text
    from jaxdec.tokenizers import Tokenizer

KINDS = {"suffix": "--method=suffix_retrieval --datastore", "trigram": "--method=aded --trigram_table"}
"""Kinds of files, and the flags that take them."""
MAX_TOKENS = 1_000_000
PIECE = 1 << 20  # characters tokenised at once


class Collected(NamedTuple):
    """What was taken of a source: token ids of its texts, characters read, and whether some was left."""

    name: str
    texts: list[list[int]]
    characters: int
    cut: bool

    @property
    def tokens(self) -> int:
        """In all texts."""
        return sum(map(len, self.texts))


def main(arguments: Sequence[str], interrupts: Interrupts) -> int:
    """Run, and turn what can go wrong into one line and an exit status.

    Args:
      arguments: the command line, the program's name first.
      interrupts: installed, if Ctrl-C is to be answered.
    """

    def work(values: "flags.FlagValues") -> None:
        check(values)
        build(values, interrupts)

    return run_command(arguments, __doc__, define_flags, work)


def define_flags() -> "flags.FlagValues":
    """The flags of the command, in a set of their own."""
    from absl import flags

    values = flags.FlagValues()
    kind = "suffix (a datastore for suffix_retrieval) or trigram (a table for aded)."
    flags.DEFINE_string("kind", None, kind, flag_values=values)
    flags.DEFINE_string("out", None, "File to write.", flag_values=values)
    text = "Text file, or a pattern of such (** for any folders); may be given several times."
    flags.DEFINE_multi_string("text", [], text, flag_values=values)
    outputs = "JSONL file of answers, or a pattern of such; may be given several times."
    flags.DEFINE_multi_string("model_outputs", [], outputs, flag_values=values)
    model = "Whose tokenizer: name, GGUF file, Hugging Face or Orbax folder, or hf:owner/name."
    flags.DEFINE_string("model", "smollm2-135m-instruct", model, flag_values=values)
    flags.DEFINE_integer("max_tokens", MAX_TOKENS, "Tokens taken at most, the first ones.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace --out if it is such a file.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this.", flag_values=values)
    return values


def check(values: "flags.FlagValues") -> None:
    """Refuse flags that make no sense, before anything is read.

    Raises:
      ValueError: bad input.
    """
    for name in ("kind", "out"):
        if not values[name].value:
            raise ValueError(f"--{name} is missing: give --kind and --out")
    if values.kind not in KINDS:
        raise ValueError(f"--kind must be one of {', '.join(KINDS)}, got {values.kind!r}")
    if not 1 <= values.max_tokens < 2**31:
        raise ValueError(f"--max_tokens must be from 1 to 2^31 - 1, got {values.max_tokens}")
    out = Path(values.out).expanduser()
    if not (out.exists() or out.is_symlink()):
        return
    if not values.overwrite:
        raise ValueError(f"--out={values.out}: it exists; give --overwrite to replace it")
    from jaxdec.array_files import kind_of
    from jaxdec.decoding.speculative import datastore, trigram_table

    if not out.is_file() or kind_of(out) not in (datastore.KIND, trigram_table.KIND):
        raise ValueError(
            f"--out={values.out}: it exists and is no such file: it is not replaced, even with --overwrite"
        )


def build(values: "flags.FlagValues", interrupts: Interrupts) -> None:
    """Read texts, tokenise, build, write.

    Raises:
      ValueError: bad input.
      OSError: a file that cannot be read or written.
    """
    from experiments.progress import decoding_progress
    from experiments.text_sources import installed_texts, model_outputs, text_files
    from jaxdec.checkpoints.registry import resolve
    from jaxdec.checkpoints.vocabulary import read_vocabulary
    from jaxdec.decoding.speculative.datastore import build_datastore, save_datastore
    from jaxdec.decoding.speculative.trigram_table import build_trigram_table, save_trigram_table

    with interrupts.raising():  # nothing is kept before all is done
        sources = [*text_files(values.text), *model_outputs(values.model_outputs)] or installed_texts()
        tokenizer, vocab_size = read_vocabulary(resolve(os.path.expanduser(values.model)))
        with decoding_progress(values.max_tokens) as report:
            report(0, "Reading")
            collected = collect(sources, tokenizer, vocab_size, values.max_tokens, report)
        texts = [text for source in collected for text in source.texts]
        for source in collected:
            rest = ", the rest was left" if source.cut else ""
            say(f"{source.name}: {source.tokens:,} tokens, {source.characters / 1e6:.2f} million characters{rest}")
        count = sum(map(len, texts))
        if count < (3 if values.kind == "trigram" else 1):
            raise ValueError(f"the texts hold {count} tokens: there is nothing to build from")
        say(f"Building from {count:,} tokens ...")
        path = Path(values.out).expanduser()
        if values.kind == "suffix":
            save_datastore(path, build_datastore(texts, vocab_size, vocabulary=tokenizer.vocabulary_sha256))
        else:
            save_trigram_table(path, build_trigram_table(texts, vocab_size, vocabulary=tokenizer.vocabulary_sha256))
    say(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, from {count:,} tokens of {len(texts)} texts, for models with the "
        f"tokenizer of {values.model}; use it with {KINDS[values.kind]}={path}"
    )


def collect(
    sources: Sequence["Source"],
    tokenizer: "Tokenizer",
    vocab_size: int,
    max_tokens: int,
    report: Callable[[int, str], None],
) -> list[Collected]:
    """Tokenise sources in turn until there are ``max_tokens`` tokens; sources that come to nothing are left out."""
    collected, left = [], max_tokens
    for source in sources:
        texts, characters, cut = [], 0, False
        for text in source.texts:
            if left == 0:
                cut = True
                break
            ids, read = token_ids(text, tokenizer, vocab_size, left)
            cut = len(ids) > left or read < len(text.text)
            ids = ids[:left]
            left -= len(ids)
            characters += read
            if ids:
                texts.append(ids)
            report(max_tokens - left, f"Reading {source.name[:60]}")
        if texts:
            collected.append(Collected(source.name, texts, characters, cut))
    return collected


def token_ids(text: "Text", tokenizer: "Tokenizer", vocab_size: int, enough: int) -> tuple[list[int], int]:
    """``(ids, characters read)``; long texts are read piece by piece until there are more than ``enough`` ids.

    The ids that a model itself gave are taken as they are, if they stand for the text with this tokenizer: tokenised anew, a
    text need not come to the tokens that it was said in.
    """
    ids = text.token_ids
    if ids and all(0 <= token < vocab_size for token in ids) and tokenizer.decode(ids).startswith(text.text):
        return ids, len(text.text)
    ids, start = [], 0
    while start < len(text.text) and len(ids) <= enough:
        end = start + PIECE
        line_end = text.text.rfind("\n", start, end) + 1
        end = line_end if line_end > start and end < len(text.text) else end
        piece = text.text[start:end].encode("utf-8", "replace").decode()  # half surrogates are no characters
        ids += tokenizer.encode(piece, add_bos=False)
        start = end
    return ids, min(start, len(text.text))


if __name__ == "__main__":
    handler = Interrupts(when_nothing_is_lost=NOTHING)
    handler.install()
    status = main(sys.argv, handler)
    handler.ignore()
    sys.exit(status)
