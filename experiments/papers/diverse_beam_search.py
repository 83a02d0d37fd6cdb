"""Replica of diverse beam search (Vijayakumar et al. 2016, arXiv 1610.02424): varied lists, no worse, at the same cost.

*Paraphrases*: a small transformer is trained here to put a meaning into words, where all right sentences for each held-out
meaning are known (:mod:`experiments.papers.paraphrases`): oracle BLEU, validity, coverage. In the short task a meaning has 12
to 24 right sentences, hardly more than a list holds; in the long one, two meanings together, 144 to 576. *Continuations*:
SmolLM2-135M goes on with 30 texts: variety and likelihood. Arms: beam search, diverse beam search over a grid of groups and
strengths, the sibling penalty of Li & Jurafsky, ancestral sampling. Strengths are chosen on validation meanings and judged on
test meanings. What is claimed, and how it is judged: :mod:`experiments.papers.diverse_beam.claims` and ``verdicts``.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxdec
from experiments.papers import paraphrases
from experiments.papers.diverse_beam import arms as arms_module
from experiments.papers.diverse_beam import continuation_lists, paraphrase_lists, paraphrase_model, timing
from experiments.papers.diverse_beam.arms import Arm, arms, batches, decode_lists
from experiments.papers.diverse_beam.figures import draw_figures
from experiments.papers.diverse_beam.results import Results, Task
from experiments.papers.diverse_beam.tables import tables
from experiments.papers.diverse_beam.verdicts import all_claims
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from jaxdec.decoding import Prompt
from jaxdec.evaluation import distinct_n

COMPUTING = (arms_module, paraphrases, paraphrase_model, timing)  # a change to these makes all parts anew


def run(config: Mapping[str, Any], out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Compute what is missing, draw, judge."""
    jaxdec.enable_compilation_cache()
    parts = Parts.open(out_dir / "parts", config, COMPUTING)
    by_length = sorted(config["paraphrases"]["tasks"].items(), key=lambda task: task[1]["num_clauses"])
    tasks = {name: paraphrase_part(name, config, parts, progress) for name, _ in by_length}
    texts, times = continuation_part(config, parts, progress)
    results = [
        Results(width, {name: sizes[width] for name, sizes in tasks.items()}, texts[width], times[width])
        for width in config["widths"]
    ]
    return {
        "title": "Diverse Beam Search: Decoding Diverse Solutions from Neural Sequence Models",
        "source": "arXiv 1610.02424",
        "files": ["jaxdec/decoding/diverse_beam_search.py", "jaxdec/decoding/diversity.py"],
        "guarantee": "token_identical",
        "claims": all_claims(results, config["strengths"]),
        "tables": [table for result in results for table in tables(result)],
        "figures": [figure for result in results for figure in draw_figures(result, out_dir)],
        "notes": NOTES,
        "seconds": parts.seconds(),
    }


def paraphrase_part(name: str, config: Mapping[str, Any], parts: Parts, progress: Progress) -> dict[int, Task]:
    """What one task gives, by list size."""
    own, seed = config["paraphrases"], config["seed"]
    task, cut = own["tasks"][name], own["num_validation"]
    training, held_out = paraphrases.split(cut + own["num_test"], seed)
    stories = [  # no meaning is in a story of both halves
        story for part in (held_out[:cut], held_out[cut:]) for story in paraphrases.stories(part, task["num_clauses"])
    ]
    prompts = [paraphrases.encode_story(story) for story in stories]
    references = paraphrase_lists.drawn_references(stories, own["num_references"], seed)
    strengths = [*config["strengths"], *own["more_strengths"]]

    @functools.cache
    def model():
        folder = parts.subfolder(f"{name}_model")
        return paraphrase_model.trained_model(own, task, seed, training, folder, progress)

    def decoded(arm: Arm) -> Any:
        return decode_lists(
            arm,
            f"{name} paraphrases",
            model(),
            prompts,
            progress,
            max_new_tokens=paraphrase_model.LONGEST_CLAUSE * task["num_clauses"] + 2,
            eos_tokens=[paraphrases.encode_sentence("")[0]],
            batch_size=own["batch_size"],
            seed=seed,
        )

    found = {}
    for width in config["widths"]:
        validation, test, pooled = {}, {}, {}
        for arm in arms(width, task["groups"], strengths, config["sibling_penalties"]):
            lists = parts.get(f"{name}_b{width}_{arm.slug}", functools.partial(decoded, arm))
            scores = paraphrase_lists.scores_by_item(lists, stories, references, width)
            validation[arm] = {score: values[:cut] for score, values in scores.items()}
            test[arm] = {score: values[cut:] for score, values in scores.items()}
            sentences = [paraphrases.decode_sentence(text["tokens"]).split() for texts in lists[cut:] for text in texts]
            pooled[arm] = {f"pooled distinct-{n}, %": 100 * distinct_n(sentences, n) for n in (1, 2, 3, 4)}
        found[width] = Task(width, validation, test, pooled)
    return found


def continuation_part(config: Mapping[str, Any], parts: Parts, progress: Progress) -> tuple[dict, dict]:
    """By list size: scores, and times."""
    own, seed = config["continuations"], config["seed"]
    lm = continuation_lists.loaded_model(own["model"], parts.folder)
    prompts = [lm.tokenizer.encode(text) for text in own["prompts"]]
    size, budget, ends = own["batch_size"], own["max_new_tokens"], lm.tokenizer.eos_token_ids

    def decoded(arm: Arm) -> Any:
        return decode_lists(
            arm,
            "continuations",
            lm.model,
            prompts,
            progress,
            max_new_tokens=budget,
            eos_tokens=ends,
            batch_size=size,
            seed=seed,
        )

    found, times = {}, {}
    for width in config["widths"]:
        found[width] = {}
        for arm in arms(width, own["groups"], config["strengths"], own["sibling_penalties"]):
            lists = parts.get(f"continuations_b{width}_{arm.slug}", functools.partial(decoded, arm))
            found[width][arm] = continuation_lists.scores_by_item(lists, lm.tokenizer)
        groups = dict.fromkeys((*own["groups"], width))
        timed = [Arm("beam", width)]
        timed += [Arm("diverse", width, num_groups, own["timing_strength"]) for num_groups in groups]
        prompt = Prompt.create(next(batches(prompts, size)), budget, eos_tokens=ends)
        measure = functools.partial(timing.time_arms, timed, lm.model, prompt, own["timing_rounds"], progress)
        times[width] = parts.get(f"timing_b{width}", measure)
    return found, times


NOTES = [
    "Oracle BLEU@k is the best sentence BLEU-4 among the first k texts, against one drawn reference (mean over several) or "
    "against all right sentences at once (a right text then scores 100). Lists are ordered by log-probability.",
    "Distinct-n is the number of distinct n-grams of a list per word of the list, averaged over lists; the pooled table takes "
    "all lists of the test set as one, in percent. The paper does not spell out its normalisation: compare orderings.",
    "The rules by which claims are judged were fixed before anything was measured in full. After a first full run, in which "
    "the oracle of the short task did not reproduce, the long task was added to see whether the few right answers were the "
    "reason, and the claims were told apart by model.",
    "A chance in these tables is the probability that a sentence drawn as the references are is in the list. Beam search never "
    "repeats a text in its list; groups that a weak penalty does not keep apart do (see the column 'different').",
    "The paraphrase tasks were made so that most alternatives come late in a sentence and the word order, chosen early, is "
    "usually the same: beam search then lists small variations of one sentence, which is what the paper sets out to mend.",
    "SmolLM2 writes sub-word tokens: penalties align tokens by position and lose the alignment after the first difference.",
]
