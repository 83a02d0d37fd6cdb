"""What the first model's lists are worth: every right answer is known.

Oracle@k is computed against two sorts of reference: *drawn*, a single sentence drawn as the training data were (the paper's
translation sets have one reference; here the mean over several drawn ones is taken to get less noise), and *all*, every right
sentence at once, which any right text satisfies.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from experiments.papers.paraphrases import Story, decode_sentence, draw, sentences
from jaxdec.evaluation import coverage, distinct_n, oracle_at_k, sentence_bleu, validity

NGRAMS = (1, 2, 3, 4)
List = Sequence[Mapping[str, Any]]


def drawn_references(stories: Sequence[Story], num_references: int, seed: int) -> list[list[str]]:
    """Sentences drawn independently for each story."""
    generators = [np.random.default_rng((seed, 1, number)) for number in range(len(stories))]
    return [[draw(story, rng) for _ in range(num_references)] for story, rng in zip(stories, generators)]


def cutoffs(num_beams: int) -> tuple[int, ...]:
    """The values of k in oracle@k: first text, half of the list, all of it."""
    return tuple(dict.fromkeys((1, max(1, num_beams // 2), num_beams)))


def scores_by_item(
    lists: Sequence[List], stories: Sequence[Story], references: Sequence[Sequence[str]], num_beams: int
) -> dict[str, list[float]]:
    """Every score of every list, by name: ``oracle_drawn@k``, ``oracle_all@k``, ``distinct-n``, ``validity``, ...

    ``chance`` is the probability that a sentence drawn as the references are is in the list.
    """
    items = [_scores(*item, num_beams) for item in zip(lists, stories, references, strict=True)]
    return {name: [item[name] for item in items] for name in items[0]}


def _scores(texts: List, story: Story, drawn: Sequence[str], num_beams: int) -> dict[str, float]:
    found = [decode_sentence(text["tokens"]) for text in texts]
    right = sentences(story)
    by_reference = [[_bleu(sentence, (reference,)) for sentence in found] for reference in drawn]
    by_all = [100.0 if sentence in right else _bleu(sentence, tuple(right)) for sentence in found]
    scores = {}
    for k in cutoffs(num_beams):
        within = min(k, len(found))  # a list may be shorter where fewer texts exist
        scores[f"oracle_drawn@{k}"] = float(np.mean([oracle_at_k(row, within) for row in by_reference]))
        scores[f"oracle_all@{k}"] = oracle_at_k(by_all, within)
    log_probs = [text["log_prob"] for text in texts]
    return scores | {
        **{f"distinct-{n}": distinct_n([sentence.split() for sentence in found], n) for n in NGRAMS},
        "different": len(set(found)) / len(found),
        "validity": validity(found, right),
        "coverage": coverage(found, right),
        "chance": sum(right.get(sentence, 0.0) for sentence in set(found)),
        "best_log_prob": max(log_probs),
        "mean_log_prob": float(np.mean(log_probs)),
        "calls": float(texts[0]["calls"]),
    }


@cache
def _bleu(sentence: str, references: tuple[str, ...]) -> float:
    return sentence_bleu(sentence, references, tokenize="none")
