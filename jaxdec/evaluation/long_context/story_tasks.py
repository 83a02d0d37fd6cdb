"""Three questions about stories (:mod:`jaxdec.evaluation.long_context.story`), after The Sparse Frontier.

    retrieval   what happened in some chapters: where, with whom, what was bought    low dispersion; scope by queries
    multi-hop   which thing was bought last before another one                       high dispersion, low scope
    filtering   in which chapters nothing was bought                                 low dispersion, high scope

Nawrot et al. 2025, arXiv 2504.17768.
"""

import random
from collections.abc import Callable, Sequence

from jaxdec.evaluation.long_context.sample import Count, Sample, check_sizes, count_words, prompt_text
from jaxdec.evaluation.long_context.story import INTRO, Chapter, story, text_of
from jaxdec.evaluation.long_context.story_templates import HERO

NUM_CANDIDATES = 8
ASPECTS: dict[str, Callable[[Chapter], str]] = {
    f"Which place did {HERO} visit in chapter {{number}}?": lambda chapter: chapter.place,
    f"Whom did {HERO} meet in chapter {{number}}?": lambda chapter: chapter.person,
    f"What did {HERO} buy in chapter {{number}}?": lambda chapter: str(chapter.bought),
}


def story_retrieval(
    budget: int, seed: int, *, count: Count = count_words, ask: str = "both", num_queries: int = 4
) -> Sample:
    """Places, people and things by chapter; graded by the share of lines that are right.

    Args:
      budget: tokens of the prompt, as ``count`` counts them.
      seed: equal seeds give equal samples.
      count: length of a text.
      ask: where the question stands: ``"both"``, ``"before"`` or ``"after"`` the text.
      num_queries: questions, each about a chapter of its own; as many as there are chapters, at most.

    Raises:
      ValueError: an argument out of range, or a budget too small.
    """
    check_sizes(budget, ask, num_queries=num_queries)

    def question(chapters: Sequence[Chapter], draw: random.Random):
        if len(chapters) < num_queries:
            raise ValueError(
                f"budget must be enough for {num_queries} chapters; {budget} is enough for {len(chapters)}"
            )
        chosen = draw.sample(chapters, num_queries)
        asked = [(draw.choice(list(ASPECTS)), chapter) for chapter in chosen]
        lines = [f"{n}. {text.format(number=chapter.number)}" for n, (text, chapter) in enumerate(asked, 1)]
        answers = [ASPECTS[text](chapter) for text, chapter in asked]
        others = {ASPECTS[asked[0][0]](chapter) for chapter in chapters} - {answers[0]}
        return "\n".join(lines), answers, f"{asked[0][0].format(number=chosen[0].number)} Answer: ", sorted(others)

    return _sample("story_retrieval", "lines", "Answer with one line per question, like this: 1. answer",
                   question, budget, seed, count, ask)  # fmt: skip


def story_multihop(budget: int, seed: int, *, count: Count = count_words, ask: str = "both") -> Sample:
    """The thing bought last before another one; graded as right or wrong.

    Args:
      budget: see :func:`story_retrieval`.
      seed: see there.
      count: see there.
      ask: see there.

    Raises:
      ValueError: an argument out of range, or a budget too small for two chapters.
    """
    check_sizes(budget, ask)

    def question(chapters: Sequence[Chapter], draw: random.Random):
        bought = [str(chapter.bought) for chapter in chapters]
        if len(bought) < 2:
            raise ValueError(f"budget must be enough for 2 chapters; {budget} is enough for {len(bought)}")
        later = draw.randrange(1, len(bought))
        answer = bought[later - 1]
        others = [item for place, item in enumerate(bought) if place not in (later - 1, later)]
        text = f"Which thing did {HERO} buy last before buying {bought[later]}?"
        return text, [answer], f"The last thing that {HERO} bought before {bought[later]} was ", others

    return _sample("story_multihop", "exact", "Answer with the thing alone.", question, budget, seed, count, ask)


def story_filtering(
    budget: int, seed: int, *, count: Count = count_words, ask: str = "both", num_without: int = 3
) -> Sample:
    """Chapters without a purchase; graded by intersection over union of their numbers.

    Args:
      budget: see :func:`story_retrieval`.
      seed: see there.
      count: see there.
      ask: see there.
      num_without: chapters without a purchase.

    Raises:
      ValueError: an argument out of range, or a budget too small for one chapter more.
    """
    check_sizes(budget, ask, num_without=num_without)

    def question(chapters: Sequence[Chapter], draw: random.Random):
        del draw
        answers = [str(chapter.number) for chapter in chapters if chapter.bought is None]
        others = [str(chapter.number) for chapter in chapters if chapter.bought is not None]
        text = f"In which chapters did {HERO} buy nothing? There are exactly {num_without} of them."
        return text, answers, f"{HERO} bought nothing in chapter ", others

    return _sample("story_filtering", "set", "Answer with the numbers of the chapters, separated by commas.",
                   question, budget, seed, count, ask, without=num_without)  # fmt: skip


def _sample(
    task: str,
    grading: str,
    answer_format: str,
    question: Callable[[Sequence[Chapter], random.Random], tuple[str, list[str], str, list[str]]],
    budget: int,
    seed: int,
    count: Count,
    ask: str,
    without: int = 0,
) -> Sample:
    """Tell a story for what the question leaves of the budget. The question depends on the story: it takes two tries."""
    left = budget - count(prompt_text(INTRO, "", "", answer_format, ask))
    while True:
        if left < 1:
            raise ValueError(f"budget must be enough for a story and the question; got {budget}")
        chapters = story(left, f"{task} {seed}", count, without)
        draw = random.Random(f"{task} question {seed}")
        text, answers, cue, others = question(chapters, draw)
        prompt = prompt_text(INTRO, text_of(chapters), text, answer_format, ask)
        over = count(prompt) - budget
        if over <= 0:
            wrong = draw.sample(others, min(NUM_CANDIDATES - 1, len(others)))
            return Sample(task, prompt, tuple(answers), grading, cue, (answers[0], *wrong))
        left -= over
