"""The arms: a drafter, the text its table was built from, and what it knows of the prompt.

One thing is varied at a time around *adaptive own*: exact best-first search for 16 nodes of depth up to 4 in an adaptive table
on top of one built from the target's own texts.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.papers.adaptive_drafting.corpora import FOREIGN, NONE, OWN
from experiments.papers.adaptive_drafting.greedy_chain import GreedyChain
from jaxdec.decoding.speculative import Aded, PromptLookup, Speculative, puct
from jaxdec.decoding.speculative.engine import Drafter

DEPTH = 4
NODES = 16
published = functools.partial(Aded, learn_prompt=False)  # the library's default learns the prompt first
REWARDS = puct.REWARDS


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
      name: unique.
      drafter: of the method.
      corpus: what the table is built from: ``"foreign"``, ``"own"`` or ``"none"``.
      knows_prompt: whether the adaptive table begins with the prompt's tri-grams, each added once.
      few: whether it is run on some of the prompts only, to save time.
    """

    name: str
    drafter: Drafter
    corpus: str = OWN
    knows_prompt: bool = False
    few: bool = False

    @property
    def method(self) -> Speculative:
        """With greedy, exact verification."""
        return Speculative(self.drafter)

    @property
    def slug(self) -> str:
        """For files."""
        return self.name.replace(" ", "_").replace(",", "").replace("=", "")


def puct_name(nodes: int, reward: str, c1: float) -> str:
    """Name of an arm of the tree search."""
    return f"PUCT {reward} c1={c1:g}, {nodes} nodes"


def best_first_name(nodes: int) -> str:
    """Name of an arm of exact search; with :data:`NODES` it is the arm everything is varied around."""
    return "adaptive own" if nodes == NODES else f"best-first, {nodes} nodes"


def chain_name(nodes: int) -> str:
    """Name of an arm without a search."""
    return f"chain, {nodes} nodes"


def table_arms() -> list[Arm]:
    """Where guesses come from."""
    static, adaptive = published(NODES, DEPTH, window=0), published(NODES, DEPTH)
    return [
        Arm("prompt lookup", PromptLookup(), NONE),
        Arm("prompt lookup, latest", PromptLookup(prefer="latest"), NONE),
        Arm("static foreign", static, FOREIGN),
        Arm("adaptive foreign", adaptive, FOREIGN),
        Arm("static own", static),
        Arm("adaptive own", adaptive),
        Arm("adaptive cold", adaptive, NONE),
    ]


def search_arms(nodes: Sequence[int], constants: Sequence[float]) -> list[Arm]:
    """How the table is searched: exact, tree search with each reward and constant, no search."""
    found = []
    for count in nodes:
        if count != NODES:
            found.append(Arm(best_first_name(count), published(count, DEPTH), few=True))
        for reward in REWARDS:
            for c1 in constants:
                settings = puct.Settings(c1=c1, reward=reward)
                drafter = published(count, DEPTH, search="puct", settings=settings)
                found.append(Arm(puct_name(count, reward, c1), drafter, few=True))
    chains = [DEPTH, *(count for count in nodes if count <= NODES)]  # a chain of 64 nodes is of no use to anybody
    return found + [Arm(chain_name(count), GreedyChain(count, count, learn_prompt=False), few=True) for count in chains]


def design_arms() -> list[Arm]:
    """What might be done better than in the paper: deeper trees, larger steps, the prompt learnt."""
    adaptive = published(NODES, DEPTH)
    return [
        Arm("depth 8", published(NODES, 8), few=True),
        Arm("step 0.2", dataclasses.replace(adaptive, step=0.2), few=True),
        Arm("step 1", dataclasses.replace(adaptive, step=1.0), few=True),
        Arm("prompt learnt", adaptive, knows_prompt=True),
        Arm("prompt learnt, step 1", dataclasses.replace(adaptive, step=1.0), knows_prompt=True),
        Arm("prompt learnt, step 1, depth 8", published(NODES, 8, step=1.0), knows_prompt=True),
        Arm("foreign, prompt learnt", adaptive, FOREIGN, knows_prompt=True),
        Arm("cold, prompt learnt", adaptive, NONE, knows_prompt=True),
        Arm("library default", Aded(NODES, DEPTH)),
    ]


def arms_of(config: Mapping[str, Any]) -> list[Arm]:
    """All arms that every prompt is decoded by, on its own."""
    designs = design_arms() if config["designs"] else []
    return [*table_arms(), *search_arms(config["nodes"], config["constants"]), *designs]
