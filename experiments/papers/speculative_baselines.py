"""Replica of speculative decoding and its baselines (Leviathan, Chen, prompt lookup, lookahead, REST; Spec-Bench's comparison).

On a Markov target, where every law is known: tokens per step at constant acceptance, the law of two tokens, and the law of a
published shortcut that is wrong. On SmolLM2-135M: what a pass costs against its number of tokens; chains of three draft models
against the formula; first guesses against ``sum min(p, q)``; tokens per call of every method by task family, greedy texts
compared with plain decoding's one by one; deterministic guesses at higher temperatures; and speed-ups, batch 1, prompt by
prompt in turns. What is claimed and how it is judged: :mod:`experiments.papers.speculative.verdicts`.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxdec
from experiments.papers import draft_distillation
from experiments.papers.diverse_beam.continuation_lists import loaded_model
from experiments.papers.draft_distillation import distilled_draft, teaching_texts
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from experiments.papers.speculative import arms as arms_module
from experiments.papers.speculative import chains as chains_module
from experiments.papers.speculative import markov, timing
from experiments.papers.speculative.arms import PLAIN, Arm, decode_counted, differences, family_arms, pack, rows_of
from experiments.papers.speculative.chains import chain_results, overlap_results, temperature_results
from experiments.papers.speculative.figures import draw_figures
from experiments.papers.speculative.results import Results
from experiments.papers.speculative.tables import tables
from experiments.papers.speculative.verdicts import all_claims
from experiments.prompts import read_prompts
from experiments.record import PROJECT_ROOT
from jaxdec.decoding import Sampling
from jaxdec.decoding.methods import AUTO_NODES
from jaxdec.decoding.sampling import GREEDY
from jaxdec.decoding.speculative import DraftModel, Lookahead, TreeSizes
from jaxdec.decoding.speculative.datastore import build_datastore
from jaxdec.generation import encode_prompt
from jaxdec.language_model import LanguageModel
from jaxdec.models.layer_skip import skip_layers

COMPUTING = (arms_module, chains_module, draft_distillation, markov, timing)
PROMPTS = PROJECT_ROOT / "experiments" / "specbench" / "prompts.jsonl"
DISTILLED = "distilled"


def run(config: Mapping[str, Any], out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Compute what is missing, draw, judge."""
    jaxdec.enable_compilation_cache()
    parts = Parts.open(out_dir / "parts", config, COMPUTING)
    results = Study(config, parts, progress).results()
    chain = f"draft chain {config['arms']['chain']}"
    return {
        "title": "Speculative decoding and its baselines: draft models, prompt lookup, lookahead, REST",
        "source": "arXiv 2211.17192, 2302.01318, 2402.02057, 2311.08252, 2401.07851",
        "files": [
            f"jaxdec/decoding/speculative/{name}.py"
            for name in ("engine", "verification", "draft_model", "prompt_lookup", "lookahead", "suffix_retrieval")
        ],
        "guarantee": "token_identical (exact match), distribution (speculative sampling)",
        "claims": all_claims(results, chain),
        "tables": tables(results),
        "figures": draw_figures(results, out_dir),
        "notes": notes(results),
        "seconds": parts.seconds(),
    }


