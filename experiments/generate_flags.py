"""Flags of ``experiments.generate``, and what they ask for. Everything that can be refused is, before a model is loaded."""

import ast
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.config_file import apply_config
from experiments.prompts import PromptFileError, finished_ids, is_text, read_prompts

METHOD_OPTIONS = ("num_beams", "num_groups", "diversity_strength", "diversity", "length_penalty")
SPECULATIVE_OPTIONS = {
    "tree_size": "tree_size",
    "verification": "verification",
    "search": "search",
    "draft": "draft_model",
    "draft_layers": "draft_layers",
    "datastore": "datastore",
    "trigram_table": "trigram_table",
}
"""Options of speculative methods, and the flag of each."""
FILES = ("datastore", "trigram_table")
OWN = ("method", "sampling", "num_samples")
OF_THE_RUN = ("max_new_tokens", "seed", "raw", "stop", "share_prefixes", "kv_layout", "attention", "kv_cache")
RIVALS = {"prompt": "prompt_file", "prompt_file": "prompt"}


class _TreeSize(flags.ArgumentParser):
    """A number of nodes, or ``"auto"``."""

    syntactic_help = "a number or auto"

    def parse(self, argument: Any) -> Any:
        """The number, or ``"auto"``.

        Raises:
          ValueError: neither.
        """
        text = str(argument)
        if text == "auto":
            return text
        if not text.isdecimal() or int(text) < 1:
            raise ValueError("it must be a number of nodes, at least 1, or auto")
        return int(text)

    def flag_type(self) -> str:
        """For ``--help``."""
        return "number or auto"


class _WhetherToShare(flags.ArgumentParser):
    """``"auto"``, or whether."""

    syntactic_help = "auto, true or false"

    def parse(self, argument: Any) -> Any:
        """``"auto"``, True or False.

        Raises:
          ValueError: something else.
        """
        values = {"auto": "auto", "true": True, "false": False}
        text = str(argument).lower()
        if text not in values:
            raise ValueError("it must be auto, true or false; trees are given from Python")
        return values[text]

    def flag_type(self) -> str:
        """For ``--help``."""
        return "auto, true or false"


def define_flags(leave_out: Sequence[str] = ()) -> flags.FlagValues:
    """The flags of the command, in a set of their own; other commands leave some out."""
    values = flags.FlagValues()

    def define(kind: str, name: str, default: Any, text: str) -> None:
        if name not in leave_out:
            getattr(flags, f"DEFINE_{kind}")(name, default, text, flag_values=values)

    define("string", "prompt", None, "Text to answer.")
    define("string", "prompt_file", None, 'JSONL file: {"prompt": ...} or {"messages": [...]} and "id" in each line.')
    model = "Name, GGUF file, Hugging Face or Orbax folder, or hf:owner/name."
    define("string", "model", "smollm2-135m-instruct", model)
    method = (
        "greedy, sample, beam, diverse_beam, prompt_lookup, lookahead, suffix_retrieval, draft_model, aded; greedy by "
    )
    method += "default, or sample where a sampling flag is given."
    define("string", "method", None, method)
    define("integer", "max_new_tokens", 128, "Tokens to generate at most.")
    define("float", "temperature", None, "Divides the logits; 0 is greedy decoding.")
    define("integer", "top_k", None, "Keep the k most probable tokens.")
    define("float", "top_p", None, "Keep the most probable tokens up to this mass, in (0, 1].")
    define("float", "min_p", None, "Keep tokens at least this probable, relative to the best, in [0, 1).")
    define("integer", "num_samples", 1, "Texts per prompt, when sampling.")
    define("integer", "num_beams", None, "Beams (beam, diverse_beam).")
    define("integer", "num_groups", None, "Groups of beams (diverse_beam).")
    define("float", "diversity_strength", None, "Weight of the diversity term (diverse_beam).")
    define("string", "diversity", None, "Kind of diversity term (diverse_beam).")
    define("float", "length_penalty", None, "Exponent of the length in a beam's score (beam, diverse_beam).")
    size = (
        "Nodes of a draft tree, or auto: what pays on this machine, measured on first use; auto where a method has it."
    )
    if "tree_size" not in leave_out:
        flags.DEFINE(_TreeSize(), "tree_size", None, size, flag_values=values)
    define("string", "verification", None, "exact, or typical, which changes the text (speculative methods).")
    define("string", "draft_model", None, "Second model that guesses: what --model takes (draft_model).")
    define("list", "draft_layers", None, "Layers of the model that guess instead, such as 0,3,6 (draft_model).")
    define("string", "datastore", None, "File of python -m experiments.datastore --kind=suffix (suffix_retrieval).")
    define("string", "trigram_table", None, "File of python -m experiments.datastore --kind=trigram (aded).")
    define("string", "search", None, "best_first or puct (aded).")
    option = "NAME=VALUE of a further field of the method, such as max_ngram=4; may be given several times."
    define("multi_string", "option", [], option)
    define("multi_string", "stop", [], "Text that ends the answer; may be given several times.")
    define("integer", "seed", 0, "Seed of all draws, from 0 to 2^32 - 1.")
    define("string", "dtype", "float32", "float32, bfloat16 or int8.")
    define("integer", "row_tile", 1, "Pad the rows of matrix products, so that one row and several round alike.")
    share = "Whether what prompts of a batch begin with alike is fed and kept once: auto where that pays, true, false."
    flags.DEFINE(_WhetherToShare(), "share_prefixes", "auto", share, flag_values=values)
    layout = "contiguous, or paged: each row keeps as much as it needs itself, for prompts of very different lengths."
    define("string", "kv_layout", "contiguous", layout)
    rule = "What is read of the context: dense, or a rule and its options, such as vertical_slash:vertical=256,slash=256 or "
    rule += "quest:budget=1024; see docs/sparse_attention.md."
    define("string", "attention", "dense", rule)
    rule = (
        "What is kept of the prompt: full, or a rule and its options, such as snapkv:capacity=1024 or quantized:bits=4."
    )
    define("string", "kv_cache", "full", rule)
    define("bool", "raw", False, "Feed the prompt as it is, without the chat template.")
    define("bool", "json", False, "Print one JSON object instead of the text.")
    define("integer", "batch_size", 8, "Prompts of --prompt_file decoded together.")
    out = "With --prompt_file: append answers here; prompts answered there already are skipped."
    define("string", "out", None, out)
    define("string", "config", None, "Python file whose get_config() sets any of these flags; flags given here win.")
    define("bool", "help", False, "Show this.")
    return values


