"""Suite ``specbench``: speculative methods on six families of prompts, in the manner of Spec-Bench (Xia et al. 2024).

Greedy, batch 1. The prompts are ours (``experiments/specbench``). Arms take turns prompt by prompt, in this one process; a peer
has a process of its own. Finished parts are kept in a folder beside the result until that is written.
"""

import contextlib
import functools
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.benchmarks.harness import loudest, summary
from experiments.benchmarks.machine import host_tag, wait_quiet
from experiments.datastore import Collected
from experiments.datastore import collect as collect_texts
from experiments.evaluation.adaptation import ADAPTATION_ARMS, over_domain, summarise_adaptation
from experiments.evaluation.arms import Arm, auto_rows, method_of
from experiments.evaluation.collection import TOKENS, Collection, greedy_outputs
from experiments.evaluation.decoding import ArmWorker
from experiments.evaluation.drafting import drafting_cost
from experiments.evaluation.equality import TIE, difference
from experiments.evaluation.peer import PEER, open_peer
from experiments.evaluation.prompts import FAMILY_PROMPTS, choose, groups_of, read_questions
from experiments.evaluation.rounds import compact, samples_of, take_rounds
from experiments.evaluation.setting import Options, Setting, model_path, prepare, stem
from experiments.evaluation.summary import ALL, over_peer, peer_row, row
from experiments.evaluation.verdicts import judge
from experiments.papers.progress import Progress
from experiments.record import environment, write_json
from experiments.text_sources import text_files
from jaxdec.decoding.speculative import Speculative
from jaxdec.decoding.speculative.step_cost import relative_step_cost
from jaxdec.speculation import draft_model

SCHEMA = 2
CURVES = 3
ALL_TOKENS = 1 << 31
STEP_COST_ROWS = (1, 2, 4, 8, 16, 32, 64)


def run(options: Options, console: Console, show: Progress) -> Path:
    """Run the suite; returns the path of the result.

    Raises:
      ValueError: prompts, families or arms that make no sense.
      OSError: files that cannot be read or written.
    """
    questions = choose(read_questions(FAMILY_PROMPTS, "family"), options.families, options.limit)
    with model_path(options) as path, contextlib.ExitStack() as stack:
        setting = prepare(options, questions, path, show)
        workers, absent = {}, []
        peer = open_peer(options, path, absent)
        if peer is not None:
            workers[PEER] = peer
            stack.callback(peer.close)
        document = measure(setting, workers, absent, console)
    target = options.out / f"{stem(options)}_{document['date']}.json"
    write_json(target, document)
    shutil.rmtree(setting.parts.folder, ignore_errors=True)
    return target


def measure(
    setting: Setting, workers: dict[str, Any], absent: list[dict[str, str]], console: Console
) -> dict[str, Any]:
    """All parts of the suite; returns the result."""
    options = setting.options
    texts = read_texts(setting)
    setting.collection = collect(setting, texts)
    setting.costs = {dtype: step_cost_of(setting, dtype) for dtype in setting.models}
    arms = {arm.name: arm_worker(setting, arm) for arm in options.arms}
    workers |= arms
    record = take_rounds(setting, workers, console)
    samples = samples_of(record, [question.id for question in setting.questions])
    drafting = [cost for arm in options.arms for cost in drafting_of(setting, arm, arms[arm.name])]
    surroundings = environment()
    timed = [attempt for question in setting.questions for attempt in record.chosen(question.id)]
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "suite": "specbench",
        "smoke": options.smoke,
        "host": host_tag(),
        "date": surroundings["date"][:10],
        "environment": surroundings,
        "model": {"name": options.model, "dtype": options.dtype, "num_params": setting.lm("").model.num_params()},
        "max_new_tokens": options.max_new_tokens,
        "collection": {
            "texts": len(setting.collection.outputs),
            "tokens": sum(map(len, setting.collection.outputs.values())),
            "files": [{"name": Path(source.name).name, "tokens": source.tokens} for source in texts],
        },
        "rounds": options.rounds,
        "seed": options.seed,
        "loud_rounds": sum(attempt["loud"] for attempt in timed),
        "rounds_in_all": len(timed),
        "foreign_load": summary(map(loudest, timed)) | {"samples": None} if timed else None,
        "absent": absent,
        "step_cost": setting.costs,
        "tie": {dtype: TIE[dtype] for dtype in setting.models},
        "arms": {arm.name: about(arm, arms[arm.name]) for arm in options.arms},
        "peer": {PEER: workers[PEER].description} if PEER in workers else {},
        **rows_of(setting, samples),
        "differences": differences(setting, samples),
        "drafting": drafting,
        "adaptation": adapt(setting),
        "samples": {side: {name: compact(rounds) for name, rounds in by.items()} for side, by in samples.items()},
    }
    document["targets"] = judge(document)
    return document


