"""What is decoded: prefixes cut from a filler, facts hidden in it, and a tree of examples, problems and samples."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Encode = Callable[[str], list[int]]

FILLER = (
    "The road to the village follows the river for a while. ",
    "In spring the water is high and nobody crosses it on foot. ",
    "There is a mill, which has not been used for many years. ",
    "Behind the mill the fields begin, and behind the fields the wood. ",
    "People here get up early and go to bed early. ",
    "On market days the square is full before the sun is over the roofs. ",
    "The baker sells bread with nuts, and cakes in the shape of a star. ",
    "When it rains, everybody meets under the arches of the town hall. ",
)
DOGS = ("Bruno", "Daisy", "Rusty", "Molly", "Oscar", "Ruby", "Felix", "Luna")
COLOURS = ("black", "white", "brown", "grey", "golden", "red", "silver", "cream")
SHOTS = (
    ("A box holds 4 pens. How many pens are in 3 boxes?", "12"),
    ("Tom has 9 nuts and eats 5. How many are left?", "4"),
    ("A train has 6 cars with 10 seats each. How many seats?", "60"),
    ("Ann is 7 and her brother is twice as old. How old is he?", "14"),
    ("Share 20 sweets among 5 children. How many does each get?", "4"),
    ("A book of 80 pages, 30 are read. How many are left?", "50"),
    ("Two dozen eggs: how many are that?", "24"),
    ("A shirt costs 8 coins. How much are 5 shirts?", "40"),
)
PROBLEMS = (
    "A farmer has 3 fields with 12 trees each, and storms take 6 of them.",
    "A bus starts with 20 people; 8 get off at the first stop and 5 get on.",
    "A cook needs 2 eggs for each cake and wants to bake 9 cakes for a feast.",
    "A pool holds 90 barrels and each hour 10 of them run out of it.",
)


def filler(encode: Encode, tokens: int) -> list[int]:
    """So many tokens of filler."""
    if tokens < 1:
        raise ValueError(f"tokens must be at least 1, got {tokens}")
    text, ids = "", []
    while len(ids) < tokens:
        text += "".join(FILLER)
        ids = encode(text)
    return ids[:tokens]


def continuations(encode: Encode, prefix: int, batch: int) -> list[list[int]]:
    """Prompts that share a prefix of exactly so many tokens and then go on, each its own way."""
    begin = filler(encode, prefix)
    return [
        [*begin, *encode(f" {number} years ago, {DOGS[number % len(DOGS)]} came here and")] for number in range(batch)
    ]


def needles(encode: Encode, tokens: int, seed: int, *, facts: bool = True) -> tuple[list[list[int]], list[str]]:
    """Prompts that ask for facts hidden in filler.

    Args:
      encode: text to tokens.
      tokens: of filler, about; the facts come on top.
      seed: decides where they are, and which dog has which fur.
      facts: whether the facts are there at all.

    Returns:
      A prompt per dog, all with the same beginning, and the answers.
    """
    rng = np.random.default_rng(seed)
    colours = [COLOURS[index] for index in rng.permutation(len(COLOURS))]
    per_piece = len(encode("".join(FILLER))) / len(FILLER)
    pieces = [FILLER[index % len(FILLER)] for index in range(max(len(DOGS), round(tokens / per_piece)))]
    places = sorted(rng.choice(len(pieces), len(DOGS), replace=False).tolist(), reverse=True)
    if facts:
        for place, dog in zip(places, rng.permutation(len(DOGS))):
            pieces.insert(place, f"The dog named {DOGS[dog]} has fur that is {colours[dog]}. ")
    text = "".join(pieces)
    return [encode(f"{text}The dog named {dog} has fur that is") for dog in DOGS], colours


def answered(said: Sequence[str], answers: Sequence[str]) -> int:
    """How many texts begin with their answer."""
    return sum(text.strip().startswith(answer) for text, answer in zip(said, answers, strict=True))


def example_tree(
    encode: Encode, shots: int, problem: int, problems: int, samples: int
) -> tuple[list[list[int]], dict[str, Any]]:
    """Examples for all, a problem for some, samples of each problem.

    Args:
      encode: text to tokens.
      shots: tokens of examples.
      problem: tokens of a problem; the last of them stays with each sample.
      problems: how many problems.
      samples: of each.

    Returns:
      The prompts, equal ones side by side, and trees to share them by: ``root`` (the examples), ``leaves`` (each problem with
      the examples before it), ``two levels``; ``none`` is False.
    """
    text = ""
    while len(ids := encode(text)) < shots:
        text += "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in SHOTS)
    root, prompts = ids[:shots], []
    for number in range(problems):
        mine = encode(f"Question: {number + 1}. {PROBLEMS[number % len(PROBLEMS)]} ")
        rest = [*mine, *filler(encode, problem)][:problem]
        prompts += [[*root, *rest]] * samples
    batch, rest = problems * samples, problem - 1
    trees = {
        "none": False,
        "root": [[(batch, shots)]],
        "leaves": [[(samples, shots + rest)] * problems],
        "two levels": [[(batch, shots)], [(samples, rest)] * problems],
    }
    return prompts, trees
