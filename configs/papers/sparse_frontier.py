"""The Sparse Frontier (Nawrot et al. 2025): what training-free sparse attention costs, and when it pays.

Source: arXiv 2504.17768. Qwen2.5 of 7B to 72B over 16K to 128K tokens become three transformers of two layers, trained here
on retrieval tasks in symbols, over 128 to 512 tokens; what rules leave of attention is measured on SmolLM2-135M over 1K to 4K
tokens of text.

    python -m experiments.reproduce --paper=sparse_frontier --out=benchmarks/results/papers/sparse_frontier

Expected figure: accuracy by task falling as compression rises, sooner for tasks in which all of the text counts. Time: about
15 minutes on 2 cores, half of that training; the smoke run under one. Needs no accelerator; fetches SmolLM2-135M-Instruct
once (the smoke run uses a tiny random model).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, grids and seeds."""
    config = ConfigDict()
    config.seed = 0
    config.model = "smollm2-135m-instruct"  # "" is a tiny random model

    config.models = (  # the wider, the smaller the steps: at 3e-3 and above the widest does not find out in time
        {"hidden_size": 64, "num_heads": 4, "num_layers": 2, "learning_rate": 4e-3},
        {"hidden_size": 96, "num_heads": 4, "num_layers": 2, "learning_rate": 4e-3},
        {"hidden_size": 192, "num_heads": 12, "num_layers": 2, "learning_rate": 1.5e-3},
    )
    config.stages = (  # length 0: statements that come again
        {"steps": 300, "lengths": (0,), "tokens": 2048},
        {"steps": 300, "lengths": (64,), "tokens": 2048},
        {"steps": 250, "lengths": (128, 256), "tokens": 2560},
        {"steps": 120, "lengths": (128, 256, 512), "tokens": 2560},
    )
    config.tasks = ConfigDict({"pairs": 16, "queries": 4, "chains": 4, "hops": 4, "words": 32, "common": 4, "ratio": 4})

    config.sweep = ConfigDict()
    config.sweep.lengths = (128, 256, 512)
    config.sweep.compressions = (2.0, 4.0, 8.0, 16.0)
    config.sweep.samples = 40
    config.sweep.seed = 5

    config.recall = ConfigDict()
    config.recall.lengths = (1024, 2048, 4096)
    config.recall.layers = (4, 14, 24)
    config.recall.compressions = (2.0, 4.0, 8.0, 16.0)
    config.recall.prefill_longest = 2048

    config.smoke = ConfigDict()
    config.smoke.model = ""
    config.smoke.models = (
        {"hidden_size": 32, "num_heads": 4, "num_layers": 1, "learning_rate": 4e-3},
        {"hidden_size": 48, "num_heads": 4, "num_layers": 1, "learning_rate": 4e-3},
    )
    config.smoke.stages = ({"steps": 2, "lengths": (64,), "tokens": 256},)
    config.smoke.sweep = ConfigDict({"lengths": (64, 96), "compressions": (2.0,), "samples": 3})
    config.smoke.recall = ConfigDict({"lengths": (128,), "layers": (0,), "compressions": (2.0,)})
    return config
