"""Needles in a haystack: the values of some keys among many.

RULER's multi-query NIAH (Hsieh et al. 2024, arXiv 2404.06654) as in The Sparse Frontier (Nawrot et al. 2025, arXiv 2504.17768):
low dispersion, low scope. Every sentence of the text is a pair of key and value, ``num_queries`` of them are asked for. With
``distractors`` the text has that many other pairs and is filled up with sentences about other things: easier.
"""

import random

from jaxdec.evaluation.long_context.sample import Count, Sample, check_sizes, count_words, most_that_fits, prompt_text
from jaxdec.evaluation.long_context.words import ADJECTIVES, FILLER, NOUNS

INTRO = "Below is a text in which objects have numbers. Read it and answer the question."
SENTENCE = "The number of the {key} is {value}."
NUM_CANDIDATES = 8


def needle(
    budget: int,
    seed: int,
    *,
    count: Count = count_words,
    ask: str = "both",
    num_queries: int = 4,
    distractors: int | None = None,
) -> Sample:
    """A prompt of at most ``budget`` tokens; graded by the share of values that are right, each at its place.

    Args:
      budget: tokens, as ``count`` counts them.
      seed: equal seeds give equal samples.
      count: length of a text.
      ask: where the question stands: ``"both"``, ``"before"`` or ``"after"`` the text.
      num_queries: keys that are asked for.
      distractors: other pairs; None for as many as fit, at most some 8000.

    Raises:
      ValueError: an argument out of range, or a budget too small.
    """
    check_sizes(budget, ask, num_queries=num_queries)
    keys = len(ADJECTIVES) * len(NOUNS)
    if distractors is not None and not 0 <= distractors <= keys - num_queries:
        raise ValueError(f"distractors must be in 0..{keys - num_queries}, got {distractors}")
    draw = random.Random(f"needle {seed}")
    most = keys - num_queries if distractors is None else distractors
    most = min(most, budget)  # every sentence has a token at least
    chosen = draw.sample(range(keys), num_queries + most)
    names = [f"{ADJECTIVES[index % len(ADJECTIVES)]} {NOUNS[index // len(ADJECTIVES)]}" for index in chosen]
    values = list(map(str, draw.sample(range(10000, 100000), len(names))))
    pairs = [SENTENCE.format(key=key, value=value) for key, value in zip(names, values)]
    fixed = num_queries if distractors is None else len(pairs)
    others = pairs[fixed:] if distractors is None else [draw.choice(FILLER) for _ in range(budget)]
    place = {index: draw.random() for index in range(fixed + len(others))}
    sentences = [*pairs[:fixed], *others]
    asked = ", ".join(names[:num_queries])
    question = f"Which numbers do these have: {asked}?"

    def render(more: int) -> str:
        order = sorted(range(fixed + more), key=place.__getitem__)
        text = " ".join(sentences[index] for index in order)
        return prompt_text(INTRO, text, question, "Answer with one number per line, like this: 1. 12345", ask)

    fitting = most_that_fits(render, len(others), budget, count)
    shown = values[: fixed + fitting] if distractors is None else values
    wrong = draw.sample(shown[1:], min(NUM_CANDIDATES - 1, len(shown) - 1))
    return Sample(
        task="needle",
        prompt=render(fitting),
        answers=tuple(values[:num_queries]),
        grading="lines",
        cue=f"The number of the {names[0]} is ",
        candidates=(values[0], *wrong),
    )