class Study:
    """The parts of the replica, in the order in which they need one another."""

    def __init__(self, config: Mapping[str, Any], parts: Parts, progress: Progress):
        """Load the target and encode the prompts."""
        self.config, self.parts, self.progress, self.seed = config, parts, progress, config["seed"]
        self.lm = loaded_model(config["model"], parts.folder)
        entries = [(entry["id"].rpartition("-")[0], entry["prompt"]) for entry in read_prompts(PROMPTS)]
        families = list(dict.fromkeys(family for family, _ in entries))
        chosen = [
            entry
            for family in families
            for entry in [e for e in entries if e[0] == family][: config["prompts_per_family"]]
        ]
        self.families = [family for family, _ in chosen]
        self.prompts = [encode_prompt(self.lm, text, raw=False) for _, text in chosen]
        self.packed = pack(self.prompts, config["new_tokens"], self.lm.tokenizer.eos_token_ids, self.seed)

    def places(self, per_family: int) -> list[int]:
        """The first prompts of each family."""
        return [
            place
            for family in dict.fromkeys(self.families)
            for place in [at for at, other in enumerate(self.families) if other == family][:per_family]
        ]

    @property
    def skips(self) -> dict[str, Any]:
        """Layers of the untrained draft models; those without any are left out."""
        return {name: layers for name, layers in self.config["skips"].items() if layers}

    @functools.cached_property
    def teaching(self) -> list[dict[str, Any]]:
        """What the target wrote."""
        return self.parts.get(
            "teaching_texts", lambda: teaching_texts(self.lm, self.config["draft"], self.seed, self.progress)
        )

    @functools.cached_property
    def drafts(self) -> dict[str, LanguageModel]:
        """Draft models by name."""
        folder = self.parts.subfolder("draft")
        distilled = distilled_draft(
            self.lm.model, self.teaching, self.config["draft"], self.seed, folder, self.progress
        )
        skipped = {name: skip_layers(self.lm.model, tuple(layers)) for name, layers in self.skips.items()}
        return {DISTILLED: distilled, **skipped}

    @functools.cached_property
    def models(self) -> dict[str, LanguageModel]:
        """The target, with the collection, and with each draft model; without one under the name ``""``."""
        texts = [[*text["prompt"], *text["tokens"]] for text in self.teaching]
        target = self.lm.model.accompanied(datastore=build_datastore(texts, self.lm.model.vocab_size))
        return {"": target, **{name: target.accompanied(draft=draft) for name, draft in self.drafts.items()}}

    def results(self) -> Results:
        """Everything."""
        config, get, progress, seed = self.config, self.parts.get, self.progress, self.seed
        laws, own = config["laws"], config["chains"]
        law = get("laws", lambda: markov.law_results(laws["draws"], seed, progress))
        formula = get(
            "formula",
            lambda: markov.formula_results(
                laws["acceptances"], laws["lengths"], laws["rows"], laws["new_tokens"], seed, progress
            ),
        )
        texts, parted = self.family_parts()
        few = rows_of(self.packed, self.places(own["prompts_per_family"]))
        batch = config["batch"]
        chains = {
            name: get(
                f"chains_{Arm(name).slug}",
                lambda name=name: chain_results(name, self.models[name], few, batch, own["lengths"], progress),
            )
            for name in (DISTILLED, *self.skips)
        }
        drawn = {
            name: Arm(f"drawn {name}", DraftModel((1,) * config["arms"]["chain"]), name, drawn=True) for name in chains
        }
        overlaps = {
            name: {
                f"{temperature:g}": get(
                    f"overlap_{arm.slug}_{temperature:g}",
                    lambda arm=arm, t=temperature: overlap_results(
                        arm, self.models[arm.draft], few, batch, t, progress
                    ),
                )
                for temperature in own["temperatures"]
            }
            for name, arm in drawn.items()
        }
        cooled = [arm for arm in self.arms if arm.name == "prompt lookup" or arm.draft]
        temperatures = get(
            "temperatures",
            lambda: temperature_results(cooled, self.models, few, batch, (0.0, *own["temperatures"]), progress),
        )
        curve, timed_arms, timed_texts, times = self.timing_parts()
        return Results(
            laws=law,
            formula=formula,
            curve=curve,
            families=self.families,
            texts=texts,
            differences=parted,
            chains=chains,
            overlaps=overlaps,
            temperatures=temperatures,
            timing=times,
            timed_arms=timed_arms,
            timed_places=self.places(config["timing"]["prompts_per_family"]),
            timed_texts=timed_texts,
            teaching={"texts": len(self.teaching), "tokens": sum(len(text["tokens"]) for text in self.teaching)},
        )

    @functools.cached_property
    def arms(self) -> list[Arm]:
        """Compared by family."""
        return family_arms(self.config["arms"], DISTILLED)

    def family_parts(self) -> tuple[dict, dict]:
        """Greedy texts of every arm, and where they part from plain decoding's."""
        texts, parted = {}, {}
        for arm in self.arms:
            texts[arm.name] = self.parts.get(
                f"families_{arm.slug}",
                lambda arm=arm: decode_counted(
                    arm, GREEDY, self.models[arm.draft], self.packed, self.config["batch"], "families", self.progress
                ),
            )
            if arm.name != PLAIN:
                parted[arm.name] = self.parts.get(
                    f"differences_{arm.slug}",
                    lambda arm=arm: differences(self.lm.model, self.prompts, texts[PLAIN], texts[arm.name]),
                )
        return texts, parted

    def timing_parts(self) -> tuple[Any, list[Arm], dict, Any]:
        """The curve, the arms that are timed, their counters, and their speeds."""
        own, get = self.config["timing"], self.parts.get
        ahead = own["lookahead"]
        timed = [arm for arm in self.arms if arm.name != "lookahead"]
        timed += [
            Arm("lookahead, small", Lookahead(ahead["ngram_size"], ahead["window_size"], ahead["max_guesses"])),
            Arm(f"draft chain {own['chain']}", DraftModel((1,) * own["chain"]), DISTILLED),
        ]
        lookup = next(arm for arm in timed if arm.name == "prompt lookup")
        nodes = [count for count in AUTO_NODES if count <= lookup.num_nodes]
        counts = {"": [*own["counts"], *(arm.num_nodes + 1 for arm in timed), *(count + 1 for count in nodes)]}
        for name in self.skips:
            counts[name] = [1]
        counts[DISTILLED] = [1, *(count for arm in timed for count in arm.drafting_passes)]
        curve = get(
            "curve",
            lambda: timing.cost_curves(
                {"": self.lm.model, **self.drafts}, counts, own["context"], own["curve_rounds"], self.progress
            ),
        )
        costs = tuple(curve["costs"][""][str(count + 1)] for count in nodes)
        timed.append(Arm("prompt lookup, sized", lookup.drafter, sizes=TreeSizes(tuple(nodes), costs)))
        prompts = [rows_of(self.packed, [place]) for place in self.places(own["prompts_per_family"])]
        fixed = [arm for arm in timed if arm.sizes is None]
        counters = get("timed_texts", lambda: self.timed_texts(fixed))
        times = get("timing", lambda: timing.time_arms(timed, self.models, prompts, own["rounds"], self.progress))
        return curve, timed, counters, times

    def timed_texts(self, arms: list[Arm]) -> dict[str, list[dict[str, Any]]]:
        """Counters of the timed prompts, one by one as they are timed."""
        few = rows_of(self.packed, self.places(self.config["timing"]["prompts_per_family"]))
        return {
            arm.name: decode_counted(arm, Sampling(0.0), self.models[arm.draft], few, 1, "one by one", self.progress)
            for arm in arms
        }


def notes(results: Results) -> list[str]:
    """What a reader has to know."""
    return [
        "Tokens per call count the target's own token and the prefill, so that plain decoding has 1. Tokens per step leave "
        "prefills out, and count a last block whole that a budget or an end token cuts.",
        f"The distilled draft begins as four layers of the target and learned from {results.teaching['tokens']} tokens in "
        f"{results.teaching['texts']} texts that the target wrote, none for a prompt of the comparison. The collection of the "
        "retrieval is these texts: it is about a millionth of REST's, and knows the model's turns of phrase, not the subjects.",
        "Speed-ups are of decoding behind the prefill, batch 1, all methods in turns in one process; those of the papers are "
        "of 7B and 13B models on a GPU, where verifying a few tokens costs what one costs. "
        f"Load by others while timing: {load(results.timing['foreign_load'])}, while the curve was taken: "
        f"{load(results.curve['foreign_load'])}.",
        "'prompt lookup, sized' chooses at every step how many guesses to feed, by the measured cost of a pass.",
        "The rules by which claims are judged were fixed before the full run.",
    ]


def load(value: float | None) -> str:
    """In words."""
    return "unknown" if value is None else f"{value:.2f} cores"