def parse(values: flags.FlagValues, arguments: Sequence[str]) -> bool:
    """Parse the command line and apply ``--config``. Returns False if only help is wanted.

    Raises:
      absl.flags.Error: an unknown flag, or a value of the wrong type.
      ValueError: something that is not a flag, or a config that is not one.
      FileNotFoundError: no such config.
    """
    rest = values(["--help" if argument == "-h" else argument for argument in arguments])
    if len(rest) > 1:
        raise ValueError(f"{rest[1]!r} is not a flag; flags are written --name=value")
    if values.help:
        return False
    if values.config is not None:
        names = sorted(set(values) - {"config", "help"})
        rivals = {name: rival for name, rival in RIVALS.items() if rival in values}
        apply_config(Path(values.config).expanduser(), values, names, rivals)
    return True


def run_options(values: flags.FlagValues) -> dict[str, Any]:
    """Arguments of :class:`jaxdec.Run` that the flags stand for, but the seed.

    Raises:
      ValueError: flags that make no sense, alone or together.
    """
    for name in ("batch_size", "max_new_tokens", "num_samples", "row_tile"):
        if name in values and getattr(values, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(values, name)}")
    if not 0 <= values.seed < 2**32:
        raise ValueError(f"--seed must be from 0 to 2^32 - 1, got {values.seed}")
    if "" in values.stop:
        raise ValueError("--stop is empty: every text contains that")
    from jaxdec.context_rules import attention_rule, kv_cache_rule
    from jaxdec.decoding.methods import METHODS
    from jaxdec.decoding.sampling import Sampling
    from jaxdec.kv_layout import KV_LAYOUTS

    if values.kv_layout not in KV_LAYOUTS:
        raise ValueError(f"--kv_layout must be one of {', '.join(KV_LAYOUTS)}, got {values.kv_layout!r}")
    attention_rule(values.attention)
    kv_cache_rule(values.kv_cache)
    limits = {name: values[name].value for name in ("top_k", "top_p", "min_p") if values[name].value is not None}
    temperature = values.temperature
    method = values.method or ("sample" if limits or temperature or values.num_samples > 1 else "greedy")
    if method not in METHODS:
        raise ValueError(f"--method must be one of {', '.join(METHODS)}, got {method!r}")
    sampling = None
    if limits or temperature:
        sampling = Sampling(temperature=1.0 if temperature is None else temperature, **limits)
        given = {**({"temperature": temperature} if temperature else {}), **limits}
        named = ", ".join(f"--{name}={value}" for name, value in given.items())
        if temperature == 0:
            raise ValueError(f"--temperature=0 is greedy decoding, and {named} was given: drop one")
        if method == "greedy" or not _takes(method, sampling=sampling):
            raise ValueError(
                f"--method={method} does not sample, and {named} was given: drop one, or use --method=sample"
            )
    elif method == "sample" and temperature == 0:
        raise ValueError("--method=sample needs a temperature above 0, and --temperature=0 was given")
    extra = {name: values[name].value for name in METHOD_OPTIONS if values[name].value is not None}
    extra |= speculative_options(values, method)
    extra |= dict(map(_option, values.option))
    options = {"method": method, "sampling": sampling, "num_samples": values.num_samples, **extra}
    method_of(options)  # refuses what is left
    of_the_run = {name: values[name].value for name in OF_THE_RUN if name != "seed"}
    return {**options, **of_the_run}


