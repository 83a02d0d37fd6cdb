"""Beam search and diverse beam search in plain Python: lists, sorting, and one law ``law(text) -> log-probabilities``."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

Law = Callable[[tuple[int, ...]], Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Text:
    tokens: tuple[int, ...]  # generated ones
    log_prob: float
    running_score: float = 0.0
    score: float = 0.0


@dataclasses.dataclass(frozen=True)
class Found:
    texts: list[Text]  # best first
    groups: list[list[Text]]
    calls: int
    gap: float  # the smallest difference that decided something; below rounding, the outcome is a matter of luck


class Group:
    def __init__(self, width: int):
        self.width = width
        self.running = [Text((), 0.0)]
        self.finished: list[Text] = []
        self.over = False


def gap_of(values: Sequence[float]) -> float:
    ordered = sorted((value for value in values if value > -math.inf), reverse=True)
    return min((a - b for a, b in itertools.pairwise(ordered)), default=math.inf)


def search(
    law: Law,
    prompt: Sequence[int],
    budget: int,
    ends: Sequence[int],
    *,
    num_beams: int,
    num_groups: int = 1,
    diversity_strength: float = 0.0,
    diversity: str = "hamming",
    accumulate: bool = True,
    ngram_size: int = 2,
    embeddings: Sequence[Sequence[float]] | None = None,
    length_penalty: float = 1.0,
    num_return: int | None = None,
    early_stopping: bool | str = "never",
    sibling_penalty: float = 0.0,
) -> Found:
    prompt = tuple(prompt)
    groups = [Group(num_beams // num_groups) for _ in range(num_groups)]
    gap, calls = math.inf, 0
    for time in range(1, budget + 1):
        if all(group.over for group in groups):
            break
        calls += 1
        earlier: list[Text] = []
        for group in groups:
            if group.over:
                continue
            candidates = []
            for parent, text in enumerate(group.running):
                log_probs = law(prompt + text.tokens)
                gains = []
                for token, log_prob in enumerate(log_probs):
                    uses = overlap(
                        diversity, [y.tokens for y in earlier], text.tokens, token, prompt, ngram_size, embeddings
                    )
                    gains.append(log_prob - diversity_strength * uses)
                order = sorted(range(len(gains)), key=lambda token: (-gains[token], token))
                for sibling, token in enumerate(order, start=1):
                    raw = text.log_prob + log_probs[token]
                    running = text.running_score + (gains[token] if accumulate else log_probs[token])
                    selection = text.running_score + gains[token] - sibling_penalty * sibling
                    if selection > -math.inf:
                        candidates.append((selection, parent, token, Text((*text.tokens, token), raw, running)))
            candidates.sort(key=lambda candidate: (-candidate[0], candidate[1], candidate[2]))
            gap = min(gap, gap_of([c[0] for c in candidates[: group.width * (1 + len(ends)) + 1]]))

            def scored(text):
                return dataclasses.replace(text, score=text.log_prob / len(text.tokens) ** length_penalty)

            group.running = [c[3] for c in candidates if c[2] not in ends][: group.width]
            group.finished += [scored(c[3]) for c in candidates[: group.width] if c[2] in ends]
            if time == budget:
                group.finished += [scored(text) for text in group.running]
            group.finished.sort(key=lambda text: -text.score)
            gap = min(gap, gap_of([text.score for text in group.finished]))
            group.finished = group.finished[: group.width]
            earlier += group.running
            full = len(group.finished) == group.width
            if not group.running or time == budget or (full and early_stopping is True):
                group.over = True
            elif full:
                lengths = range(time + 1, budget + 1) if early_stopping == "never" else [time]
                # The most that any running text could reach, if it lost no more probability.
                bound = max(text.log_prob / length**length_penalty for text in group.running for length in lengths)
                group.over = group.finished[-1].score >= bound
                gap = min(gap, abs(group.finished[-1].score - bound))
    texts = sorted((text for group in groups for text in group.finished), key=lambda text: -text.score)
    lists = [group.finished for group in groups]
    return Found(texts[: num_return or num_beams], lists, calls, gap)


def overlap(diversity, earlier, own, token, prompt, ngram_size, embeddings) -> float:
    """How much ``token`` after ``own`` repeats the texts that earlier groups have made at this step."""
    if diversity == "hamming":
        return sum(text[-1] == token for text in earlier)
    if diversity == "cumulative":
        return sum(text.count(token) for text in earlier)
    if diversity == "ngram":
        mine = (*prompt, *own, token)[-ngram_size:]
        total = 0
        for text in earlier:
            whole = (*prompt, *text)
            for end in range(len(prompt) + 1, len(whole) + 1):
                total += end >= ngram_size and whole[end - ngram_size : end] == mine
        return total
    assert diversity == "embedding"
    return sum(max(0.0, cosine(embeddings[token], embeddings[text[-1]])) for text in earlier)


def cosine(a, b) -> float:
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
