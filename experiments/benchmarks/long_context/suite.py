"""Suite ``long_context``: steps, prefills and attention at 16k tokens, by rules, in turns with dense ones.

Targets: with one page of sixteen read, a step at least three times faster than a dense one; with an eighth of the cells
computed, a prefill at least three times faster. A step of one row also reads all weights, which no rule changes, so that the
first is told for four rows as well; and attention is told by itself beside the prefill.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.benchmarks import targets
from experiments.benchmarks.harness import Case
from experiments.benchmarks.kernels.suite import separate_sides
from experiments.benchmarks.long_context.engine import DENSE, checked
from experiments.benchmarks.machine import host_tag
from experiments.benchmarks.suite import Options, Session, Side, open_session, run_suite
from jaxdec.attention.sparse.block_sparse import BlockSparse

ENGINE = "experiments.benchmarks.long_context.engine:RuleEngine"
CONTEXT, LAYERS, BATCHES = 16384, 2, (1, 4)
SMOKE_CONTEXT = 256
BLOCK = 64  # as in MInference; products with blocks of 16 rows take a processor twice as long
QUEST, BLOCKS = "quest, 1/16", "block-sparse, 1/8"


def sides(context: int, window: int) -> dict[str, dict[str, str]]:
    """Rules by name."""
    part = context // 16
    blocks = BlockSparse.at_compression(8, context, BLOCK).top_blocks
    kept = f"capacity={part},window={window},sinks=4,local={min(128, part // 4)}"
    rules = {
        DENSE: {},
        QUEST: {"attention": f"quest:budget={part}"},
        "snapkv, 1/16": {"kv_cache": f"snapkv:{kept}"},
        "ada-snapkv, 1/16": {"kv_cache": f"ada_snapkv:{kept}"},
        "int8": {"kv_cache": "quantized:bits=8"},
        "int4": {"kv_cache": "quantized:bits=4"},
        BLOCKS: {"attention": f"block_sparse:top_blocks={blocks},block={BLOCK}"},
        "vertical-slash, 1/16 each": {
            "attention": f"vertical_slash:vertical={part},slash={part},window={window},local={part // 4}"
        },
        "zipvl, half important": {"attention": f"zipvl:ratio=0.5,last_probes={window},random_probes={window}"},
    }
    return {name: checked(rule) for name, rule in rules.items()}


STEPS = (DENSE, QUEST, "snapkv, 1/16", "ada-snapkv, 1/16", "int8", "int4")
PREFILLS = (DENSE, BLOCKS, "vertical-slash, 1/16 each", "zipvl, half important")
ATTENTION = PREFILLS[:3]


def cases(*, smoke: bool) -> list[Case]:
    """Everything that is timed."""
    context, window, seconds = (SMOKE_CONTEXT, 32, 0.001) if smoke else (CONTEXT, 64, 1.0)
    rules = sides(context, window)

    def case(name: str, kind: str, of: tuple[str, ...], **sizes: Any) -> Case:
        arguments = {"case": name, "kind": kind, "context": context, "seconds": seconds, **sizes}
        return Case(name, of, "milliseconds", {**arguments, "rules": {side: rules[side] for side in of}})

    return [
        *(case(f"step, {batch} rows", "step", STEPS, batch=batch) for batch in BATCHES),
        case(f"prefill, {LAYERS} layers", "prefill", PREFILLS, layers=LAYERS),
        case("attention of a prompt, 1 layer", "attention", ATTENTION),
    ]


def faster(name: str, case: str, side: str) -> targets.Target:
    """Three times as fast as dense."""
    return targets.Target(f"{name}: dense / {side}", 3.0, True, ((case, DENSE), (case, side)), quotient)


def quotient(rows: Any, document: Any) -> float:
    """How many times faster, median over rounds."""
    first, second = (row["metrics"]["milliseconds"]["samples"] for row in rows)
    ratios = sorted(one / two for one, two in zip(first, second, strict=True))
    return ratios[len(ratios) // 2]


TARGETS = (
    *(faster(f"step, 16k tokens, {batch} rows", f"step, {batch} rows", QUEST) for batch in BATCHES),
    faster("attention of a prompt, 16k tokens", "attention of a prompt, 1 layer", BLOCKS),
    faster("prefill, 16k tokens", f"prefill, {LAYERS} layers", BLOCKS),
)


def run(options: Options, console: Console) -> Path:
    """Run the suite; returns the path of the result.

    Raises:
      WorkerError: a rule fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = {"model": options.model, "smoke": options.smoke, "folder": folder}
        with open_session([Side("rules", ENGINE, settings)], console) as session:
            names = list(sides(CONTEXT, 64))
            session.description("rules").update(sides=dict.fromkeys(names, ""), engines={})
            separate_sides(session)
            return run_suite(
                "long_context",
                host=host_tag(),
                main_side=DENSE,
                session=session,
                cases=cases(smoke=options.smoke),
                options=options,
                finish=complete,
            )


def complete(document: dict[str, Any], session: Session):
    """Add the verdicts, and how many times faster than dense each row is."""
    found: Mapping[Any, Any] = {(row["case"], row["side"]): row for row in document["rows"]}
    for row in document["rows"]:
        row["faster"] = quotient([found[row["case"], DENSE], row], document)
    document["context"] = SMOKE_CONTEXT if document["smoke"] else CONTEXT
    document["targets"] = targets.judge(document, TARGETS)
