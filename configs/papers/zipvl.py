"""ZipVL (He et al. 2024): as many important tokens, layer by layer, as hold most of the attention; others at fewer bits.

Source: arXiv 2410.08584, first version. LLaVA and LongVA on images and video become SmolLM2-135M in float32 on text, 128K
tokens become 768 to 4096.

    python -m experiments.reproduce --paper=zipvl --out=benchmarks/results/papers/zipvl

Expected figure: shares of important tokens that differ between layers, and caches at four and two bits near the perplexity of
four bits alone. Time: 95 minutes, nearly all of them on one core; the smoke run under one. Needs no accelerator;
fetches SmolLM2-135M-Instruct once (the smoke run uses a tiny random model). To take the times again, on a quiet machine, remove
``parts/prefill.json`` from the folder of the result and run the same command.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, grids and seeds."""
    config = ConfigDict()
    config.seed = 0
    config.model = "smollm2-135m-instruct"  # "" is a tiny random model
    config.thresholds = (0.96, 0.975, 0.99)
    config.probes = (64, 64)  # last, drawn
    config.tokens = 768  # of a prompt; the prompts of three sources
    config.continuation = 32
    config.windows = 2  # of each source
    config.window = 100  # newest tokens in full precision
    config.caches = ConfigDict({"windows": 20, "continuation": 96})  # of each source, at most; prompts of ``tokens``

    config.needles = ConfigDict({"tokens": 512, "seeds": (0,), "asked": 6})
    config.prefill = ConfigDict({"lengths": (1024, 4096), "rounds": 3})

    config.smoke = ConfigDict({"model": "", "thresholds": (0.95,), "probes": (8, 8), "window": 4})
    config.smoke.update({"tokens": 96, "continuation": 4, "windows": 1})
    config.smoke.caches = ConfigDict({"windows": 1, "continuation": 4})
    config.smoke.needles = ConfigDict({"tokens": 64, "seeds": (0,), "asked": 1})
    config.smoke.prefill = ConfigDict({"lengths": (64, 128), "rounds": 1})
    return config
