"""Maximum manifold capacity representations (Yerxa et al. 2023): views of an image together and images apart, by nuclear norms.

Source: arXiv 2303.03307. ResNet-50 on ImageNet becomes a small encoder on 1200 digits of 8 x 8 pixels, 100 epochs of 2048
images a batch become 1500 updates of 64, and LARS becomes Adam.

    python -m experiments.reproduce --paper=mmcr --out=benchmarks/results/papers/mmcr

Expected figure: a linear probe with 30 labels at least 4 points above that on a random encoder. Time: four minutes on 2
cores; the smoke run under two. Needs no accelerator and fetches nothing.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, grids and seeds."""
    config = ConfigDict()
    config.seeds = (0, 1, 2, 3, 4)  # of encoders, batches, views and drawn labels
    config.train = 1200  # digits to train on; the other 597 are the test
    config.encoder = (128, 128)
    config.hidden = 128  # of the projector
    config.dimension = 64  # of the embedding
    config.views = (2, 4, 8)
    config.batch_size = 64
    config.steps = 1500
    config.learning_rate = 1e-3

    config.labels = (30, 100)  # for the probe, as many of each class; beside all of them
    config.draws = 20  # of labelled digits
    config.l2 = 1.0
    # Manifolds: test digits by class; and views of single digits.
    config.geometry = ConfigDict({"directions": 200, "images": 40, "views": 30})
    config.sweep = ConfigDict({"dimensions": (16, 32, 64, 128), "views": 2, "steps": 600, "seeds": (0, 1, 2)})
    config.norms = ConfigDict({"shapes": ((2048, 512), (64, 64), (32, 128)), "rounds": 5})

    config.smoke = ConfigDict({"seeds": (0, 1), "views": (2,), "steps": 30, "draws": 2})
    config.smoke.geometry = ConfigDict({"directions": 8, "images": 4, "views": 6})
    config.smoke.sweep = ConfigDict({"dimensions": (16, 64), "steps": 20, "seeds": (0, 1)})
    config.smoke.norms = ConfigDict({"shapes": ((16, 8),), "rounds": 1})
    return config
