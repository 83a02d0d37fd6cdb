"""The example of docs/key_value_bottleneck.md runs, and remembers."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.training.class_incremental import Examples

PAGE = (Path(__file__).parents[2] / "docs" / "key_value_bottleneck.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_example_runs():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 10
    embeddings = jnp.asarray(rng.normal(size=(10, 64))[labels] + 0.3 * rng.normal(size=(300, 64)), jnp.float32)
    labels = jnp.asarray(labels, jnp.int32)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {"embeddings": embeddings, "labels": labels, "test": Examples(embeddings, labels)}
    exec(example, names)
    after = names["outcome"].accuracy.mean(-1)
    assert after.shape == (5,)
    assert after[-1] > 0.9 > after[0]
