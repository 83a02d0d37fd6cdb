"""What the kernels are to reach on the device that they are made for."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.benchmarks import targets


@dataclasses.dataclass(frozen=True)
class KernelTarget:
    """One number to reach by the fastest of our backends.

    Attributes:
      name: what is compared.
      device: part of the device's name; on others there is nothing to judge.
      case: where it is measured.
      bound: the number, at least.
      metric: of our row, a fraction; or empty, and then ``against`` is the side whose time is divided by ours.
      against: a peer.
    """

    name: str
    device: str
    case: str
    bound: float
    metric: str = ""
    against: str = ""


HEADS = "q32_kv8_d128"
TARGETS = (
    KernelTarget(
        "prefix, 256 rows x 8192 tokens: fraction of the floor that products and memory set",
        "H200",
        f"prefix_attention_{HEADS}_b256_p8192",
        0.6,
        metric="fraction_of_floor",
    ),
    KernelTarget(
        "own keys, 256 rows x 8192 tokens: fraction of the copy bandwidth",
        "H200",
        f"decode_attention_{HEADS}_b256_p8192",
        0.8,
        metric="fraction_of_copy",
    ),
    KernelTarget(
        "whole attention, 1024 rows x 8192 shared tokens: cuDNN over a copied prefix / ours",
        "H200",
        f"whole_attention_{HEADS}_b1024_p8192",
        10.0,
        against="jax.nn-cudnn",
    ),
)


def fastest(document: Mapping[str, Any], case: str) -> Mapping[str, Any] | None:
    """The row of our fastest backend at a case, None if there is none."""
    ours = [row for row in document["rows"] if row["case"] == case and row["side"].startswith("jaxdec-")]
    return min(ours, key=lambda row: row["metrics"]["microseconds"]["median"], default=None)


def judge(document: Mapping[str, Any], kernel_targets: tuple[KernelTarget, ...] = TARGETS) -> list[dict[str, Any]]:
    """Hold a result against the targets that are set for its device; see :func:`experiments.benchmarks.targets.judge`."""
    device = document["environment"]["device_kind"]
    return targets.judge(
        document, [_resolved(document, target) for target in kernel_targets if target.device in device]
    )


def _resolved(document: Mapping[str, Any], target: KernelTarget) -> targets.Target:
    best = fastest(document, target.case)
    ours = (target.case, best["side"] if best else "any of our backends")
    if target.against:  # times, so theirs over ours is how many times faster we are
        rows = ((target.case, target.against), ours)
        return targets.Target(target.name, target.bound, True, rows, targets.ratio)
    return targets.Target(
        target.name, target.bound, True, (ours,), lambda rows, document: targets.median(rows[0], target.metric)
    )
