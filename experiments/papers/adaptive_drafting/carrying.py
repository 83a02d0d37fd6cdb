"""What an adaptive table gains from prompt to prompt of one domain: the table of one text begins the next.

Prompts differ in how easily they are drafted, so that the place of a prompt in one fixed order says little. They are therefore
taken in several orders, each prompt is compared with itself under the static table, and trends are fitted over all orders;
their intervals come from drawing prompts anew, each with all its places.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.papers.adaptive_drafting.arms import Arm
from experiments.papers.adaptive_drafting.greedy_texts import Item
from experiments.papers.adaptive_drafting.replay import Room, counts_of, replay
from experiments.papers.progress import Advance
from jaxdec.decoding.speculative import Aded
from jaxdec.decoding.speculative.aded import ADAPTIVE
from jaxdec.evaluation import Interval
from jaxdec.typing import PyTree

CARRIED_CAPACITY = 16384
"""Places of a table that learns a whole domain: several times the pairs of all its texts."""


def orders_of(count: int, orders: int, seed: int) -> list[list[int]]:
    """The order of the file, its reverse, and orders drawn at random: each prompt comes early in some and late in others."""
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(count).tolist() for _ in range(orders)]
    return [list(range(count)), list(range(count))[::-1], *drawn][:orders]


def carry(
    arm: Arm,
    items: Sequence[Item],
    room: Room,
    vocab_size: int,
    companions: Callable[[Item], Mapping[str, PyTree]],
    advance: Advance,
) -> list[dict[str, Any]]:
    """Replay prompts in the order given, each beginning with what those before it taught."""
    drafter = arm.drafter
    assert isinstance(drafter, Aded)
    found, learnt = [], {}
    for index, item in enumerate(items):
        state = replay(arm.method, item, room, vocab_size, {**companions(item), **learnt})
        learnt = {ADAPTIVE: drafter.learnt(state.drafter)}
        found.append({**counts_of(item, state), "index": index})
        advance("")
    return found


def slope_interval(
    points: Mapping[str, Sequence[tuple[int, float]]], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Slope of a straight line through all points, with its bootstrap interval (95 %).

    Args:
      points: by prompt, its ``(index, value)`` in each order.
      resamples: how often the prompts are drawn again, with replacement.
      seed: of these draws.
    """
    x, y = (np.array([[point[axis] for point in own] for own in points.values()], float) for axis in (0, 1))

    rng = np.random.default_rng(seed)
    count = len(x)
    drawn = _slopes(x, y, rng.integers(0, count, (resamples, count)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(_slopes(x, y, np.arange(count)[None])[0]), float(low), float(high))


def _slopes(x: np.ndarray, y: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Least squares through the points of each row of chosen prompts."""
    index, value = (axis[chosen].reshape(len(chosen), -1) for axis in (x, y))
    index = index - index.mean(1, keepdims=True)
    return (index * value).sum(1) / np.maximum((index**2).sum(1), 1e-12)
