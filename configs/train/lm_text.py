"""A small Transformer that predicts bytes of English and code: what is installed with Python anyway.

Source: the architecture of Llama (Touvron et al. 2023, arXiv 2302.13971), one million parameters; AdamW as in there.

    python -m experiments.train --config=configs/train/lm_text.py

Expected figure: 2.0 nats a byte on texts that were not trained on (untrained: 5.6); more ``--steps`` lower it. Time: a few
minutes on 2 cores. Needs no accelerator and no download. Texts of your own: ``--config.data.files="('~/books/*.txt',)"``.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, rates and seeds."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 300
    config.batch_size = 16
    config.save_every = 100
    config.evaluate_every = 100
    config.log_every = 25
    config.data = ConfigDict(
        {"name": "text", "tokenizer": "bytes", "length": 128, "limit": 2_000_000, "test_fraction": 0.02}
    )
    shape = {"name": "transformer", "vocab_size": 256, "hidden_size": 128, "intermediate_size": 384, "num_layers": 4,
             "num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "max_position_embeddings": 1024}  # fmt: skip
    config.recipe = ConfigDict({"name": "language_model", "model": shape})
    schedule = {"name": "cosine", "warmup": 30, "final": 0.1}
    rule = {"name": "adamw", "learning_rate": 2e-3, "b2": 0.95, "weight_decay": 0.1, "clip": 1.0}
    config.optimizer = ConfigDict({**rule, "schedule": schedule})

    small = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 1}
    config.smoke = ConfigDict({
        "steps": 4, "batch_size": 4, "save_every": 2, "evaluate_every": 2, "log_every": 1,
        "data": {"limit": 4000, "length": 32}, "recipe": {"model": small}, "optimizer": {"schedule": {"warmup": 1}},
    })  # fmt: skip
    return config
