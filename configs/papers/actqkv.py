"""ActQKV (Xiao et al. 2025): blocks of the cache retrieved by one query per window in which unusual tokens weigh most.

Source: arXiv 2502.13542. Llama-3-8B and Qwen2.5-7B on LongBench and InfiniteBench, 2048 of up to 200K tokens read, become
SmolLM2-135M in float32 on a processor: facts hidden in 1024 to 2048 tokens of filler, windows of 128 tokens in which a question
is less than a tenth, blocks of 16 tokens, 2 to 16 of them read beside the newest 128 tokens.

    python -m experiments.reproduce --paper=actqkv --out=benchmarks/results/papers/actqkv

Expected figure: recall of the fact's block by probe and budget, where the activation bias stays close to the mean query and the
question's own tokens are above both; densities near 1 in all layers. Time: about 8 minutes on 2 quiet cores; the smoke run
some seconds. Needs no accelerator; fetches SmolLM2-135M-Instruct once (the smoke run uses a tiny random model).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, budgets and seeds."""
    config = ConfigDict()
    config.model = "smollm2-135m-instruct"  # "" is a tiny random model

    config.rule = ConfigDict()
    config.rule.block_size = 16
    config.rule.sinks = 8
    config.rule.local = 128
    config.rule.window = 128
    config.rule.top_blocks = 8
    config.rule.representatives = 4
    config.rule.warmup = 128
    config.rule.min_windows = 4

    config.recall = ConfigDict()
    config.recall.texts = ((1024, 0), (1024, 1), (1024, 2), (2048, 3), (2048, 4), (2048, 5))  # tokens, seed
    config.recall.facts = 8
    config.recall.budgets = (2, 4, 8, 16)
    config.recall.temperatures = (1.0, 0.05)

    config.answers = ConfigDict()
    config.answers.texts = ((2048, 3), (2048, 4))
    config.answers.facts = 8
    config.answers.arms = 6  # the first so many of 8; three are judged, the others are told
    config.answers.temperature = 0.05  # of the arm whose budgets follow densities visibly

    config.exact = ConfigDict()
    config.exact.tokens = 768

    config.smoke = ConfigDict()
    config.smoke.model = ""
    config.smoke.rule = ConfigDict(
        {"block_size": 8, "sinks": 4, "local": 64, "window": 64, "top_blocks": 2, "min_windows": 1}
    )
    config.smoke.recall = ConfigDict({"texts": ((448, 0),), "facts": 2, "budgets": (2, 4)})
    config.smoke.answers = ConfigDict({"texts": ((448, 0),), "facts": 2, "arms": 3})
    config.smoke.exact = ConfigDict({"tokens": 192})
    return config
