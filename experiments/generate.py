"""Generate text from the command line.

    python -m experiments.generate --prompt="What is the capital of France?"
    python -m experiments.generate --prompt="Tell me a joke." --temperature=0.8 --top_p=0.95 --num_samples=3
    python -m experiments.generate --prompt_file=prompts.jsonl --out=answers.jsonl

The text goes to stdout as it appears, and nothing else does; with ``--json`` stdout holds one JSON object. Progress and the
closing line go to stderr. Exit status: 0, 2 for bad input, 130 after Ctrl-C (the text so far is kept).
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from experiments.prompts import PromptFileError, append_line, finished_ids, read_prompts

FLAGS = flags.FLAGS
flags.DEFINE_string("prompt", None, "Text to answer.")
flags.DEFINE_string("prompt_file", None, 'JSONL file, a line each: {"prompt": ...} or {"messages": [...]}, and "id".')
flags.DEFINE_string(
    "model", "smollm2-135m-instruct", "Name, GGUF file, Hugging Face or Orbax folder, or hf:owner/name."
)
flags.DEFINE_string("method", None, "Decoding method; greedy, or sample where a sampling flag is given.")
flags.DEFINE_integer("max_new_tokens", 128, "Tokens to generate at most.")
flags.DEFINE_float("temperature", None, "Divides the logits; 0 is greedy decoding.")
flags.DEFINE_integer("top_k", None, "Keep the k most probable tokens.")
flags.DEFINE_float("top_p", None, "Keep the most probable tokens up to this mass, in (0, 1].")
flags.DEFINE_float("min_p", None, "Keep tokens at least this probable, relative to the best, in [0, 1).")
flags.DEFINE_integer("num_samples", 1, "Texts per prompt, when sampling.")
flags.DEFINE_integer("num_beams", None, "Beams (beam, diverse_beam).")
flags.DEFINE_integer("num_groups", None, "Groups of beams (diverse_beam).")
flags.DEFINE_float("diversity_strength", None, "Weight of the diversity term (diverse_beam).")
flags.DEFINE_string("diversity", None, "Kind of diversity term (diverse_beam).")
flags.DEFINE_float("length_penalty", None, "Exponent of the length in a beam's score (beam, diverse_beam).")
flags.DEFINE_multi_string("stop", [], "Text that ends the answer; may be given several times.")
flags.DEFINE_integer("seed", 0, "Seed of all draws.")
flags.DEFINE_string("dtype", "float32", "float32 or bfloat16.")
flags.DEFINE_integer("row_tile", 1, "Pad the rows of matrix products, so that one row and several round alike.")
flags.DEFINE_bool("raw", False, "Feed the prompt as it is, without the chat template.")
flags.DEFINE_bool("json", False, "Print one JSON object instead of the text.")
flags.DEFINE_integer("batch_size", 8, "Prompts of --prompt_file decoded together.")
flags.DEFINE_string("out", None, "With --prompt_file: append answers here; prompts answered there already are skipped.")
flags.DEFINE_string("config", None, "Python file whose get_config() sets any of these flags; flags given here win.")

METHOD_OPTIONS = ("num_beams", "num_groups", "diversity_strength", "diversity", "length_penalty")


def main(_: list[str]) -> None:
    """Run, and turn what can go wrong into one line and an exit status."""
    logging.set_verbosity(logging.WARNING)  # jax reports every accelerator it does not find
    try:
        generate()
    except KeyboardInterrupt:
        say("Interrupted.")
        sys.exit(130)
    except (ValueError, OSError) as error:
        say(f"error: {error}")
        sys.exit(2)


def generate() -> None:
    """Check the flags, load the model, decode, print."""
    apply_config()
    options = run_options()
    prompts = requests()
    if not prompts:
        say(f"All prompts of {FLAGS.prompt_file} are answered in {FLAGS.out}.")
        return
    import jaxdec

    jaxdec.enable_compilation_cache()
    say(f"Loading {FLAGS.model} ...")
    lm = jaxdec.load(FLAGS.model, dtype=FLAGS.dtype, row_tile=FLAGS.row_tile)
    batches = [prompts[i : i + FLAGS.batch_size] for i in range(0, len(prompts), FLAGS.batch_size)]
    # All batches are checked (lengths, templates) before the first one is compiled.
    runs = [jaxdec.Run(lm, [entry["prompt"] for entry in batch], **options) for batch in batches]
    if FLAGS.prompt_file:
        answer_file(batches, runs)
    else:
        answer_one(runs[0])


def apply_config() -> None:
    """Take flags that were not given from ``--config``."""
    if FLAGS.config is None:
        return
    path = Path(FLAGS.config)
    if not path.exists():
        raise FileNotFoundError(f"--config={path}: no such file")
    spec = importlib.util.spec_from_file_location("generate_config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config={path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ours = sorted(flag.name for flag in FLAGS.get_key_flags_for_module(sys.modules[__name__]))
    for name, value in module.get_config().items():
        if name not in ours:
            raise ValueError(f"--config={path}: unknown field {name!r}; known: {', '.join(ours)}")
        if not FLAGS[name].present:
            FLAGS[name].value = list(value) if name == "stop" else value


def run_options() -> dict[str, Any]:
    """Arguments of :class:`jaxdec.Run` that the flags stand for."""
    if FLAGS.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {FLAGS.batch_size}")
    if FLAGS.max_new_tokens < 1:
        raise ValueError(f"--max_new_tokens must be at least 1, got {FLAGS.max_new_tokens}")
    from jaxdec.decoding.methods import build_method
    from jaxdec.decoding.sampling import Sampling

    limits = {name: FLAGS[name].value for name in ("top_k", "top_p", "min_p") if FLAGS[name].value is not None}
    temperature = FLAGS.temperature
    method = FLAGS.method or ("sample" if limits or temperature or FLAGS.num_samples > 1 else "greedy")
    sampling = None
    if limits or temperature:
        sampling = Sampling(temperature=1.0 if temperature is None else temperature, **limits)
        if method == "greedy":
            given = ", ".join(f"--{name}={FLAGS[name].value}" for name in ("temperature", *limits) if FLAGS[name].value)
            raise ValueError(
                f"--method=greedy does not sample, and {given} was given: drop one, or use --method=sample"
            )
    if method == "sample" and temperature == 0:
        raise ValueError("--method=sample needs a temperature above 0, and --temperature=0 was given")
    extra = {name: FLAGS[name].value for name in METHOD_OPTIONS if FLAGS[name].value is not None}
    build_method(method, sampling=sampling, num_samples=FLAGS.num_samples, **extra)  # refuse before anything is loaded
    return {
        "method": method,
        "sampling": sampling,
        "num_samples": FLAGS.num_samples,
        "max_new_tokens": FLAGS.max_new_tokens,
        "seed": FLAGS.seed,
        "raw": FLAGS.raw,
        "stop": FLAGS.stop,
        **extra,
    }


def requests() -> list[dict[str, Any]]:
    """Prompts to answer: ``{"id", "prompt"}`` each."""
    if (FLAGS.prompt is None) == (FLAGS.prompt_file is None):
        both = "both were given" if FLAGS.prompt is not None else "neither was given"
        raise ValueError(f"give one of --prompt and --prompt_file: {both}")
    if FLAGS.prompt is not None:
        if FLAGS.out:
            raise ValueError("--out goes with --prompt_file; redirect stdout to keep a single answer")
        if not FLAGS.prompt:
            raise ValueError("--prompt is empty: give at least one character")
        return [{"id": 0, "prompt": FLAGS.prompt}]
    try:
        prompts = read_prompts(Path(FLAGS.prompt_file))
    except PromptFileError as error:
        raise ValueError(f"--prompt_file={FLAGS.prompt_file}: {error}") from None
    done = finished_ids(Path(FLAGS.out)) if FLAGS.out else set()
    return [entry for entry in prompts if entry["id"] not in done]


def answer_one(run: Any) -> None:
    """Answer ``--prompt``, streaming the text where there is one text and it only grows."""
    single = run.method.incremental and FLAGS.num_samples == 1
    try:
        if FLAGS.json or not single:
            decode_with_progress(run)
        else:
            for piece in run:
                print(piece.text, end="", flush=True)
    except KeyboardInterrupt:
        print_results(run, streamed=single)
        say("Interrupted: the text so far was kept.")
        sys.exit(130)
    print_results(run, streamed=single)


def print_results(run: Any, *, streamed: bool) -> None:
    """Print what has been decoded so far: JSON, several texts, or the end of a streamed one."""
    results = run.results()
    if not results:
        return
    result = results[0]
    if FLAGS.json:
        print(json.dumps(result.as_dict(), ensure_ascii=False), flush=True)
    elif streamed:
        print(flush=True)
    else:
        for index, text in enumerate([result, *result.alternatives], start=1):
            print(f"[{index}] {text.text}", flush=True)
    say(
        f"{result.new_tokens} tokens, {result.tokens_per_second:.1f} tokens/s, {result.tokens_per_call:.2f} tokens per call, "
        f"prefill {result.prefill_seconds:.2f} s, compile {result.compile_seconds:.2f} s, {result.method} "
        f"({result.guarantee}), ended by {result.finish_reason}"
    )


def answer_file(batches: list[list[dict[str, Any]]], runs: list[Any]) -> None:
    """Answer ``--prompt_file`` batch by batch; what has been written stays written."""
    answers = []
    for batch, run in zip(batches, runs):
        decode_with_progress(run)
        for entry, result in zip(batch, run.results()):
            line = {"id": entry["id"], **result.as_dict()}
            answers.append(line)
            if FLAGS.out:
                append_line(Path(FLAGS.out), line)
            elif not FLAGS.json:
                print(json.dumps(line, ensure_ascii=False), flush=True)
    new_tokens = sum(line["new_tokens"] for line in answers)
    firsts = [run.results()[0] for run in runs]
    seconds = {
        name: sum(getattr(first, name) for first in firsts)
        for name in ("prefill_seconds", "decode_seconds", "compile_seconds")
    }
    if FLAGS.json:
        totals = {"model": firsts[0].model, "method": firsts[0].method, "guarantee": firsts[0].guarantee}
        totals |= {"new_tokens": new_tokens, **seconds, "generations": answers}
        print(json.dumps(totals, ensure_ascii=False), flush=True)
    say(f"{len(answers)} answers, {new_tokens} tokens, " + ", ".join(f"{k} {v:.2f}" for k, v in seconds.items()))


def decode_with_progress(run: Any) -> None:
    """Decode to the end, with a bar on stderr that counts tokens."""
    from rich.console import Console
    from rich.progress import Progress

    total = int(run.prompt.max_new_tokens.sum()) * FLAGS.num_samples
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Decoding", total=total)
        for _ in run.states(steps=8):
            progress.update(task, completed=run.tokens_so_far())


def say(message: str) -> None:
    """Print to stderr."""
    print(message, file=sys.stderr, flush=True)


def parse_flags(arguments: list[str]) -> list[str]:
    """Parse the command line; a wrong flag is one line and status 2."""
    try:
        rest = FLAGS(arguments)
    except flags.Error as error:
        say(f"error: {error}")
        sys.exit(2)
    if len(rest) > 1:
        say(f"error: {rest[1]!r} is not a flag; flags are written --name=value")
        sys.exit(2)
    return rest


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