def read_texts(setting: Setting) -> list[Collected]:
    """The files that the memory of drafters is made of, beside the model's outputs."""
    lm, options = setting.lm(""), setting.options
    wanted = options.text if any(arm.memory for arm in options.arms) else ()
    with setting.show.task(f"reading {len(wanted)} files of text", 1):
        return collect_texts(text_files(wanted), lm.tokenizer, lm.model.vocab_size, ALL_TOKENS, lambda *_: None)


def collect(setting: Setting, texts: Sequence[Collected]) -> Collection:
    """The model's greedy outputs to all prompts, and texts beside them."""
    lm, smoke = setting.lm(""), setting.options.smoke
    tokens = 16 if smoke else TOKENS
    with setting.show.task(f"outputs of the model to {len(setting.token_ids)} prompts", 1):
        eos = lm.tokenizer.eos_token_ids
        outputs = setting.parts.get("collection", lambda: greedy_outputs(lm.model, setting.token_ids, eos, tokens))
    return Collection(outputs, lm.model.vocab_size, [text for source in texts for text in source.texts])


def step_cost_of(setting: Setting, dtype: str) -> dict[int, float]:
    """``T(n) / T(1)``, measured anew: the curve in the user's cache may have been taken on a busy machine.

    The median of several curves: a disturbed step over one token spoils a whole curve, and the arms of auto size with it.
    """
    rows, model = sorted({*STEP_COST_ROWS, *auto_rows()}), setting.models[dtype].model

    def measured() -> dict[int, float]:
        wait_quiet(setting.options.wait_quiet)
        with tempfile.TemporaryDirectory() as folder:
            curves = [relative_step_cost(model, rows, folder=Path(folder) / str(n)) for n in range(CURVES)]
        return {n: statistics.median(curve[n] for curve in curves) for n in rows}

    with setting.show.task(f"cost of a step, {dtype}", 1):
        stored = setting.parts.get(f"step_cost_{dtype}", measured)
    return {int(n): cost for n, cost in stored.items()}


def arm_worker(setting: Setting, arm: Arm) -> ArmWorker:
    """An arm ready to be measured."""
    lm = setting.lm(arm.dtype)
    model = lm.model
    if arm.method == "draft_model":
        model = model.accompanied(draft=draft_model(lm, None, None))
    method = method_of(arm, setting.costs[arm.dtype or setting.options.dtype])
    prompts = {question.id: setting.prompt(question.id) for question in setting.questions}
    return ArmWorker(method, model, prompts, lambda name: setting.collection.companions(arm.memory, name))


