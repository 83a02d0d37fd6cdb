"""What is read: sections of a fixed number of tokens, each behind a line with its number, some with a fact in a filler."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from experiments.papers.shared_prefixes.texts import FILLER

Encode = Callable[[str], list[int]]

HEAD = "Notes from a village in the hills, written down one section after another.\n"
"""16 tokens of SmolLM2: then markers begin where blocks of 16 queries do, and fewer blocks have to gather everything."""
FACTS = (
    ("The dog of the miller is called", ("Bruno", "Daisy", "Rusty", "Oscar", "Felix", "Luna")),
    ("The door of the school is painted", ("black", "white", "brown", "green", "yellow", "blue")),
    ("The favourite fruit of the mayor is the", ("apple", "pear", "cherry", "plum", "peach", "orange")),
    ("The secret word of the guards is", ("castle", "window", "silver", "thunder", "garden", "mirror")),
    ("The old ship in the harbour was built in", ("Spain", "Norway", "Italy", "Greece", "Portugal", "Ireland")),
    ("Every evening the doctor plays the", ("piano", "violin", "guitar", "flute", "drum", "trumpet")),
    ("The winner of the race was a young", ("farmer", "soldier", "nurse", "painter", "sailor", "tailor")),
    ("Under her bed the teacher keeps a", ("rabbit", "parrot", "snake", "turtle", "mouse", "lizard")),
)


@dataclasses.dataclass(frozen=True)
class Document:
    """A document and what can be asked about it.

    Attributes:
      tokens: prefix and sections.
      prefix: tokens before the first section.
      marker: tokens of each section's first line.
      questions: tokens, one per fact.
      answers: tokens that follow each question.
      sections: where each answer is.
    """

    tokens: tuple[int, ...]
    prefix: int
    marker: int
    questions: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    sections: tuple[int, ...]


def document(encode: Encode, num_sections: int, section: int, facts: int, seed: int) -> Document:
    """A document.

    Args:
      encode: text to tokens.
      num_sections: 3 to 99; the first and the last have no facts, since they are always dense.
      section: tokens in a section, its first line included.
      facts: how many sections have a fact, at most ``len(FACTS)`` and all but two.
      seed: decides where facts are and what they say.

    Raises:
      ValueError: sections or facts out of range, sections shorter than their first lines.
    """
    if not 3 <= num_sections <= 99:
        raise ValueError(f"num_sections must be in 3..99, got {num_sections}")
    if not 1 <= facts <= min(len(FACTS), num_sections - 2):
        raise ValueError(f"facts must be in 1..{min(len(FACTS), num_sections - 2)}, got {facts}")
    rng = np.random.default_rng(seed)
    said = [answers[rng.integers(len(answers))] for _, answers in FACTS[:facts]]
    where = (1 + rng.permutation(num_sections - 2)[:facts]).tolist()
    prefix, markers = encode(HEAD), [encode(f"Section {number + 1:02d}:\n") for number in range(num_sections)]
    end, tokens, filler = encode("\n"), list(prefix), int(rng.integers(len(FILLER)))
    for number, marker in enumerate(markers):
        room = section - len(marker) - len(end)
        if room < 1 or len(marker) != len(markers[0]):
            raise ValueError(f"section must be more than the {section - room} tokens of its first line, got {section}")
        pieces: list[str] = []
        while len(body := encode("".join(pieces))) < room or not pieces:
            pieces.append(FILLER[filler % len(FILLER)])
            filler += int(rng.integers(1, 4))
        if number in where:
            fact = where.index(number)
            pieces.insert(int(rng.integers(2)), f"{FACTS[fact][0]} {said[fact]}. ")
            body = encode("".join(pieces))
        tokens += [*marker, *body[:room], *end]
    return Document(
        tuple(tokens),
        len(prefix),
        len(markers[0]),
        tuple(tuple(encode(question)) for question, _ in FACTS[:facts]),
        tuple(tuple(encode(f" {answer}")) for answer in said),
        tuple(where),
    )


def documents(encode: Encode, count: int, num_sections: int, section: int, facts: int, seed: int) -> Sequence[Document]:
    """Several documents of one shape."""
    return [document(encode, num_sections, section, facts, 1000 * seed + number) for number in range(count)]
