"""Retrieval tasks in a few dozen symbols, for models so small that they are trained in minutes.

The three RULER tasks that The Sparse Frontier runs (Nawrot et al. 2025, arXiv 2504.17768; Hsieh et al. 2024, arXiv 2404.06654),
with a token for a word. A statement is ``SET a b``; noise tokens fill the prompt to its length.

    needle   pairs ``SET key value`` in noise; say the value behind each of some keys
    track    chains ``SET x_0 x_1``, ``SET x_1 x_2``, ... in any order, in noise; say x_1, x_2, ... behind x_0
    count    a list of words, some of them ``ratio`` times as often as the others; say those, in any order

A text is a prompt of exactly ``length`` tokens, ``BOS task ... ASK task [what is asked]``, and behind it ``ANSWER`` and the
answer, of which some tokens are given and the others are to be said. The answer lies behind the prompt, so that what a cache
forgets of the prompt, or does not read, can be missed. With ``asked`` the prompt says what will be asked for.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

PAD, BOS, SET, ASK, ANSWER = range(5)
TASKS = ("needle", "track", "count")
FIRST_TASK = 5
FIRST_NOISE = FIRST_TASK + len(TASKS)
NUM_NOISE = 8
FIRST_SYMBOL = FIRST_NOISE + NUM_NOISE
NUM_SYMBOLS = 48
VOCAB_SIZE = FIRST_SYMBOL + NUM_SYMBOLS


class TokenSample(NamedTuple):
    """One text.

    Attributes:
      task: one of :data:`TASKS`.
      prompt: token ids.
      answer: token ids behind the prompt.
      given: for each token of the answer, whether it is fed as it is; the others are to be said.
      ordered: whether each token has its place. The places of others are filled in any order.
    """

    task: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    given: tuple[bool, ...]
    ordered: bool


@dataclasses.dataclass(frozen=True)
class TokenTaskSizes:
    """How many things there are in a prompt.

    Attributes:
      pairs: of a needle prompt, at most 24.
      queries: keys asked for, at most ``pairs``.
      chains: of a tracking prompt.
      hops: statements of a chain; a prompt has ``chains * (hops + 1)`` symbols, at most 48.
      words: different ones of a counting prompt, at most 48.
      common: those that are more frequent, fewer than ``words``.
      ratio: how much more frequent.
    """

    pairs: int = 16
    queries: int = 4
    chains: int = 4
    hops: int = 4
    words: int = 32
    common: int = 4
    ratio: int = 4

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if 2 * self.pairs > NUM_SYMBOLS:
            raise ValueError(f"pairs must be at most {NUM_SYMBOLS // 2}, got {self.pairs}")
        if self.queries > self.pairs:
            raise ValueError(f"queries must be at most pairs, {self.pairs}; got {self.queries}")
        if self.chains * (self.hops + 1) > NUM_SYMBOLS:
            raise ValueError(
                f"chains * (hops + 1) must be at most {NUM_SYMBOLS}; got chains {self.chains}, hops {self.hops}"
            )
        if not self.common < self.words <= NUM_SYMBOLS:
            raise ValueError(
                f"words must be at most {NUM_SYMBOLS} and more than common, {self.common}; got {self.words}"
            )
        if self.ratio < 2:
            raise ValueError(f"ratio must be at least 2, got {self.ratio}")


def token_sample(
    task: str, length: int, rng: np.random.Generator, sizes: TokenTaskSizes = TokenTaskSizes(), *, asked: bool = True
) -> TokenSample:
    """One text of a task.

    Args:
      task: one of :data:`TASKS`.
      length: tokens of the prompt.
      rng: where all draws come from: equal generators give equal texts.
      sizes: see there.
      asked: whether the prompt names what is asked for; of ``count`` it always does.

    Raises:
      ValueError: an unknown task, or a prompt too short for what must be in it.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}; got {task!r}")
    return MAKERS[task](length, rng, sizes, asked)


def token_samples(
    task: str, length: int, count: int, seed: int, sizes: TokenTaskSizes = TokenTaskSizes(), *, asked: bool = True
) -> list[TokenSample]:
    """``count`` texts of a task; the first ones do not depend on ``count``."""
    number = TASKS.index(task) if task in TASKS else 0
    return [
        token_sample(task, length, np.random.default_rng((seed, number, length, row)), sizes, asked=asked)
        for row in range(count)
    ]


