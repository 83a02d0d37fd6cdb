"""A CRATE classifier of handwritten digits: 1797 images of 8 x 8 pixels from scikit-learn, a fifth of them for the test.

Source: Yu et al. 2023 (arXiv 2306.01129), on the data set of Alpaydin and Kaynak 1998 in patches of 2 x 2; label smoothing
0.1 as in the authors' code.

    python -m experiments.train --config=configs/train/classifier_digits.py

Expected figure: accuracy of 0.92 on the test images (0.1 is chance, and the training images are all learnt). Time: a minute on
2 cores. Needs no accelerator and no download.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, rates and seeds."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 600
    config.batch_size = 128
    config.ema = 0.99
    config.save_every = 200
    config.evaluate_every = 100
    config.log_every = 20
    config.data = ConfigDict({"name": "digits", "test_fraction": 0.2, "seed": 0})
    shape = {"name": "crate", "hidden_size": 64, "num_layers": 4, "num_heads": 4, "patch_size": 2}
    config.recipe = ConfigDict({"name": "classifier", "num_classes": 10, "label_smoothing": 0.1, "model": shape})
    rule = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "clip": 1.0}
    config.optimizer = ConfigDict({**rule, "schedule": {"name": "cosine", "warmup": 50}})

    config.smoke = ConfigDict({
        "steps": 30, "save_every": 20, "evaluate_every": 15, "log_every": 5,
        "recipe": {"model": {"hidden_size": 16, "num_layers": 1}}, "optimizer": {"schedule": {"warmup": 5}},
    })  # fmt: skip
    return config
