"""Suite ``training``: updates of the trainer in turns with those of a loop written by hand.

Target: an update of the trainer takes at most 1.1 times as long. The loop does the least that trains; the trainer also takes
the norm of the gradient, looks at every loss whether it is finite, and hands metrics on.
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.benchmarks import targets
from experiments.benchmarks.harness import Case
from experiments.benchmarks.kernels.suite import separate_sides
from experiments.benchmarks.machine import host_tag
from experiments.benchmarks.suite import Options, Session, Side, open_session, run_suite
from experiments.benchmarks.training.engine import BY_HAND, TRAINER

ENGINE = "experiments.benchmarks.training.engine:TrainingEngine"
SIDES = (BY_HAND, TRAINER)
SLOWER = 1.1
"""Times that an update of the trainer may take."""
CLASSIFIER, LANGUAGE = "CRATE classifier, 8 x 8 digits", "Transformer, bytes"


def cases(*, smoke: bool) -> list[Case]:
    """What is trained."""
    crate = {"name": "crate", "hidden_size": 16 if smoke else 64, "num_layers": 1 if smoke else 4, "patch_size": 2}
    classifier = {"name": "classifier", "num_classes": 10, "model": crate}
    length, limit = (32, 4000) if smoke else (128, 1_000_000)
    text = {"name": "text", "tokenizer": "bytes", "length": length, "limit": limit, "test_fraction": 0.02}
    language = {"name": "language_model", "model": {"name": "transformer", "num_layers": 1 if smoke else 4}}

    def case(name: str, recipe: Any, data: Any, batch: int, updates: int) -> Case:
        arguments = {"case": name, "recipe": recipe, "data": data, "batch": batch, "updates": updates}
        return Case(name, SIDES, "milliseconds", arguments)

    return [
        case(CLASSIFIER, classifier, {"name": "digits", "test_fraction": 0.2}, *((8, 2) if smoke else (128, 60))),
        case(LANGUAGE, language, text, *((2, 2) if smoke else (16, 20))),
    ]


TARGETS = tuple(
    targets.Target(f"{case}: an update of the trainer / by hand", SLOWER, False, ((case, TRAINER), (case, BY_HAND)),
                   targets.ratio)
    for case in (CLASSIFIER, LANGUAGE)
)  # fmt: skip


def run(options: Options, console: Console) -> Path:
    """Run the suite; returns the path of the result.

    Raises:
      WorkerError: a loop fails.
    """

    def complete(document: dict[str, Any], session: Session) -> None:
        document["targets"] = targets.judge(document, TARGETS)

    with open_session([Side("loops", ENGINE, {})], console) as session:
        session.description("loops").update(sides=dict.fromkeys(SIDES, ""), engines={})
        separate_sides(session)
        return run_suite(
            "training",
            host=host_tag(),
            main_side=TRAINER,
            session=session,
            cases=cases(smoke=options.smoke),
            options=options,
            finish=complete,
        )