def score(sample: TokenSample, said: Sequence[int]) -> float:
    """Share of the places that are filled rightly, 0 to 1.

    Args:
      sample: the text.
      said: a token for each place that is not given. Too few count as wrong, and what comes twice counts once.
    """
    gold = [token for token, given in zip(sample.answer, sample.given) if not given]
    if sample.ordered:
        return sum(one == two for one, two in zip(gold, said)) / len(gold)
    return len(set(gold) & set(said[: len(gold)])) / len(gold)


def chance(task: str, sizes: TokenTaskSizes = TokenTaskSizes()) -> float:
    """Expected score of one who says, at every place, any symbol that could be an answer by its kind.

    A value of the prompt (``needle``), a symbol of a chain (``track``), as many different words as are asked for (``count``).
    """
    return {
        "needle": 1 / sizes.pairs,
        "track": 1 / (sizes.chains * (sizes.hops + 1)),
        "count": sizes.common / sizes.words,
    }[task]


def _needle(length: int, rng: np.random.Generator, sizes: TokenTaskSizes, asked: bool) -> TokenSample:
    drawn = _symbols(rng, 2 * sizes.pairs)
    keys, values = drawn[: sizes.pairs], drawn[sizes.pairs :]
    queries = rng.permutation(sizes.pairs)[: sizes.queries]
    prompt = _prompt("needle", length, rng, np.stack([keys, values], axis=1), keys[queries] if asked else None)
    answer = [ANSWER, *np.stack([keys[queries], values[queries]], axis=1).reshape(-1).tolist()]
    return TokenSample("needle", prompt, tuple(answer), (True, *(True, False) * sizes.queries), ordered=True)


def _track(length: int, rng: np.random.Generator, sizes: TokenTaskSizes, asked: bool) -> TokenSample:
    chains = _symbols(rng, sizes.chains * (sizes.hops + 1)).reshape(sizes.chains, -1)
    statements = np.stack([chains[:, :-1], chains[:, 1:]], axis=2).reshape(-1, 2)
    prompt = _prompt("track", length, rng, statements, chains[0, :1] if asked else None)
    answer = (ANSWER, *chains[0].tolist())
    return TokenSample("track", prompt, answer, (True, True, *(False,) * sizes.hops), ordered=True)


def _count(length: int, rng: np.random.Generator, sizes: TokenTaskSizes, asked: bool) -> TokenSample:
    del asked
    words = _symbols(rng, sizes.words)
    room = length - 4
    rare = room // (sizes.words + (sizes.ratio - 1) * sizes.common)
    if rare < 1:
        raise ValueError(f"length must be at least {4 + sizes.words + (sizes.ratio - 1) * sizes.common}; got {length}")
    times = np.where(np.arange(sizes.words) < sizes.common, sizes.ratio * rare, rare)
    listed = np.repeat(words, times)
    filled = rng.permutation(np.concatenate([listed, _noise(rng, room - listed.size)]))
    mark = FIRST_TASK + TASKS.index("count")
    prompt = (BOS, mark, *filled.tolist(), ASK, mark)
    answer = (ANSWER, *words[: sizes.common].tolist())
    return TokenSample("count", prompt, answer, (True, *(False,) * sizes.common), ordered=False)


MAKERS: Mapping[str, Callable[..., TokenSample]] = {"needle": _needle, "track": _track, "count": _count}


def _symbols(rng: np.random.Generator, count: int) -> np.ndarray:
    return FIRST_SYMBOL + rng.permutation(NUM_SYMBOLS)[:count]


def _noise(rng: np.random.Generator, count: int) -> np.ndarray:
    return FIRST_NOISE + rng.integers(0, NUM_NOISE, count)


def _prompt(
    task: str, length: int, rng: np.random.Generator, statements: np.ndarray, asked: np.ndarray | None
) -> tuple[int, ...]:
    """Statements in random order, noise around them, the question behind."""
    mark = FIRST_TASK + TASKS.index(task)
    question = [ASK, mark, *([] if asked is None else asked.tolist())]
    room = length - 2 - len(question)
    noise = room - 3 * len(statements)
    if noise < 0:
        raise ValueError(f"length must be at least {length - noise} for {len(statements)} statements; got {length}")
    # A piece is a statement or a noise token.
    pieces = rng.permutation(len(statements) + noise)
    is_statement = pieces < len(statements)
    width = np.where(is_statement, 3, 1)
    start = np.cumsum(width) - width
    filled = _noise(rng, room)
    at, which = start[is_statement], pieces[is_statement]
    filled[at] = SET
    filled[at + 1], filled[at + 2] = statements[which, 0], statements[which, 1]
    return (BOS, mark, *filled.tolist(), *question)
