"""Suite ``cpu_decode``: one model file on the processor, jaxdec beside transformers (PyTorch) and llama.cpp.

Cases: greedy decoding at batch 1, prefill, the cost of a step against its number of new tokens with the floor that memory
sets, and the cold start of the command. Weights come from one GGUF file for all engines.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.benchmarks.cold_start import ColdStart
from experiments.benchmarks.harness import Case
from experiments.benchmarks.machine import host_tag
from experiments.benchmarks.peers import missing_packages
from experiments.benchmarks.smoke_model import write_smoke_model
from experiments.benchmarks.suite import Options, Session, Side, open_session, run_suite
from experiments.benchmarks.targets import judge

OURS = ("jaxdec-float32", "jaxdec-bfloat16")
PEERS = ("transformers-float32", "transformers-bfloat16", "llama.cpp")
QUESTION = "Write a short story about a lighthouse keeper."
PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
)
NEW_TOKENS = 64
PREFILL_TOKENS = 512
CONTEXT = 256
ROWS = (1, 2, 4, 8, 16, 32, 64)


def run(options: Options, console: Console) -> Path:
    """Run the suite; returns the path of the result.

    Raises:
      WorkerError: jaxdec itself fails.
    """
    with model_file(options) as model, open_session(sides(str(model)), console) as session:
        prompt = session.workers[OURS[0]].call("encode", text=PROMPT)
        layout = smoke_cases(prompt) if options.smoke else real_cases(prompt)
        # By name where there is one: looking it up in the cache is a part of the start.
        add_cold_start(session, str(model) if options.smoke else options.model)
        settings = {"host": host_tag(), "main_side": OURS[0], "cases": layout, "options": options, "finish": complete}
        return run_suite("cpu_decode", session=session, **settings)


@contextlib.contextmanager
def model_file(options: Options) -> Iterator[Path]:
    """Yield the model, which all engines must be able to read; that of a smoke run vanishes afterwards.

    Raises:
      ValueError: it is not a GGUF file.
    """
    from jaxdec.checkpoints.registry import resolve

    if options.smoke:
        with tempfile.TemporaryDirectory() as folder:
            yield write_smoke_model(Path(folder) / "smoke.F32.gguf")
        return
    path = Path(resolve(options.model))
    if path.suffix != ".gguf":
        raise ValueError(f"--model must be a GGUF file, which all engines read, got {path}")
    yield path


def sides(model: str) -> list[Side]:
    """All engines; those that cannot run here carry the reason."""
    ours = [Side(name, "experiments.benchmarks.engine:JaxdecEngine", _options(name, model)) for name in OURS]
    theirs = []
    for name in PEERS:
        engine = name.partition("-")[0]
        missing = missing_packages(engine)
        reason = f"not installed: {', '.join(missing)} (pip install -e '.[peers]')" if missing else ""
        target = "TransformersEngine" if engine == "transformers" else "LlamaCppEngine"
        side = Side(name, f"experiments.benchmarks.peers:{target}", _options(name, model), peer=True, missing=reason)
        theirs.append(side)
    return ours + theirs


def _options(name: str, model: str) -> dict[str, str]:
    _, _, dtype = name.partition("-")
    return {"model": model, "dtype": dtype or _quantisation(model)}


def _quantisation(model: str) -> str:
    """``Q4_1`` of ``NAME.Q4_1.gguf``: llama.cpp computes on the weights as stored."""
    return Path(model).suffixes[-2].lstrip(".") if len(Path(model).suffixes) > 1 else "as stored"


def real_cases(prompt: Sequence[int]) -> list[Case]:
    """The cases on the real model, for a prompt in token ids."""
    longer = (list(prompt) * (PREFILL_TOKENS // len(prompt) + 1))[:PREFILL_TOKENS]
    return cases(list(prompt), NEW_TOKENS, longer, CONTEXT, ROWS, seconds=0.3)


def smoke_cases(prompt: Sequence[int]) -> list[Case]:
    """The same with small numbers."""
    return cases(list(prompt[:12]), 6, list(prompt[:32]), 16, (1, 2), seconds=0.02)


def cases(
    prompt: list[int], new_tokens: int, longer: list[int], context: int, rows: Sequence[int], seconds: float
) -> list[Case]:
    """Lay the cases out."""
    steps = {"kind": "step_cost", "context": context, "rows": list(rows), "seconds": seconds}
    decode = {"kind": "decode", "prompt": prompt, "new_tokens": new_tokens, "batch": 1}
    return [
        Case("decode", OURS + PEERS, "tokens_per_second", decode),
        Case("prefill", OURS + PEERS, "tokens_per_second", {"kind": "prefill", "prompt": longer}),
        Case("step_cost", OURS, "ms_1", steps),
        Case("cold_start", ("command",), "first_text_seconds"),
    ]


def add_cold_start(session: Session, model: str):
    """Add the command as a side."""
    command = [sys.executable, "-m", "experiments.generate", f"--model={model}", f"--prompt={QUESTION}"]
    said = session.description(OURS[0])
    session.workers["command"] = ColdStart([*command, "--max_new_tokens=8"], said, report=["--json"])


def complete(document: dict[str, Any], session: Session):
    """Add the sizes, the agreement of texts and the verdict on the targets."""
    said = session.description(OURS[0])
    document["model"] = {name: said[name] for name in ("num_params", "weights_bytes")}
    if "transformers-float32" in session.workers:
        document["agreement"] = agreement(session, OURS[0], "transformers-float32")
    document["targets"] = judge(document)


def agreement(session: Session, ours: str, theirs: str) -> dict[str, Any]:
    """Compare two greedy texts of the same prompt.

    At the first difference, ``gap_*`` is how much higher each engine scores its own token than the other's: a gap within
    the rounding of the two engines is a tie.
    """
    assert session.record is not None
    mine, other = (session.warm["decode", side]["tokens"] for side in (ours, theirs))
    index = next((i for i, (a, b) in enumerate(zip(mine, other)) if a != b), None)
    result: dict[str, Any] = {"sides": [ours, theirs], "tokens": len(mine), "equal": index is None}
    if index is None:
        return result
    prompt = next(case for case in session.record.key["cases"] if case["name"] == "decode")["arguments"]["prompt"]
    context, pair = [*prompt, *mine[:index]], [mine[index], other[index]]
    here = session.workers[ours].call("token_logits", context=context, tokens=pair)
    there = session.workers[theirs].call("token_logits", context=context, tokens=pair)
    return {**result, "first_difference": index, "gap_ours": here[0] - here[1], "gap_theirs": there[1] - there[0]}
