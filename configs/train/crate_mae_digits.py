"""CRATE-MAE on handwritten digits: three quarters of 2 x 2 patches are hidden, and predicted from the rest.

Source: Pai et al. 2024 (arXiv 2404.02446), on the data set of Alpaydin and Kaynak 1998 in place of ImageNet.

    python -m experiments.train --config=configs/train/crate_mae_digits.py

Expected figure: a mean squared error of 0.069 on hidden pixels of test images, on a scale from 0 to 1 (from 1.1 in the
first updates). Time: four minutes on 2 cores that other work kept busy. Needs no accelerator and no download.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, rates and seeds."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 1200
    config.batch_size = 128
    config.save_every = 300
    config.evaluate_every = 200
    config.log_every = 20
    config.data = ConfigDict({"name": "digits", "test_fraction": 0.2, "seed": 0})
    config.recipe = ConfigDict({"name": "masked_autoencoder", "mask_ratio": 0.75})
    config.recipe.model = {"name": "crate", "hidden_size": 64, "num_layers": 4, "num_heads": 4, "patch_size": 2}
    config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "clip": 1.0})
    config.optimizer.schedule = {"name": "cosine", "warmup": 50}

    config.smoke = ConfigDict({
        "steps": 30, "save_every": 20, "evaluate_every": 15, "log_every": 5,
        "recipe": {"model": {"hidden_size": 16, "num_layers": 1}}, "optimizer": {"schedule": {"warmup": 5}},
    })  # fmt: skip
    return config
