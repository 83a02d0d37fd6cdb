"""CRATE (Yu et al. 2023): a transformer whose layers are steps of compression and of sparse coding.

Source: arXiv 2306.01129 and 2311.13110; CRATE-MAE, arXiv 2404.02446; CRATE-alpha, arXiv 2405.20299. ImageNet becomes digits of
8 x 8 pixels, OpenWebText becomes bytes of what is installed with Python.

    python -m experiments.reproduce --paper=crate --out=benchmarks/results/papers/crate

Expected figure: coding rate falling and codes growing sparser from the first layer to the last. Time: half an hour
on one core; under two minutes on 2 cores for the smoke run. Needs no accelerator and no download.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, grids and seeds."""
    config = ConfigDict()
    config.subspaces = ConfigDict({"seed": 0, "subspaces": 4, "inside": 4, "tokens": 200, "noise": 0.3, "steps": 40})
    config.subspaces.update({"epsilon": 0.5, "step_size": 0.5, "factors": (0.025, 0.1, 0.4, 1.6, 6.4)})

    config.digits = ConfigDict({"test_fraction": 0.25, "hidden_size": 64, "num_layers": 4, "num_heads": 4})
    config.digits.update(
        {"seeds": (0, 1, 2, 3, 4), "steps": 800, "batch_size": 64, "learning_rate": 1e-3, "warmup": 50}
    )
    config.digits.update({"weight_decay": 0.05, "label_smoothing": 0.1, "maps": 1})
    config.digits.autoencoder = ConfigDict({"steps": 2000, "mask_ratio": 0.75, "threshold": 0.5})

    config.language = ConfigDict({"bytes": 1_000_000, "test_fraction": 0.05, "length": 128, "batch_size": 16})
    config.language.update({"hidden_size": 256, "num_layers": 4, "num_heads": 8, "steps": 1500, "learning_rate": 1e-3})
    config.language.update({"weight_decay": 0.1, "warmup": 100, "test_batches": 20})
    config.language.decode = ConfigDict({"prompts": 8, "prompt": 96, "new_tokens": 96})

    config.smoke = ConfigDict()
    config.smoke.subspaces = ConfigDict({"tokens": 40, "steps": 5})
    config.smoke.digits = ConfigDict(
        {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "seeds": (0, 1), "steps": 4, "warmup": 1}
    )
    config.smoke.digits.autoencoder = ConfigDict({"steps": 4})
    config.smoke.language = ConfigDict(
        {"bytes": 20_000, "hidden_size": 32, "num_layers": 4, "num_heads": 2, "steps": 4}
    )
    config.smoke.language.update({"warmup": 1, "length": 32, "batch_size": 4, "test_batches": 2})
    config.smoke.language.decode = ConfigDict({"prompts": 2, "prompt": 16, "new_tokens": 8})
    return config
