"""ADED (Liu et al. 2025, AAAI): drafts from a tri-gram table that adapts while it decodes, without a draft model.

Source: arXiv 2407.12021 (also published as Adaptix). The paper's 7B to 33B models become SmolLM2-135M decoding greedily; its
tables of up to a gigabyte, two megabytes of text that ship with Python and its packages, or the model's own texts on other
prompts.

    python -m experiments.reproduce --paper=aded --out=benchmarks/results/papers/aded

Expected figure: tokens per call by family, each adaptive table above its static one; tables carried from prompt to prompt of a
domain, rising. Time: about 15 minutes on 2 cores, the smoke run two. To take the times again, remove ``parts/costs.json`` and
``parts/clock.json`` from the folder of the result and run the same command. Needs no accelerator; fetches
SmolLM2-135M-Instruct once (the smoke run uses a tiny random model instead).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, grids and seeds."""
    config = ConfigDict()
    config.seed = 0
    config.model = "smollm2-135m-instruct"  # "" is a tiny random model
    config.per_group = ConfigDict({"families": 8, "domains": 20})  # prompts of each family, and of each domain
    config.new_tokens = 64  # that arms replay
    config.long_text = 192  # new tokens that tables of the model's own text learn from
    config.batch_size = 8
    config.foreign_characters = 3_000_000

    config.nodes = (8, 16, 64)  # of the searches compared; 16 is what all other arms have
    config.constants = (32.0, 1.814)  # c1 of the tree search
    config.search_per_group = ConfigDict({"families": 4, "domains": 8})  # prompts on which searches are compared
    config.designs = True  # whether to run the arms that depart from the paper
    config.orders = 5  # in which a domain's prompts are taken

    config.timing_seconds = 0.5  # for the drafting time of one arm
    config.clock_nodes = (0, 3, 7, 15)  # tree sizes that a step may choose from, by their measured cost
    config.decoded_per_group = ConfigDict({"families": 3, "domains": 6})  # prompts that the target decodes too
    config.clock_per_group = 1  # prompts of each family and domain that are timed
    config.clock_rounds = 2

    config.smoke = ConfigDict()
    config.smoke.model = ""
    config.smoke.per_group = ConfigDict({"families": 1, "domains": 2})
    config.smoke.new_tokens = 12
    config.smoke.long_text = 24
    config.smoke.foreign_characters = 60_000
    config.smoke.nodes = (8,)
    config.smoke.constants = (32.0,)
    config.smoke.designs = False
    config.smoke.search_per_group = ConfigDict({"families": 1, "domains": 1})
    config.smoke.orders = 2
    config.smoke.clock_nodes = (0, 7)
    config.smoke.timing_seconds = 0.05
    config.smoke.decoded_per_group = ConfigDict({"families": 1, "domains": 1})
    return config
