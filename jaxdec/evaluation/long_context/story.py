"""Stories of a merchant who goes from place to place, meets somebody in each, buys and sells.

The narratives of The Sparse Frontier (Nawrot et al. 2025, arXiv 2504.17768) with templates of our own. A chapter has a place,
a person, an event, talk, one thing bought unless it is among those without a purchase, and with probability 1/2 one thing sold
that was bought before and not sold since. Things are all different.

The reference takes purchases out of finished stories, so that things can be sold there that were never bought. Here what is
sold is chosen after it is known which chapters have a purchase.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterator, Set

from jaxdec.evaluation.long_context.sample import Count
from jaxdec.evaluation.long_context.story_templates import (
    ARRIVING,
    BUYING,
    EVENTS,
    HERO,
    LEAVING,
    MATERIALS,
    MEETING,
    PEOPLE,
    PLACES,
    SELLING,
    STATES,
    TALKING,
    THINGS,
    WATCHING,
)

INTRO = f"Below is a story in chapters about {HERO}, who travels and trades. Read it and answer the question."
MOST_CHAPTERS = 400
"""Places and people, and things, are different in so many chapters."""


@dataclasses.dataclass(frozen=True)
class Chapter:
    """What happens in a chapter.

    Attributes:
      number: from 1.
      place: where.
      person: whom the hero meets; no two chapters have place and person in common.
      bought: the thing bought, or None.
      sold: the thing sold, or None.
      text: of the chapter.
    """

    number: int
    place: str
    person: str
    bought: str | None
    sold: str | None
    text: str


def story(budget: int, seed: int | str, count: Count, without: int = 0) -> tuple[Chapter, ...]:
    """As many chapters as fit.

    Args:
      budget: tokens of the text, as ``count`` counts them.
      seed: equal seeds give equal stories.
      count: length of a text.
      without: chapters without a purchase, drawn at random; fewer than there are chapters.

    Raises:
      ValueError: no room for ``without + 1`` chapters.
    """
    fitting, room = 0, budget
    for chapter in _tell(seed, frozenset()):
        room -= count(chapter.text)
        if room < 0:
            break
        fitting += 1
    while True:
        if fitting <= without:
            raise ValueError(f"budget must be enough for {without + 1} chapters; {budget} is enough for {fitting}")
        empty = frozenset(random.Random(f"without {seed}").sample(range(1, fitting + 1), without))
        chapters = told(fitting, seed, empty)
        if count(text_of(chapters)) <= budget:
            return chapters
        fitting -= 1


def told(num_chapters: int, seed: int | str, empty: Set[int]) -> tuple[Chapter, ...]:
    """The story of so many chapters, those numbered in ``empty`` without a purchase."""
    return tuple(itertools.islice(_tell(seed, empty), num_chapters))


def _tell(seed: int | str, empty: Set[int]) -> Iterator[Chapter]:
    draw = random.Random(f"story {seed}")
    meetings = draw.sample([(place, person) for place in PLACES for person in PEOPLE], MOST_CHAPTERS)
    things = draw.sample([(a, b, c) for a in STATES for b in MATERIALS for c in THINGS], MOST_CHAPTERS)
    owned = []
    for number in range(1, MOST_CHAPTERS + 1):
        draw = random.Random(f"chapter {number} {seed}")  # no chapter depends on the draws of those before
        place, person = meetings[number - 1]
        bought = None if number in empty else thing(*things[number - 1])
        sold = draw.choice(owned) if owned and draw.random() < 0.5 else None
        parts = [ARRIVING, WATCHING, MEETING, *(TALKING for _ in range(2))]
        parts += [BUYING] * (bought is not None) + [SELLING] * (sold is not None) + [LEAVING]
        sentences = []
        for templates in parts:
            item = bought if templates is BUYING else sold
            words = {"hero": HERO, "place": place, "person": person, "event": draw.choice(EVENTS), "item": item}
            sentences.append(draw.choice([t for t in templates if t not in sentences]).format(**words))
        if sold is not None:
            owned.remove(sold)
        if bought is not None:
            owned.append(bought)
        yield Chapter(number, place, person, bought, sold, f"Chapter {number}. {' '.join(sentences)}")


def thing(state: str, material: str, kind: str) -> str:
    """A thing with its article."""
    return f"{'an' if state[0] in 'aeiou' else 'a'} {state} {material} {kind}"


def text_of(chapters: tuple[Chapter, ...]) -> str:
    """The chapters, an empty line between them."""
    return "\n\n".join(chapter.text for chapter in chapters)
