"""One question about a long text, what is right, and how an answer is graded.

The prompts follow The Sparse Frontier (Nawrot et al. 2025, arXiv 2504.17768): what is asked stands before and behind the text,
so that a rule that scores the last queries of a prompt knows what is looked for. ``ask`` leaves one of the two out.

Unlike there, an answer that is empty, or that cannot be read, counts as 0: leaving it out flatters models that fail.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

Count = Callable[[str], int]
ASK = ("both", "before", "after")


@dataclasses.dataclass(frozen=True)
class Sample:
    """A prompt and its right answers.

    Attributes:
      task: its name.
      prompt: text and question, of at most the length asked for.
      answers: right ones.
      grading: ``"lines"``: numbered answers, each at its place; ``"exact"``: one answer; ``"set"``: in any order.
      cue: how an answer to a part of the question begins, behind the prompt.
      candidates: ways to go on behind ``cue``; the first one is right. For models too small to answer in free text: they are to
        find it likelier than the others.
    """

    task: str
    prompt: str
    answers: tuple[str, ...]
    grading: str
    cue: str
    candidates: tuple[str, ...]


def count_words(text: str) -> int:
    """Words between spaces: a length that needs no tokenizer."""
    return len(text.split())


def check_sizes(budget: int, ask: str, **sizes: int):
    """Raise ValueError for a budget or a size below 1, or an unknown place of the question."""
    for name, value in {"budget": budget, **sizes}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if ask not in ASK:
        raise ValueError(f"ask must be one of {', '.join(ASK)}; got {ask!r}")


def prompt_text(intro: str, text: str, question: str, answer_format: str, ask: str) -> str:
    """Lay out a prompt."""
    before = f"\n\n{question}" if ask in ("both", "before") else ""
    after = f"\n\n{question}" if ask in ("both", "after") else ""
    return f"{intro}{before}\n\n<text>\n{text}\n</text>{after}\n{answer_format}"


def most_that_fits(render: Callable[[int], str], most: int, budget: int, count: Count) -> int:
    """The largest ``n <= most`` for which ``render(n)`` is not longer than ``budget``; lengths must rise with ``n``.

    Raises:
      ValueError: not even ``render(0)`` fits.
    """
    needed = count(render(0))
    if needed > budget:
        raise ValueError(f"budget must be at least {needed} for what must be in the text; got {budget}")
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(render(middle)) <= budget else (low, middle - 1)
    return low


def grade(sample: Sample, said: str) -> float:
    """How right an answer is, 0 to 1: the share of lines that are, 1 or 0, or intersection over union of the sets.

    Args:
      sample: the question.
      said: the model's answer; only what is in the last ``<answer>`` tag counts if there is one.
    """
    tagged = re.findall(r"<answer>(.*?)</answer>", said, re.DOTALL | re.IGNORECASE)
    said = tagged[-1] if tagged else said
    if sample.grading == "set":
        found, right = set_of(said), set_of(", ".join(sample.answers))
        return len(found & right) / len(found | right)
    if sample.grading == "exact":
        return float(normalised(said) == normalised(sample.answers[0]))
    lines = numbered(said)
    return sum(lines.get(place) == normalised(answer) for place, answer in enumerate(sample.answers, 1)) / len(
        sample.answers
    )


def normalised(text: str) -> str:
    """Lower case, single spaces, no article in front, no full stop behind."""
    text = re.sub(r"\s+", " ", text.lower()).strip().rstrip(".").strip()
    return re.sub(r"^(the|a|an)\s+", "", text)


def numbered(text: str) -> dict[int, str]:
    """Answers by their numbers, normalised; of several with one number the first."""
    found: dict[int, str] = {}
    for line in text.splitlines():
        if match := re.match(r"\s*(\d+)[.:)]\s*(\S.*)$", line):
            found.setdefault(int(match.group(1)), normalised(match.group(2)))
    return found


def set_of(text: str) -> set[str]:
    """Single words and numbers, in lower case, without numbers of a list and the words that name the kind of thing."""
    lines = [re.sub(r"^\s*\d+[.:)]\s+(?=\S)", "", line) for line in text.splitlines()]
    return {
        word
        for word in re.findall(r"\w+", " ".join(lines).lower())
        if word not in ("var", "chapter", "chapters", "and")
    }


def mean_grade(samples: Sequence[Sample], said: Sequence[str]) -> float:
    """Mean over samples; every sample counts.

    Raises:
      ValueError: not one answer for each of at least one sample.
    """
    if len(samples) != len(said) or not samples:
        raise ValueError(
            f"said must have one answer for each of at least one sample; got {len(said)} for {len(samples)}"
        )
    return sum(map(grade, samples, said)) / len(samples)
