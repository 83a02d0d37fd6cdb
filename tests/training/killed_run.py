"""Run and killed by test_killed.py: trains in the folder that is given, says after every update so, writes the parameters."""

import sys
from pathlib import Path

import jax
import numpy as np
import optax

from jaxdec.training.trainer import train
from tests.training.tiny_recipes import Regression, Stream

NUM_STEPS = 400


def final_params(folder: Path | None, on_step=lambda step, metrics: None) -> np.ndarray:
    state = train(Regression(noise=0.1), optax.adamw(1e-2), Stream(), NUM_STEPS, key=jax.random.key(1), folder=folder,
                  save_every=3, ema=0.9, on_step=on_step)  # fmt: skip
    kept = jax.tree.leaves((state.params, state.ema_params, state.opt_state, state.state))
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in kept])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    np.save(folder / "final.npy", final_params(folder / "run", lambda step, metrics: print(step, flush=True)))
