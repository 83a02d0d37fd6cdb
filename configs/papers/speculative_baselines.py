"""Speculative decoding and its baselines: draft models, prompt lookup, lookahead, REST; tokens per call, laws, and speed.

Source: Leviathan et al. 2023 (arXiv 2211.17192), Chen et al. 2023 (arXiv 2302.01318); prompt lookup (Saxena 2023); lookahead
(arXiv 2402.02057); REST (arXiv 2311.08252); Spec-Bench (arXiv 2401.07851). The 7B and 13B targets become SmolLM2-135M, the
68M draft models become some of its layers, as they are or distilled here for a few minutes, and REST's collection becomes what
the target wrote for that. Prompts: six families of eight.

    python -m experiments.reproduce --paper=speculative_baselines --out=benchmarks/results/papers/speculative_baselines

Expected figure: the cost of a pass rising with its tokens; tokens per step of chains near (1 - a^(g+1)) / (1 - a); tokens per
call by family, prompt lookup high where text is copied. Time: about 20 minutes on 2 cores; the smoke run under two. Needs no
accelerator; fetches SmolLM2-135M-Instruct once (the smoke run uses a tiny random model). To take the times again, on a quiet
machine, remove ``parts/curve.json`` and ``parts/timing.json`` from the folder of the result and run the same command.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, grids and seeds."""
    config = ConfigDict()
    config.seed = 0
    config.model = "smollm2-135m-instruct"  # "" is a tiny random model
    config.prompts_per_family = 8
    config.new_tokens = 48
    config.batch = 8  # prompts decoded together where no time is taken

    config.draft = ConfigDict()  # distilled from the target
    config.draft.layers = (0, 10, 20, 29)
    config.draft.num_texts = 96
    config.draft.new_tokens = 96
    config.draft.write_batch = 16
    config.draft.longest = 128
    config.draft.batch = 4
    config.draft.steps = 80
    config.draft.learning_rate = 1e-3
    config.skips = ConfigDict()  # layers of the target, untrained
    config.skips["10 layers"] = tuple(range(0, 30, 3))
    config.skips["24 layers"] = tuple(layer for layer in range(30) if layer not in (14, 16, 18, 20, 22, 24))

    config.arms = ConfigDict()
    config.arms.lookup = ConfigDict({"num_nodes": 10, "max_ngram": 3})
    config.arms.lookahead = ConfigDict({"ngram_size": 4, "window_size": 4, "max_guesses": 4})
    config.arms.retrieval = ConfigDict({"num_nodes": 16, "max_depth": 8})
    config.arms.chain = 4
    config.arms.tree = (2, 2, 2)

    config.chains = ConfigDict()
    config.chains.lengths = (1, 2, 4, 8)
    config.chains.prompts_per_family = 1
    config.chains.temperatures = (0.5, 1.0)

    config.laws = ConfigDict()
    config.laws.draws = 40_000
    config.laws.acceptances = (0.7, 0.8, 0.9)
    config.laws.lengths = (1, 2, 4, 8)
    config.laws.rows = 2048
    config.laws.new_tokens = 64

    config.timing = ConfigDict()
    config.timing.counts = (1, 2, 4, 8, 16, 32, 64)
    config.timing.context = 256
    config.timing.curve_rounds = 2
    config.timing.prompts_per_family = 1
    config.timing.rounds = 3
    config.timing.chain = 2
    config.timing.lookahead = ConfigDict({"ngram_size": 3, "window_size": 5, "max_guesses": 3})

    config.smoke = ConfigDict()
    config.smoke.model = ""
    config.smoke.prompts_per_family = 1
    config.smoke.new_tokens = 8
    config.smoke.batch = 6
    config.smoke.draft = ConfigDict()
    config.smoke.draft.layers = (1,)
    config.smoke.draft.num_texts = 4
    config.smoke.draft.new_tokens = 8
    config.smoke.draft.write_batch = 4
    config.smoke.draft.longest = 64
    config.smoke.draft.batch = 2
    config.smoke.draft.steps = 4
    config.smoke.skips = ConfigDict()
    config.smoke.skips["10 layers"] = (0,)
    config.smoke.skips["24 layers"] = ()  # left out
    config.smoke.chains = ConfigDict()
    config.smoke.chains.lengths = (1, 2)
    config.smoke.chains.prompts_per_family = 1
    config.smoke.chains.temperatures = (1.0,)
    config.smoke.laws = ConfigDict()
    config.smoke.laws.draws = 2000
    config.smoke.laws.acceptances = (0.7,)
    config.smoke.laws.lengths = (2,)
    config.smoke.laws.rows = 64
    config.smoke.timing = ConfigDict()
    config.smoke.timing.counts = (1, 2, 4)
    config.smoke.timing.curve_rounds = 1
    config.smoke.timing.prompts_per_family = 1
    config.smoke.timing.rounds = 1
    return config