def rows_of(setting: Setting, samples: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """One row per family and arm, and over all families; ratios to the peer apart."""
    families = {name: [q.id for q in setting.questions if q.group == name] for name in groups_of(setting.questions)}
    families[ALL] = [question.id for question in setting.questions]
    rows, peers, over = [], [], []
    for family, names in families.items():
        for arm in setting.options.arms:
            dtype = arm.dtype or setting.options.dtype
            settings = {"timed": arm.timed, "seed": setting.options.seed}
            made = row(family, arm.name, arm.baseline, names, samples, **settings)
            rows.append({**made, "dtype": dtype, "batch": 1})
            if PEER in samples and arm.timed:
                ratio = over_peer(names, samples, arm.name, PEER, setting.options.seed)
                over += [{"family": family, "arm": arm.name, "ratio": ratio}] if ratio else []
        if PEER in samples:
            peers.append(peer_row(family, names, samples, PEER))
    return {"rows": rows, "peer_rows": peers, "over_peer": over}


def differences(setting: Setting, samples: Mapping[str, Any]) -> dict[str, Any]:
    """Texts that are not those of the baseline, by arm: how many are ``compared`` and ``equal``, and the others one by one.

    All rounds are compared, so that a method whose text changes from round to round is found out too.
    """
    result = {}
    for arm in setting.options.arms:
        if arm.name == arm.baseline:
            continue
        dtype = arm.dtype or setting.options.dtype
        unequal = []
        for name in (question.id for question in setting.questions):
            plain = [int(token) for token in samples[arm.baseline][name][0]["tokens"].split()]
            for text in dict.fromkeys(entry["tokens"] for entry in samples[arm.name][name]):
                tokens = [int(token) for token in text.split()]
                parted = difference(setting.lm(arm.dtype).model, setting.token_ids[name], plain, tokens, TIE[dtype])
                unequal += [{"prompt": name, **parted}] if parted else []
        compared = len(setting.questions)
        equal = compared - len({entry["prompt"] for entry in unequal})
        result[arm.name] = {"compared": compared, "equal": equal, "unequal": unequal}
    return result


def drafting_of(setting: Setting, arm: Arm, worker: ArmWorker) -> list[dict[str, Any]]:
    """The cost of drafting behind the longest prompt, where looking for a match takes longest."""
    if not isinstance(worker.method, Speculative) or not (arm.timed or arm.method == "draft_model"):
        return []
    name = max((question.id for question in setting.questions), key=lambda name: len(setting.token_ids[name]))
    compute = functools.partial(
        drafting_cost, worker.method, *worker.inputs(name), seconds=0.01 if setting.options.smoke else 0.2
    )
    with setting.show.task(f"cost of drafting, {arm.name}", 1):
        cost = setting.parts.get(f"drafting_{arm.name}", compute)
    return [{"arm": arm.name, "prompt": name, "prompt_tokens": len(setting.token_ids[name]), **cost}]


def adapt(setting: Setting) -> list[dict[str, Any]]:
    """ADED over the domains; nothing if no arm of ADED takes part."""
    if not any(arm.method == "aded" for arm in setting.options.arms):
        return []
    inside = {question.id for questions in setting.domains.values() for question in questions}
    outputs = {name: tokens for name, tokens in setting.collection.outputs.items() if name not in inside}
    model = setting.lm("").model
    lines: dict[str, dict[str, Any]] = {}
    with setting.show.task("adaptation", len(setting.domains) * len(ADAPTATION_ARMS)) as advance:
        for domain, questions in setting.domains.items():
            prompts = {question.id: setting.prompt(question.id) for question in questions}
            for arm in ADAPTATION_ARMS:
                table = Collection(outputs, model.vocab_size).trigram_table(None)
                compute = functools.partial(over_domain, arm, model, table, prompts)
                lines.setdefault(domain, {})[arm] = setting.parts.get(f"adaptation_{domain}_{arm}", compute)
                advance(f"{domain}, {arm}")
    return summarise_adaptation(lines, setting.options.seed)


def about(arm: Arm, worker: ArmWorker) -> dict[str, Any]:
    """What the result says of an arm."""
    return {
        "about": arm.about,
        "method": arm.method,
        "options": dict(arm.options),
        "memory": arm.memory,
        "dtype": arm.dtype,
        "baseline": arm.baseline,
        "auto": arm.auto,
        "timed": arm.timed,
        "guarantee": str(worker.method.guarantee),
        "compile_seconds": worker.compile_seconds,
    }