def speculative_options(values: flags.FlagValues, method: str) -> dict[str, Any]:
    """Options that the flags of speculative methods stand for; ``tree_size`` is ``"auto"`` where the method has one.

    Raises:
      ValueError: a value that is not what it should be, or a file that is missing.
    """
    from jaxdec.decoding.methods import DRAFTERS, options_of

    set_ = {name: values[flag].value for name, flag in SPECULATIVE_OPTIONS.items()}
    given: dict[str, Any] = {name: value for name, value in set_.items() if value is not None}
    if method in DRAFTERS and "tree_size" in options_of(method):
        given.setdefault("tree_size", "auto")
    if "draft_layers" in given:
        layers = [str(layer) for layer in given["draft_layers"]]
        if not layers or not all(layer.isdecimal() for layer in layers):
            raise ValueError(f"--draft_layers must be numbers like 0,3,6, got {','.join(layers)!r}")
        given["draft_layers"] = tuple(map(int, layers))
    for name in FILES:
        if name in given and not Path(given[name]).expanduser().is_file():
            raise ValueError(
                f"--{name}={given[name]}: there is no such file; python -m experiments.datastore makes them"
            )
    if method == "suffix_retrieval" and "datastore" not in given:
        raise ValueError("--method=suffix_retrieval needs --datastore: python -m experiments.datastore --kind=suffix")
    if {"draft", "draft_layers"} <= set(given):
        raise ValueError("give one of --draft_model and --draft_layers, not both")
    return given


def _takes(method: str, **option: Any) -> bool:
    """Whether a method knows an option; what is wrong with its value is told later."""
    from jaxdec.decoding.methods import build_method

    try:
        build_method(method, **option)
    except ValueError as error:
        return "has no option" not in str(error)
    return True


def method_of(options: dict[str, Any]) -> Any:
    """The method that the options stand for, without what accompanies the model (tables, a draft model).

    Raises:
      ValueError: an option that the method does not have, or a value that it does not take.
    """
    from jaxdec.decoding.methods import AUTO_NODES, DRAFTERS, build_method
    from jaxdec.speculation import COMPANIONS

    method = options["method"]
    other = {*OF_THE_RUN, *COMPANIONS.get(method, ())}
    own = {name: value for name, value in options.items() if name not in other}
    if own.get("tree_size") == "auto" and method in DRAFTERS:
        own["tree_size"] = AUTO_NODES[-1]
    try:
        return build_method(**own)
    except TypeError as error:
        raise ValueError(f"method {method!r} does not take these options: {str(error).splitlines()[0]}") from None


def _option(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``; the value is a Python literal where it is one, else a text."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise ValueError(f"--option={text}: write it as --option=NAME=VALUE")
    if name in (*OWN, *OF_THE_RUN, *METHOD_OPTIONS, *SPECULATIVE_OPTIONS):
        flag = "temperature" if name == "sampling" else SPECULATIVE_OPTIONS.get(name, name)
        raise ValueError(f"--option={text}: there is a flag for that, --{flag}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def requests(values: flags.FlagValues) -> tuple[list[dict[str, Any]], set[Any]]:
    """All prompts, ``{"id", "prompt"}`` each, and the ids that ``--out`` has answers to.

    Raises:
      ValueError: no prompt or two sorts of them, files that are not what they should be.
    """
    if (values.prompt is None) == (values.prompt_file is None):
        both = "both were given" if values.prompt is not None else "neither was given"
        raise ValueError(f"give one of --prompt and --prompt_file: {both}")
    if values.prompt is not None:
        if values.out:
            raise ValueError("--out goes with --prompt_file; redirect stdout to keep a single answer")
        if not values.prompt:
            raise ValueError("--prompt is empty: give at least one character")
        if not is_text(values.prompt):
            raise ValueError("--prompt is not UTF-8")
        return [{"id": 0, "prompt": values.prompt}], set()
    try:
        prompts = read_prompts(Path(values.prompt_file).expanduser())
    except (PromptFileError, OSError) as error:
        raise ValueError(f"--prompt_file={values.prompt_file}: {_reason(error)}") from None
    return prompts, set() if values.out is None else _answered(values.out)


def _answered(out: str) -> set[Any]:
    """Ids answered in ``--out``; that it cannot be written to is found out now."""
    path = Path(out).expanduser()
    if not path.parent.is_dir():
        raise ValueError(f"--out={out}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"--out={out}: it cannot be written to")
    try:
        return finished_ids(path)
    except (PromptFileError, OSError) as error:
        raise ValueError(f"--out={out}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """The message of an error, without the number and the path of one from the system."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
