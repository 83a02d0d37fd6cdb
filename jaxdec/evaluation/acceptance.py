"""How speculative decoding went: tokens per call, acceptance by depth, wasted nodes, and the speed that they promise.

Leviathan et al. 2023 (arXiv 2211.17192). With ``a`` the chance that a guess is accepted given that the one before was, a chain
of ``g`` guesses yields (equation 1, one target token included)

    E = 1 + a + a^2 + ... + a^g = (1 - a^(g + 1)) / (1 - a)

tokens per call. With ``v`` the time of the call and ``c`` that of drafting, both in plain steps, decoding is ``E / (v + c)``
times as fast as plain decoding (theorem 3.8, where the authors take ``v = 1``).

*Tokens per call* count what the target emits too, so that plain decoding has 1: the "mean accepted tokens" of Spec-Bench (Xia
et al. 2024, arXiv 2401.07851).
"""

import dataclasses
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class DraftCounts:
    """What a speculative method counted while it decoded one text, or several together.

    Attributes:
      new_tokens: emitted.
      target_calls: forward passes of the target, the prefill included.
      drafted: steps in which a node of each depth (1, 2, ...) was fed.
      accepted: steps in which a node of each depth was accepted.
      fed: nodes fed beside the root, padding included.
    """

    new_tokens: int
    target_calls: int
    drafted: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()
    fed: int = 0

    def __post_init__(self):
        if len(self.drafted) != len(self.accepted):
            raise ValueError(f"drafted has {len(self.drafted)} depths, accepted {len(self.accepted)}")
        for depth, (drafted, accepted) in enumerate(zip(self.drafted, self.accepted), start=1):
            if not 0 <= accepted <= drafted:
                raise ValueError(f"depth {depth}: accepted must be from 0 to drafted ({drafted}), got {accepted}")
        if sum(self.accepted) > self.fed:
            raise ValueError(f"accepted sums to {sum(self.accepted)}, more than the {self.fed} nodes fed")

    @property
    def tokens_per_call(self) -> float:
        """``new_tokens / target_calls``; nan before the first call."""
        return self.new_tokens / self.target_calls if self.target_calls else float("nan")

    @property
    def acceptance(self) -> list[float | None]:
        """``accepted / drafted`` by depth; None where nothing was fed."""
        return [accepted / drafted if drafted else None for drafted, accepted in zip(self.drafted, self.accepted)]

    @property
    def wasted(self) -> int:
        """Nodes fed for nothing."""
        return self.fed - sum(self.accepted)

    @property
    def wasted_share(self) -> float | None:
        """Of the nodes fed; None if there were none."""
        return self.wasted / self.fed if self.fed else None

    @property
    def chain_chance(self) -> float | None:
        """``a`` of a chain: guesses accepted, of those that follow an accepted one. None if nothing was drafted.

        Of chains that all have their full length: depth ``d`` is then tested whenever depth ``d - 1`` was accepted.
        """
        tested = sum(self.drafted[:1]) + sum(self.accepted[:-1])
        return sum(self.accepted) / tested if tested else None


def pooled(counts: Iterable[DraftCounts]) -> DraftCounts:
    """The counts of several texts together; depths that some do not have count as 0."""
    counts = list(counts)

    def by_depth(name: str) -> tuple[int, ...]:
        rows = [getattr(one, name) for one in counts]
        return tuple(sum(row[d] for row in rows if d < len(row)) for d in range(max(map(len, rows), default=0)))

    totals = {name: sum(getattr(one, name) for one in counts) for name in ("new_tokens", "target_calls", "fed")}
    return DraftCounts(**totals, drafted=by_depth("drafted"), accepted=by_depth("accepted"))


def expected_tokens_per_call(chances: Sequence[float]) -> float:
    """``1 + a_1 + a_1 a_2 + ...``: tokens per call if each depth is accepted with its chance, given the one before.

    Args:
      chances: ``a_d`` by depth; ``[a] * g`` for the formula above.

    Raises:
      ValueError: a chance outside [0, 1].
    """
    expected, reached = 1.0, 1.0
    for chance in chances:
        if not 0 <= chance <= 1:
            raise ValueError(f"chances must be in [0, 1], got {chance}")
        reached *= chance
        expected += reached
    return expected


def predicted_speedup(tokens_per_call: float, step_cost: float, drafting_cost: float = 0.0) -> float:
    """``E / (v + c)``: how many times faster than plain decoding.

    Args:
      tokens_per_call: ``E``, measured or expected.
      step_cost: ``v``, time of a pass over root and tree, in plain steps.
      drafting_cost: ``c``, time of drafting, in plain steps.

    Raises:
      ValueError: costs without sense.
    """
    if not (step_cost > 0 and drafting_cost >= 0):
        raise ValueError(f"step_cost must be > 0 and drafting_cost >= 0, got {step_cost} and {drafting_cost}")
    return tokens_per_call / (step_cost + drafting_cost)
