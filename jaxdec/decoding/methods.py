"""Methods by name: what ``generate(..., method="beam")`` and ``--method=beam`` mean."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxdec.decoding.autoregressive import Autoregressive
from jaxdec.decoding.beam_search import BeamSearch
from jaxdec.decoding.diverse_beam_search import DiverseBeamSearch
from jaxdec.decoding.loop import Method
from jaxdec.decoding.sampling import GREEDY, Sampling
from jaxdec.decoding.speculative import (
    Aded,
    DraftModel,
    ExactMatch,
    Lookahead,
    PromptLookup,
    Speculative,
    SpeculativeSampling,
    SuffixRetrieval,
    TypicalAcceptance,
)

DRAFTERS: dict[str, type[Any]] = {
    "prompt_lookup": PromptLookup,
    "lookahead": Lookahead,
    "suffix_retrieval": SuffixRetrieval,
    "draft_model": DraftModel,
    "aded": Aded,
}
VERIFICATIONS = {"exact": ExactMatch, "typical": TypicalAcceptance}
AUTO_NODES = (0, 3, 7, 15)
"""Numbers of nodes that ``tree_size="auto"`` chooses from: with the root 1, 4, 8 and 16 rows, as matrix kernels pack them."""


def build_method(
    method: str | Method, *, sampling: Sampling | None = None, num_samples: int = 1, **options: object
) -> Method:
    """Return the method that a name and options stand for; a method object is returned as it is.

    Args:
      method: a name of :data:`METHODS` or a method.
      sampling: for methods that sample; ``"sample"`` defaults to temperature 1.
      num_samples: texts per prompt, for methods that sample.
      **options: further fields of the method's dataclass, for example ``num_beams=4``. Speculative methods take the fields
        of their drafter, ``verification`` (``"exact"`` or ``"typical"``) and, where the first nodes of a tree may be fed
        alone, ``tree_size`` (a number of nodes; ``num_nodes`` of the drafter).

    Raises:
      ValueError: an unknown name, an option that the method does not have, or sampling for a method that does not sample.
    """
    if not isinstance(method, str):
        if sampling is not None or num_samples != 1 or options:
            raise ValueError("method is an object: give sampling, num_samples and other options to it, not beside it")
        return method
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "greedy":
        if sampling is not None and not sampling.greedy:
            raise ValueError(f"method 'greedy' takes no sampling, got {sampling}; use method 'sample'")
        sampling = GREEDY
    if method == "sample" and sampling is None:
        sampling = Sampling()
    given = dict(options)
    if sampling is not None:
        given["sampling"] = sampling
    if num_samples != 1:
        given["num_samples"] = num_samples
    known = options_of(method)
    if unknown := sorted(set(given) - known):
        raise ValueError(f"method {method!r} has no option {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}")
    return METHODS[method](**given)


def options_of(method: str) -> set[str]:
    """Names of the options that a named method takes."""
    if method not in DRAFTERS:
        return {field.name for field in dataclasses.fields(METHODS[method])}  # pyright: ignore[reportArgumentType]
    own = {field.name for field in dataclasses.fields(DRAFTERS[method])}
    sized = {"tree_size"} if "num_nodes" in own else set()
    return (own | sized | {"sampling", "num_samples", "verification"}) - ({"num_nodes"} & own)


def _speculative(drafter: type[Any]) -> Callable[..., Method]:
    def build(
        sampling: Sampling = GREEDY,
        num_samples: int = 1,
        verification: str = "exact",
        tree_size: Any = None,
        **options: Any,
    ) -> Method:
        if verification not in VERIFICATIONS:
            raise ValueError(f"verification must be one of {', '.join(VERIFICATIONS)}, got {verification!r}")
        if tree_size is not None:
            if not isinstance(tree_size, int) or tree_size < 1:
                raise ValueError(f"tree_size must be a number of nodes, at least 1, or 'auto', got {tree_size!r}")
            options["num_nodes"] = tree_size
        rule = VERIFICATIONS[verification]()
        if drafter is DraftModel:
            made = DraftModel(**{"sampling": sampling, **options})
            if made.is_chain and verification == "exact":
                rule = SpeculativeSampling()
        else:
            made = drafter(**options)
        return Speculative(made, sampling, rule, num_samples)

    return build


METHODS: Mapping[str, Callable[..., Method]] = {
    "greedy": Autoregressive,
    "sample": Autoregressive,
    "beam": BeamSearch,
    "diverse_beam": DiverseBeamSearch,
    **{name: _speculative(drafter) for name, drafter in DRAFTERS.items()},
}
