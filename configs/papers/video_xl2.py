"""Video-XL-2 (Qin et al. 2025): prefill in chunks that read few others and markers, and caches of dense and pooled chunks.

Source: arXiv 2506.19225 and the authors' code. Qwen2.5-7B on hours of video becomes SmolLM2-135M in float32 on text:
documents of 16 sections of 64 tokens behind numbered lines, instead of chunks of 576 tokens behind time stamps; relevance by
an oracle, by the model's own queries and keys, and by BM25, instead of a text-video retriever.

    python -m experiments.reproduce --paper=video_xl2 --out=benchmarks/results/papers/video_xl2

Expected figure: the share of pairs falling with the chunks a token reads while answers stay; answers of bi-level caches above
uniform pooling at equal entries where relevance is better than chance. Time: under 8 minutes on 2 cores; the smoke run some ten
seconds. Needs no accelerator; fetches SmolLM2-135M-Instruct once (the smoke run uses a tiny random model).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Sizes, grids and seeds."""
    config = ConfigDict()
    config.seed = 1
    config.model = "smollm2-135m-instruct"  # "" is a tiny random model

    config.documents = ConfigDict()
    config.documents.count = 3
    config.documents.sections = 16
    config.documents.tokens = 64  # of a section
    config.documents.facts = 8
    config.documents.block = 16  # queries that the executor takes together

    config.previous = (0, 1, 3, 15)  # the last is all there are
    config.previous_without_markers = (0, 1, 3)

    config.bilevel = ConfigDict()
    config.bilevel.previous = 3
    config.bilevel.compression = 4
    config.bilevel.compressions = (2, 4, 8, 16)
    config.bilevel.top = (1, 2, 4)

    config.smoke = ConfigDict()
    config.smoke.model = ""
    config.smoke.documents = ConfigDict({"count": 2, "sections": 5, "tokens": 32, "facts": 1, "block": 16})
    config.smoke.previous = (0, 4)
    config.smoke.previous_without_markers = (0,)
    config.smoke.bilevel = ConfigDict({"previous": 0, "compressions": (4,), "top": (1,)})
    return config
