"""Methods by name: what ``generate(..., method="beam")`` and ``--method=beam`` mean."""

import dataclasses
from typing import Any

from jaxdec.decoding.autoregressive import Autoregressive
from jaxdec.decoding.beam_search import BeamSearch
from jaxdec.decoding.diverse_beam_search import DiverseBeamSearch
from jaxdec.decoding.loop import Method
from jaxdec.decoding.sampling import GREEDY, Sampling

METHODS: dict[str, type[Any]] = {
    "greedy": Autoregressive,
    "sample": Autoregressive,
    "beam": BeamSearch,
    "diverse_beam": DiverseBeamSearch,
}


def build_method(
    method: str | Method, *, sampling: Sampling | None = None, num_samples: int = 1, **options: object
) -> Method:
    """Return the method that a name and options stand for; a method object is returned as it is.

    Args:
      method: a name of :data:`METHODS` or a method.
      sampling: for methods that sample; ``"sample"`` defaults to temperature 1.
      num_samples: texts per prompt, for methods that sample.
      **options: further fields of the method's dataclass, for example ``num_beams=4``.

    Raises:
      ValueError: an unknown name, an option that the method does not have, or sampling for a method that does not sample.
    """
    if not isinstance(method, str):
        if sampling is not None or num_samples != 1 or options:
            raise ValueError("method is an object: give sampling, num_samples and other options to it, not beside it")
        return method
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    build = METHODS[method]
    known = {field.name for field in dataclasses.fields(build)}
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
    if unknown := sorted(set(given) - known):
        raise ValueError(f"method {method!r} has no option {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}")
    return build(**given)
