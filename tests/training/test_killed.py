"""A process that is killed, with no chance to tidy up, loses no more than the updates since its last checkpoint."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest

from tests.training.killed_run import NUM_STEPS, final_params


@pytest.mark.slow
def test_killed_at_random_updates_it_ends_with_the_same_parameters(tmp_path):
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    begins, killed = [], 0
    while not (tmp_path / "final.npy").exists():
        command = [sys.executable, "-m", "tests.training.killed_run", str(tmp_path)]
        after = rng.randrange(1, 90)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
        ) as process:
            for count, line in enumerate(process.stdout):
                begins += [int(line)] if count == 0 else []
                if count == after and killed < 4:
                    process.kill()
                    killed += 1
                    break
        assert len(begins) < 12, "it does not get on"
    assert killed == 4, f"seed {seed}"
    assert begins == sorted(begins)
    assert 1 < begins[-1] <= NUM_STEPS
    np.testing.assert_array_equal(np.load(tmp_path / "final.npy"), final_params(None), err_msg=f"seed {seed}")
