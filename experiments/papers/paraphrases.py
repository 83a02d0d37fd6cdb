"""A one-to-many task whose every right answer is known: say in words who did what to whom, and when.

A story is one meaning or several, said one after another and joined by "and". A meaning is (agent, action, patient, time). A
sentence for it is drawn so: an order (active or passive, the time last or first) and, slot by slot, one of the slot's synonyms.
The choice of order is made early in a sentence and one order is the usual one; most synonyms come late. So the likeliest
sentences are small variations of one another, as beam search's lists are on real tasks. Only meanings with 12 to 24 sentences
are used; a story of two then has 144 to 576.

    active   the doctor helped the child at noon         time first   at noon the doctor helped the child
    passive  the child was helped by the doctor at noon  both         at noon the child was helped by the doctor
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

PEOPLE = (
    ("doctor", "physician"), ("child", "kid"), ("lawyer", "attorney"), ("student", "pupil"), ("thief", "robber"),
    ("policeman", "officer"), ("boss", "manager"), ("guest", "visitor"), ("farmer",), ("baker",), ("singer",),
    ("driver",), ("painter",), ("soldier",), ("pilot",), ("nurse",),
)  # fmt: skip
ACTIONS = (
    ("helped", "assisted"), ("called", "phoned"), ("pushed", "shoved"), ("hired", "employed"), ("followed", "tailed"),
    ("blamed", "accused"), ("rescued", "saved"), ("praised",), ("greeted",), ("paid",), ("visited",), ("fooled",),
)  # fmt: skip
TIMES = (
    ("at noon", "at midday", "around lunchtime"), ("in the evening", "after sunset", "late in the day"),
    ("last week", "a week ago", "seven days ago"), ("yesterday", "the day before", "one day ago"),
    ("in the morning", "after sunrise", "early in the day"), ("last year", "a year ago", "twelve months ago"),
)  # fmt: skip
ORDERS = {  # probability of each: (passive, time first)
    (False, False): 0.62,
    (False, True): 0.18,
    (True, False): 0.14,
    (True, True): 0.06,
}
USE = {1: (1.0,), 2: (0.6, 0.4), 3: (0.5, 0.3, 0.2)}
"""How often each of one, two or three synonyms is used."""
SENTENCES = range(12, 25)
"""Numbers of sentences that a meaning may have."""
END, SAY, JOIN = "<end>", "<say>", "and"
SLOTS = {"agent": PEOPLE, "action": ACTIONS, "patient": PEOPLE, "time": TIMES}


@dataclasses.dataclass(frozen=True, order=True)
class Meaning:
    """Indices into :data:`SLOTS`."""

    agent: int
    action: int
    patient: int
    time: int

    def synonyms(self) -> tuple[tuple[str, ...], ...]:
        """Of every slot."""
        return tuple(SLOTS[name][getattr(self, name)] for name in SLOTS)

    def say(self, order: tuple[bool, bool], words: Sequence[str]) -> str:
        """The sentence in an order, with one synonym per slot."""
        agent, action, patient, time = words
        passive, time_first = order
        core = f"the {patient} was {action} by the {agent}" if passive else f"the {agent} {action} the {patient}"
        return f"{time} {core}" if time_first else f"{core} {time}"

    def sentences(self) -> dict[str, float]:
        """All right sentences, each with its probability."""
        slots = self.synonyms()
        chances = {}
        for order, chance in ORDERS.items():
            for chosen in itertools.product(*(range(len(slot)) for slot in slots)):
                words = [slot[i] for slot, i in zip(slots, chosen)]
                chances[self.say(order, words)] = chance * math.prod(USE[len(s)][i] for s, i in zip(slots, chosen))
        return chances

    def draw(self, rng: np.random.Generator) -> str:
        """A sentence, drawn by its probability."""
        order = tuple(ORDERS)[rng.choice(len(ORDERS), p=list(ORDERS.values()))]
        return self.say(order, [slot[rng.choice(len(slot), p=USE[len(slot)])] for slot in self.synonyms()])


Story = tuple[Meaning, ...]


@functools.lru_cache(maxsize=4096)
def sentences(story: Story) -> dict[str, float]:
    """All right ways to tell a story, each with its probability. (Shared: not to be changed.)"""
    chances = {"": 1.0}
    for meaning in story:
        chances = {
            f"{before} {JOIN} {clause}" if before else clause: chance * more
            for before, chance in chances.items()
            for clause, more in meaning.sentences().items()
        }
    return chances


def draw(story: Story, rng: np.random.Generator) -> str:
    """A way to tell a story, drawn by its probability."""
    return f" {JOIN} ".join(meaning.draw(rng) for meaning in story)


def stories(chosen: Sequence[Meaning], num_clauses: int) -> list[Story]:
    """As many stories as meanings, each beginning with another meaning."""
    return [tuple(chosen[(i + j) % len(chosen)] for j in range(num_clauses)) for i in range(len(chosen))]


@functools.cache
def meanings() -> tuple[Meaning, ...]:
    """All meanings, in order."""
    everything = itertools.product(*(range(len(slot)) for slot in SLOTS.values()))
    candidates = (Meaning(*slots) for slots in everything if slots[0] != slots[2])
    return tuple(m for m in candidates if len(ORDERS) * math.prod(map(len, m.synonyms())) in SENTENCES)


def split(num_held_out: int, seed: int) -> tuple[list[Meaning], list[Meaning]]:
    """Return ``(training meanings, held-out meanings)``, disjoint.

    Raises:
      ValueError: no meaning would be left to train on.
    """
    if not 0 < num_held_out < len(meanings()):
        raise ValueError(f"num_held_out must be between 1 and {len(meanings()) - 1}, got {num_held_out}")
    order = np.random.default_rng(seed).permutation(len(meanings()))
    shuffled = [meanings()[i] for i in order]
    return shuffled[num_held_out:], shuffled[:num_held_out]


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Every token: the end, the sign to speak, a token per concept of a slot, and the words."""
    concepts = [f"<{name} {index}>" for name, slot in SLOTS.items() for index in range(len(slot))]
    texts = [f"the was by {JOIN}", *(synonym for slot in SLOTS.values() for synonyms in slot for synonym in synonyms)]
    return (END, SAY, *concepts, *sorted({word for text in texts for word in text.split()}))


@functools.cache
def _ids() -> dict[str, int]:
    return {token: index for index, token in enumerate(vocabulary())}


def encode_story(story: Story) -> list[int]:
    """The prompt: four concepts for each meaning, and the sign to speak."""
    return [_ids()[f"<{name} {getattr(meaning, name)}>"] for meaning in story for name in SLOTS] + [_ids()[SAY]]


def encode_sentence(sentence: str) -> list[int]:
    """Word ids, and the end."""
    return [_ids()[word] for word in (*sentence.split(), END)]


def decode_sentence(tokens: Sequence[int]) -> str:
    """Words up to the end; tokens that are no words are shown as they are."""
    words = [vocabulary()[token] for token in tokens]
    return " ".join(words[: words.index(END)] if END in words else words)
