"""A CRATE-GPT that predicts bytes of English and code: what is installed with Python anyway.

Source: Yu et al. 2023 (arXiv 2311.13110), section 4.3, in small: four layers of width 256.

    python -m experiments.train --config=configs/train/crate_gpt.py

Expected figure: 2.62 nats a byte on texts that were not trained on (5.6 is a uniform law). Time: seven minutes on one of 2
cores. Needs no accelerator and no download.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, rates and seeds."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 1000
    config.batch_size = 16
    config.save_every = 250
    config.evaluate_every = 250
    config.log_every = 25
    config.data = ConfigDict({"name": "text", "tokenizer": "bytes", "length": 128})
    config.data.update({"limit": 2_000_000, "test_fraction": 0.02})
    config.recipe = ConfigDict({"name": "language_model"})
    config.recipe.model = ConfigDict({"name": "crate", "hidden_size": 256, "num_layers": 4, "num_heads": 8})
    config.recipe.model.update({"vocab_size": 256, "max_position_embeddings": 1024})
    config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 1e-3, "b2": 0.95, "weight_decay": 0.1})
    config.optimizer.clip = 1.0
    config.optimizer.schedule = ConfigDict({"name": "cosine", "warmup": 100, "final": 0.1})

    config.smoke = ConfigDict({"steps": 4, "batch_size": 4, "save_every": 2, "evaluate_every": 2, "log_every": 1})
    config.smoke.data = ConfigDict({"limit": 4000, "length": 32})
    config.smoke.recipe = ConfigDict({"model": {"hidden_size": 32, "num_layers": 1}})
    config.smoke.optimizer = ConfigDict({"schedule": {"warmup": 1}})
    return config
