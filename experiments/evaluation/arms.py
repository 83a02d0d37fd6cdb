"""What is compared: decoding methods with their options, each under a name that stays.

Trees of ``tree_size="auto"`` are what a user gets who wants speed. The arms of a fixed number of nodes say how many tokens a
call yields; some of these are decoded once and not timed, as they are far from paying on a processor.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdec.decoding.methods import AUTO_NODES, build_method
from jaxdec.decoding.speculative import Speculative, TreeSizes

BASELINE = "greedy"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One method under test.

    Attributes:
      name: stays the same, so that results can be compared.
      about: for the page.
      method: a name of :data:`jaxdec.decoding.methods.METHODS`.
      options: of the method; ``tree_size="auto"`` as for :class:`jaxdec.Run`.
      memory: companion made from the model's own outputs to other prompts: ``"datastore"``, ``"trigram_table"`` or none.
      dtype: of the model, where it is not that of the other arms.
      baseline: the arm whose text and speed it is compared with.
      timed: measured in all rounds; otherwise once, for its tokens per call.
    """

    name: str
    about: str
    method: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    memory: str = ""
    dtype: str = ""
    baseline: str = BASELINE
    timed: bool = True

    @property
    def auto(self) -> bool:
        """Whether each step chooses how many nodes to feed."""
        return self.options.get("tree_size") == "auto"


ARMS = {
    arm.name: arm
    for arm in (
        Arm("greedy", "plain decoding", "greedy"),
        Arm("prompt_lookup", "copies from the text itself, auto size", "prompt_lookup", {"tree_size": "auto"}),
        Arm(
            "suffix_retrieval",
            "looks the text's end up in the collection, auto size",
            "suffix_retrieval",
            {"tree_size": "auto"},
            "datastore",
        ),
        Arm(
            "aded_static",
            "tri-gram table of the collection, auto size",
            "aded",
            {"tree_size": "auto", "window": 0},
            "trigram_table",
        ),
        Arm(
            "aded_adaptive",
            "the same, and learns from the text as it grows",
            "aded",
            {"tree_size": "auto"},
            "trigram_table",
        ),
        Arm("prompt_lookup_7", "the same, always 7 nodes (8 rows with the root)", "prompt_lookup", {"tree_size": 7}),
        Arm(
            "lookahead",
            "n-grams of a Jacobi iteration, few enough for 16 rows",
            "lookahead",
            {"ngram_size": 4, "window_size": 2, "max_guesses": 3},
        ),
        Arm(
            "aded_static_63",
            "tri-gram table of the collection, always 63 nodes (64 rows with the root)",
            "aded",
            {"tree_size": 63, "window": 0},
            "trigram_table",
            timed=False,
        ),
        Arm(
            "aded_adaptive_63",
            "the same, and learns from the text as it grows",
            "aded",
            {"tree_size": 63},
            "trigram_table",
            timed=False,
        ),
        Arm(
            "draft_model",
            "every third layer of the target drafts a chain of four, untrained",
            "draft_model",
            timed=False,
        ),
        Arm("lookahead_56", "lookahead in the authors' sizes for 7B models, 56 nodes", "lookahead", timed=False),
        Arm("int8_greedy", "plain decoding of the int8 model", "greedy", dtype="int8", baseline="int8_greedy"),
        Arm(
            "int8_prompt_lookup",
            "prompt lookup on the int8 model, auto size",
            "prompt_lookup",
            {"tree_size": "auto"},
            dtype="int8",
            baseline="int8_greedy",
        ),
    )
}
DEFAULT_ARMS = tuple(name for name, arm in ARMS.items() if not arm.dtype and name != "lookahead_56")
"""Those of the int8 model, and lookahead in its large sizes, take their time and are left to whoever wants them."""


def choose_arms(names: Sequence[str]) -> list[Arm]:
    """The arms named, each once, behind the baseline that they are compared with: minutes apart, a machine is another.

    Raises:
      ValueError: an unknown name.
    """
    if unknown := [name for name in names if name not in ARMS]:
        raise ValueError(f"--methods must be some of {', '.join(ARMS)}; got {unknown[0]!r}")
    wanted: list[str] = []
    for baseline in dict.fromkeys(ARMS[name].baseline for name in names):
        wanted += [baseline, *(name for name in names if ARMS[name].baseline == baseline)]
    return [ARMS[name] for name in dict.fromkeys(wanted)]


def method_of(arm: Arm, costs: Mapping[int, float]) -> Any:
    """The method object of an arm.

    Args:
      arm: see :class:`Arm`.
      costs: ``T(n) / T(1)`` of passes over ``n`` tokens, for the tree sizes of ``"auto"``; see :func:`auto_rows`.
    """
    if not arm.auto:
        return build_method(arm.method, **arm.options)
    method = build_method(arm.method, **{**arm.options, "tree_size": AUTO_NODES[-1]})
    assert isinstance(method, Speculative)
    return dataclasses.replace(method, sizes=TreeSizes(AUTO_NODES, tuple(costs[n] for n in auto_rows())))


def auto_rows() -> list[int]:
    """Tokens fed by the sizes of ``"auto"``: the root and the nodes."""
    return [n + 1 for n in AUTO_NODES]
