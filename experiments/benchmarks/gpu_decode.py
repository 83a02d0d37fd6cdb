"""Suite ``gpu_decode``: how much of a device's memory bandwidth decoding uses, on random weights in Llama-3-8B's shape.

A decode step has to read the weights once and the committed keys and values of every row. These bytes, over the time of a
step, over the bandwidth that a plain copy reaches on the same device in the same round: that fraction is the figure.
"""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from experiments.benchmarks.engine import JaxdecEngine, synthetic_tokens
from experiments.benchmarks.harness import Case, summary
from experiments.benchmarks.suite import Options, Session, Side, open_session, run_suite

SIDE = "jaxdec-bfloat16"
BATCHES = (1, 8, 32)
CONTEXT = 1024
NEW_TOKENS = 65
COPY_BYTES = 1 << 30


class GpuEngine(JaxdecEngine):
    """jaxdec in bfloat16 with random weights made on the device."""

    def __init__(self, model: str, dtype: str, any_device: bool):
        """``any_device`` lets a processor stand in for the GPU (smoke runs).

        Raises:
          RuntimeError: there is no GPU.
        """
        device = jax.devices()[0]
        if device.platform != "gpu" and not any_device:
            raise RuntimeError(
                f"suite gpu_decode needs a GPU, and jax sees only {device.platform} ({device.device_kind}); "
                "install jaxdec[gpu] on a machine with one, or try --smoke, which runs a tiny model anywhere"
            )
        super().__init__(model, dtype)

    def describe(self) -> dict[str, Any]:
        """Adds what a step must read: see :func:`bytes_per_step`."""
        module: Any = self.model.module
        config = module.config
        itemsize = jnp.dtype(self.dtype).itemsize
        lookup = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size * itemsize
        cache = self.model.init_cache(1, 1)  # has room for more: layouts round up
        return {
            **super().describe(),
            "weights_bytes_per_step": self.model.nbytes() - lookup,
            "kv_bytes_per_token": cache.nbytes // cache.capacity,
        }

    def _copy(self, nbytes: int, warm_up: bool, repeats: int = 20) -> dict[str, float]:
        """Read ``nbytes`` and write as many, ``repeats`` times in a row."""
        array = jnp.ones(nbytes // 4, jnp.uint32)
        array = jax.block_until_ready(flip(flip(array)))
        begin = time.perf_counter()
        for _ in range(repeats):
            array = flip(array)
        jax.block_until_ready(array)
        seconds = (time.perf_counter() - begin) / repeats
        return {} if warm_up else {"gigabytes_per_second": 2 * nbytes / seconds / 1e9}


@jax.jit
def flip(array: jax.Array) -> jax.Array:
    """Flip the bits: one read and one write that the compiler cannot drop."""
    return ~array


def run(options: Options, console: Console) -> Path:
    """Run the suite; returns the path of the result.

    Raises:
      WorkerError: there is no GPU (without ``smoke``), or jaxdec fails.
    """
    model = "random:tiny" if options.smoke else "random:llama-3-8b"
    engine = {"model": model, "dtype": "bfloat16", "any_device": options.smoke}
    with open_session([Side(SIDE, "experiments.benchmarks.gpu_decode:GpuEngine", engine)], console) as session:
        said = session.description(SIDE)
        host = re.sub(r"[^a-z0-9]+", "-", said["device"].lower()).strip("-")
        layout = cases(said["vocab_size"], smoke=options.smoke)
        settings = {"host": host, "main_side": SIDE, "cases": layout, "options": options, "finish": complete}
        return run_suite("gpu_decode", session=session, **settings)


def cases(vocab_size: int, smoke: bool) -> list[Case]:
    """The copy, and decoding at each batch size."""
    context, new_tokens, nbytes = (24, 4, 1 << 16) if smoke else (CONTEXT, NEW_TOKENS, COPY_BYTES)
    prompt = synthetic_tokens(context, vocab_size)
    decode = {"kind": "decode", "prompt": prompt, "new_tokens": new_tokens}
    return [
        Case("copy", (SIDE,), "gigabytes_per_second", {"kind": "copy", "nbytes": nbytes}),
        *(Case(f"decode_batch_{n}", (SIDE,), "tokens_per_second", {**decode, "batch": n}) for n in BATCHES),
    ]


def bytes_per_step(said: Mapping[str, Any], batch: int, prompt_tokens: int, new_tokens: int) -> dict[str, float]:
    """Bytes that the steps of a decoding must read on average: the weights, and every row's keys and values.

    Step ``i`` of ``new_tokens - 1`` attends to ``prompt_tokens + i`` entries. The embedding table counts only where it is
    the output head too.
    """
    context = prompt_tokens + new_tokens / 2
    return {"weights": said["weights_bytes_per_step"], "kv": batch * context * said["kv_bytes_per_token"]}


def complete(document: dict[str, Any], session: Session):
    """Add the bytes model and the fraction of the copy bandwidth, round by round."""
    assert session.record is not None
    said = session.description(SIDE)
    copies = [entry["measurements"][SIDE]["metrics"]["gigabytes_per_second"] for entry in session.record.chosen("copy")]
    for row in document["rows"]:
        if row["case"] == "copy":
            continue
        read = bytes_per_step(said, row["batch"], row["prompt_tokens"], row["new_tokens"])
        rates = [sum(read.values()) / step / 1e6 for step in row["metrics"]["step_ms"]["samples"]]
        row["bytes_per_step"] = read
        row["metrics"]["gigabytes_per_second"] = summary(rates)
        row["metrics"]["fraction_of_copy"] = summary(rate / copy for rate, copy in zip(rates, copies))
    document["model"] = {name: said[name] for name in ("num_params", "weights_bytes")}
