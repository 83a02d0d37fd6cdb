"""The methods that are compared, the prompts they decode, and what is counted while they do."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.papers.progress import Progress
from jaxdec.decoding import Autoregressive, Method, Prompt, Sampling
from jaxdec.decoding.loop import UNLIMITED, advance, start
from jaxdec.decoding.prefill import prefill
from jaxdec.decoding.sampling import GREEDY
from jaxdec.decoding.speculative import (
    DraftModel,
    Lookahead,
    PromptLookup,
    Speculative,
    SpeculativeSampling,
    SuffixRetrieval,
    TreeSizes,
)
from jaxdec.evaluation.acceptance import DraftCounts, pooled
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Float, Int

PLAIN = "plain"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One method of the comparison.

    Attributes:
      name: for tables.
      drafter: None is plain decoding.
      draft: name of the draft model, if there is one.
      sizes: numbers of nodes that a step may feed.
      drawn: a chain is drawn from the draft model's law, and judged by the rejection rule; else guesses are its likeliest
        tokens whatever the temperature, and are judged by exact match.
    """

    name: str
    drafter: Any = None
    draft: str = ""
    sizes: TreeSizes | None = None
    drawn: bool = False

    def method(self, sampling: Sampling = GREEDY) -> Method:
        """The decoding method."""
        if self.drafter is None:
            return Autoregressive(sampling)
        if self.drawn:
            return Speculative(dataclasses.replace(self.drafter, sampling=sampling), sampling, SpeculativeSampling())
        return Speculative(self.drafter, sampling, sizes=self.sizes)

    @property
    def slug(self) -> str:
        """For files."""
        return "".join(c if c.isalnum() else "_" for c in self.name)

    @property
    def num_nodes(self) -> int:
        """Nodes of a tree; 0 for plain decoding."""
        return 0 if self.drafter is None else self.drafter.num_nodes

    @property
    def drafting_passes(self) -> list[int]:
        """Tokens of each pass of the draft model in one step: catching up with the text, then a pass a level."""
        if not isinstance(self.drafter, DraftModel):
            return []
        catch_up, levels = self.drafter.max_depth + 1, self.drafter.depths()
        if self.drafter.is_chain:
            return [catch_up] + [1] * (self.drafter.max_depth - 1)
        return [catch_up] + [
            sum(depth <= level for depth in levels) for level in range(1, self.drafter.max_depth)
        ]  # the tree so far is fed anew


def family_arms(config: Mapping[str, Any], draft: str) -> list[Arm]:
    """The arms of the comparison by task family, plain decoding first."""
    lookup, ahead, retrieval, chain = (config[name] for name in ("lookup", "lookahead", "retrieval", "chain"))
    return [
        Arm(PLAIN),
        Arm("prompt lookup", PromptLookup(lookup["num_nodes"], lookup["max_ngram"])),
        Arm("lookahead", Lookahead(ahead["ngram_size"], ahead["window_size"], ahead["max_guesses"])),
        Arm("retrieval", SuffixRetrieval(retrieval["num_nodes"], retrieval["max_depth"])),
        Arm(f"draft chain {chain}", DraftModel((1,) * chain), draft),
        Arm("draft tree", DraftModel(tuple(config["tree"])), draft),
    ]


def pack(prompts: Sequence[Sequence[int]], budget: int, ends: Sequence[int], seed: int) -> Prompt:
    """All prompts in one shape, so that any rows of them share compiled programs."""
    return Prompt.create(prompts, budget, eos_tokens=ends, seed=seed)


def rows_of(prompt: Prompt, rows: Sequence[int]) -> Prompt:
    """Some rows, with the keys that they have."""
    index = jnp.asarray(rows)
    parts = {name: getattr(prompt, name)[index] for name in ("tokens", "length", "max_new_tokens", "keys")}
    return prompt.replace(**parts)


def finished(method: Method, model: LanguageModel, prompt: Prompt) -> Any:
    """The last state."""
    return advance(method, model, start(method, model, prompt), UNLIMITED)


def decode_counted(
    arm: Arm, sampling: Sampling, model: LanguageModel, prompt: Prompt, batch: int, what: str, progress: Progress
) -> list[dict[str, Any]]:
    """Decode every row of ``prompt``, ``batch`` at a time.

    Returns:
      Per row ``{"tokens", "calls", "drafted", "accepted", "fed"}``, see :class:`jaxdec.evaluation.acceptance.DraftCounts`.
    """
    total, found = prompt.tokens.shape[0], []
    begins = range(0, total, batch)
    method = arm.method(sampling)
    with progress.task(f"{what}: {arm.name}", len(begins)) as advance_task:
        for begin in begins:
            rows = [min(row, total - 1) for row in range(begin, begin + batch)]
            state = finished(method, model, rows_of(prompt, rows))
            found += counted(method, state)
            advance_task("")
    return found[:total]


def counted(method: Method, state: Any) -> list[dict[str, Any]]:
    """Texts and counters of a state, row by row."""
    decoded = method.result(state)
    tokens, length, calls = (
        np.asarray(x)[:, 0].tolist() for x in (decoded.tokens, decoded.length, decoded.target_calls)
    )
    names = ("drafted", "accepted", "fed")
    counters = {name: np.asarray(getattr(state.stats, name)).tolist() for name in names if hasattr(state.stats, name)}
    nothing = {"drafted": [], "accepted": [], "fed": 0}
    return [
        {"tokens": tokens[row][: length[row]], "calls": calls[row],
         **(nothing | {name: values[row] for name, values in counters.items()})}
        for row in range(len(tokens))
    ]  # fmt: skip


def counts_of(texts: Sequence[Mapping[str, Any]]) -> DraftCounts:
    """Counters of several texts together."""
    return pooled(
        DraftCounts(len(text["tokens"]), text["calls"], tuple(text["drafted"]), tuple(text["accepted"]), text["fed"])
        for text in texts
    )


def tokens_per_step(counts: DraftCounts, texts: int) -> float:
    """Tokens that a step yields before budgets and end tokens cut it: accepted and one more. The prefills are no steps."""
    steps = counts.target_calls - texts
    return 1 + sum(counts.accepted) / steps if steps else float("nan")


def differences(
    model: LanguageModel, prompts: Sequence[Sequence[int]], plain: Sequence[Mapping], texts: Sequence[Mapping]
) -> list[dict[str, Any]]:
    """Where texts part from plain decoding's: ``{"row", "place", "gap"}``, the gap between the two best logits there."""
    found = []
    for row, (prompt, one, other) in enumerate(zip(prompts, plain, texts, strict=True)):
        if one["tokens"] == other["tokens"]:
            continue
        pairs = enumerate(zip(one["tokens"], other["tokens"]))
        place = next((at for at, (a, b) in pairs if a != b), min(len(one["tokens"]), len(other["tokens"])))
        found.append({"row": row, "place": place, "gap": gap_behind(model, [*prompt, *one["tokens"][:place]])})
    return found


def gap_behind(model: LanguageModel, tokens: Sequence[int]) -> float:
    """How far apart the two best logits are behind a text."""
    packed = Prompt.create([tokens], 1)
    return float(_gap(model, packed.tokens, packed.length))


@jax.jit
def _gap(model: LanguageModel, tokens: Int[Array, "B T"], length: Int[Array, "B"]) -> Float[Array, ""]:
    logits, _ = prefill(model, tokens, length, tokens.shape[1])
    best, second = jax.lax.top_k(logits[0], 2)[0]
    return best - second
