"""Discrete Key-Value Bottleneck (Traeuble et al. 2023): classes learned one after another, and none forgotten.

Source: arXiv 2207.11240. CIFAR-10 behind pretrained encoders becomes scikit-learn's digits without one; 256 codebooks of 4096
pairs become up to 64 of 256 (and are timed as they are). Learning rate, clipping, smoothing, batches and moving averages of the
keys are those of the paper.

    python -m experiments.reproduce --paper=dkvb --out=benchmarks/results/papers/dkvb

Expected figure: accuracy on all digits after each split, rising to that of training on all classes at once, where a linear
probe and an MLP know the last two classes alone. Time: two minutes on 2 cores; the smoke run under two. Needs no accelerator
and fetches nothing. To take the times again, on a quiet machine, remove ``parts/timing.json`` from the folder of the result
and run the same command.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, grids and seeds."""
    config = ConfigDict()
    config.seeds = (0, 1, 2)

    config.digits = ConfigDict()
    config.digits.sizes = ((1, 400), (16, 256), (64, 256))  # codebooks, pairs of each
    config.digits.key_dim = 8
    config.digits.test = 500
    config.digits.classes_per_split = 2
    config.digits.updates = 120  # of each split
    config.digits.batch_size = 256
    config.digits.key_epochs = 10
    config.digits.learning_rate = 0.3
    config.digits.label_smoothing = 0.1
    config.digits.linear_rate = 0.05
    config.digits.mlp_rate = 0.1
    config.digits.mlp_width = 64
    config.digits.probe_rates = (0.05, 0.1, 0.3, 1.0)  # told beside, and not judged

    config.blobs = ConfigDict()
    config.blobs.chunk = (1, 400)
    config.blobs.random = (20, 20)
    config.blobs.points = 100  # of each class
    config.blobs.updates = 1000  # of each task
    config.blobs.key_batches = 1000
    config.blobs.key_batch_size = 100
    config.blobs.learning_rate = 1.0
    config.blobs.adam_rate = 1e-3
    config.blobs.label_smoothing = 0.0
    config.blobs.mlp_width = 32
    config.blobs.grid = 60

    config.timing = ConfigDict({"codebooks": 256, "queries": 256, "keys": 4096, "width": 14})
    config.timing.update({"rounds": 7, "seconds": 0.01})

    config.smoke = ConfigDict({"seeds": (0,)})
    config.smoke.digits = ConfigDict(
        {"sizes": ((1, 20), (2, 20)), "updates": 3, "key_epochs": 1, "probe_rates": (0.1,)}
    )
    config.smoke.blobs = ConfigDict({"chunk": (1, 20), "random": (2, 10), "updates": 3, "key_batches": 3, "grid": 8})
    config.smoke.timing = ConfigDict({"codebooks": 2, "queries": 8, "keys": 64, "width": 4, "rounds": 1})
    return config
