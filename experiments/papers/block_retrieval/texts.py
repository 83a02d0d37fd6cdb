"""Long texts with facts hidden in them, and windows that ask for one fact among much else."""

import dataclasses
from collections.abc import Callable

import numpy as np

Encode = Callable[[str], list[int]]

NAMES = ("Bruno", "Daisy", "Rusty", "Molly", "Oscar", "Ruby", "Felix", "Luna")
COLOURS = ("black", "white", "brown", "grey", "golden", "red", "silver", "blue")
WHO = (
    "The baker",
    "A teacher",
    "My neighbour",
    "The mayor",
    "An old sailor",
    "The doctor",
    "A young farmer",
    "The postman",
)
DID = (
    "walked to",
    "talked about",
    "came back from",
    "thought of",
    "drew a map of",
    "wrote a letter about",
    "looked for",
)
WHAT = ("the market", "the old mill", "the harbour", "the town hall", "the forest", "the bridge", "the railway station")
WHEN = ("early in the morning", "on a cold evening", "before the rain", "after lunch", "in the spring", "every week")
PLACES = ("middle", "end")


@dataclasses.dataclass(frozen=True)
class Haystack:
    """A text and the windows that follow it.

    Attributes:
      tokens: of the text.
      facts: for each fact, the slot of its answer's token.
      answers: for each fact, the answer's token.
      choices: tokens of all answers.
      windows: by place of the question, for each fact the tokens of a window.
      question: tokens of a question, of each fact.
    """

    tokens: list[int]
    facts: list[int]
    answers: list[int]
    choices: list[int]
    windows: dict[str, list[list[int]]]
    question: list[int]

    def asked_at(self, place: str, fact: int) -> slice:
        """Where in its window the question is."""
        window, size = len(self.windows[place][fact]), self.question[fact]
        end = window if place == "end" else (window + size) // 2
        return slice(end - size, end)


def sentence(rng: np.random.Generator) -> str:
    """One of some thousands."""
    return " " + " ".join(parts[rng.integers(len(parts))] for parts in (WHO, DID, WHAT, WHEN)) + "."


def filler(encode: Encode, rng: np.random.Generator, tokens: int) -> list[int]:
    """So many tokens of sentences; the last one may be cut."""
    ids: list[int] = []
    while len(ids) < tokens:
        ids += encode(sentence(rng))
    return ids[:tokens]


def haystack(
    encode: Encode, tokens: int, window: int, num_facts: int, seed: int, *, first: int, behind: int
) -> Haystack:
    """A text of facts in filler, and for each fact and place of the question a window.

    Args:
      encode: text to tokens, without a token of beginning.
      tokens: of the text, exactly.
      window: tokens of a window, exactly.
      num_facts: facts, up to as many as there are names.
      seed: of all choices.
      first: slots at the beginning that hold no fact.
      behind: slots at the end that hold no fact.

    Raises:
      ValueError: no room for the facts, or for a question in a window.
    """
    rng = np.random.default_rng(seed)
    colours = rng.permutation(len(COLOURS))[:num_facts]
    names = rng.permutation(len(NAMES))[:num_facts]
    told = [
        encode(f" The dog named {NAMES[name]} has fur that is {COLOURS[colour]}.")
        for name, colour in zip(names, colours)
    ]
    asked = [encode(f" The dog named {NAMES[name]} has fur that is") for name in names]
    longest = max(map(len, told))
    room = (tokens - first - behind) // num_facts
    if room < longest:
        raise ValueError(f"tokens must leave room for {num_facts} facts of {longest} tokens, got {tokens}")
    if window <= max(map(len, asked)):
        raise ValueError(f"window must be longer than a question of {max(map(len, asked))} tokens, got {window}")
    text, facts = filler(encode, rng, tokens), []
    for number, fact in enumerate(told):
        start = first + number * room + int(rng.integers(0, room - len(fact) + 1))
        text[start : start + len(fact)] = fact
        facts.append(start + len(asked[number]))
    windows: dict[str, list[list[int]]] = {place: [] for place in PLACES}
    for question in asked:
        around = filler(encode, rng, window - len(question))
        half = (window + len(question)) // 2 - len(question)
        windows["end"].append([*around, *question])
        windows["middle"].append([*around[:half], *question, *around[half:]])
    answers = [fact[len(question)] for fact, question in zip(told, asked)]
    choices = [encode(f" {colour}")[0] for colour in COLOURS]
    return Haystack(text, facts, answers, choices, windows, [len(question) for question in asked])
