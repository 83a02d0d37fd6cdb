"""Maximum manifold capacity representations of handwritten digits, without labels.

Source: Yerxa et al. 2023 (arXiv 2303.03307), on the data set of Alpaydin and Kaynak 1998 in place of ImageNet, an MLP in place
of ResNet-50, Adam in place of LARS.

    python -m experiments.train --config=configs/train/mmcr_digits.py

Expected figure: a loss of -35.5 on views of test images (its bound is -64), and a nearest neighbour of the same class for 0.85
of them. Time: a minute on 2 cores that other work kept busy. Needs no accelerator and no download.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, rates and seeds."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 1500
    config.batch_size = 64
    config.save_every = 500
    config.evaluate_every = 250
    config.log_every = 25
    config.data = ConfigDict({"name": "digits", "test_fraction": 0.2, "seed": 0})
    config.recipe = ConfigDict({"name": "mmcr", "num_views": 4, "projector": (128, 64)})
    config.recipe.model = {"name": "mlp", "widths": (128, 128)}
    config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0})

    config.smoke = ConfigDict({
        "steps": 30, "save_every": 20, "evaluate_every": 15, "log_every": 5,
        "recipe": {"num_views": 2, "model": {"widths": (16,)}},
    })  # fmt: skip
    return config
