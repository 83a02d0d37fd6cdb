"""Hydragen (Juravsky et al. 2024): attention over a shared prefix once for all rows, exact, merged with what each row has.

Source: arXiv 2402.05099. CodeLlama-13B on eight A100 becomes SmolLM2-135M in float32 on a processor: batches of 1 to 16 instead
of 32 to 4096, prefixes of 128 to 1024 tokens (2048 for attention alone) instead of 1K to 16K.

    python -m experiments.reproduce --paper=hydragen --out=benchmarks/results/papers/hydragen

Expected figure: the speed-up of attention rising with rows and prefix and falling with the length of the suffix; steps that
hardly get longer with a shared prefix. Time: about 10 minutes on 2 cores; the smoke run under two. Needs no accelerator;
fetches SmolLM2-135M-Instruct once (the smoke run uses a tiny random model). To take the times again, on a quiet machine,
remove ``parts/attention.json``, ``parts/steps.json``, ``parts/rates_*.json`` and ``parts/tree.json`` from the folder of the
result and run the same command.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, grids and seeds."""
    config = ConfigDict()
    config.seed = 0
    config.model = "smollm2-135m-instruct"  # "" is a tiny random model

    config.attention = ConfigDict()
    config.attention.batches = (1, 4, 8, 16)
    config.attention.prefixes = (128, 512, 1024, 2048)
    config.attention.suffix = 32
    config.attention.suffixes = (0, 32, 128, 512)  # at the largest batch and prefix
    config.attention.layers = 4  # that take turns, so that no keys stay in the processor's cache
    config.attention.rounds = 7
    config.attention.seconds = 0.1

    config.steps = ConfigDict()
    config.steps.batches = (1, 4, 8, 16)
    config.steps.prefixes = (128, 512, 1024)
    config.steps.suffix = 32
    config.steps.rounds = 5
    config.steps.seconds = 0.2

    config.rates = ConfigDict()
    config.rates.cases = ((16, 128), (16, 1024))  # rows, shared tokens
    config.rates.new_tokens = 32
    config.rates.rounds = 2

    config.needles = ConfigDict()
    config.needles.tokens = 512
    config.needles.new_tokens = 6
    config.needles.seeds = (0, 1)

    config.tree = ConfigDict()
    config.tree.shots = 256
    config.tree.problem = 96
    config.tree.problems = 4
    config.tree.samples = 4
    config.tree.new_tokens = 32
    config.tree.rounds = 2

    config.smoke = ConfigDict()
    config.smoke.model = ""
    config.smoke.attention = ConfigDict({"batches": (1, 2), "prefixes": (16, 32), "suffix": 4, "suffixes": (0, 4)})
    config.smoke.attention.update({"layers": 1, "rounds": 2, "seconds": 0.001})
    config.smoke.steps = ConfigDict({"batches": (1, 2), "prefixes": (16, 32), "suffix": 4})
    config.smoke.steps.update({"rounds": 2, "seconds": 0.001})
    config.smoke.rates = ConfigDict({"cases": ((2, 64),), "new_tokens": 4, "rounds": 1})
    config.smoke.needles = ConfigDict({"tokens": 256, "new_tokens": 3, "seeds": (0,)})
    config.smoke.tree = ConfigDict({"shots": 64, "problem": 48, "problems": 2, "samples": 2, "new_tokens": 4})
    config.smoke.tree.update({"rounds": 1})
    return config
