"""Beam search with three beams over a short list.

    python -m experiments.generate --config=configs/generate/colours.py

prints the three best texts, of which the first is

    [1] 1. Red
    2. Blue
    3. Green

Flags beside it win: with --json the texts come as one JSON object, with --prompt="..." another prompt is answered. A field may
be any flag of the launcher but --config.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Flags of ``experiments.generate``."""
    config = ConfigDict()
    config.model = "smollm2-135m-instruct"
    config.prompt = "Name three colours."
    config.method = "beam"
    config.num_beams = 3
    config.max_new_tokens = 24
    return config
