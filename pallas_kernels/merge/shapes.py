"""Shapes of attention states ``o [..., D]``: decoding steps of real models, and odd ones."""

SHAPES = {
    "smollm2-135m": (16, 9, 64),
    "llama-3-8b": (32, 32, 128),
    "qwen3-8b": (32, 32, 128),
    "codellama-34b": (8, 64, 128),
    "one number": (1,),
    "odd": (3, 5, 7, 33),
}
