"""Shape of a decoder-only language model of the Llama and Qwen families."""

import dataclasses
import math

ARCHITECTURES = ("llama", "qwen2", "qwen3")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for longer contexts; see :func:`jaxdec.models.rope.scale_frequencies`."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def __post_init__(self):
        if self.kind not in ("linear", "llama3"):
            raise ValueError(f"kind of rope scaling must be 'linear' or 'llama3', got {self.kind!r}")
        if not 0 < self.factor < math.inf:
            raise ValueError(f"factor of rope scaling must be positive and finite, got {self.factor}")
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            low, high = self.low_freq_factor, self.high_freq_factor
            raise ValueError(f"rope scaling needs 0 < low_freq_factor < high_freq_factor, got {low} and {high}")
        if self.original_max_position_embeddings < 1:
            context = self.original_max_position_embeddings
            raise ValueError(f"original_max_position_embeddings of rope scaling must be at least 1, got {context}")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes and switches of :class:`jaxdec.models.transformer.Transformer`."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1e4
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = True
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self):
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {self.architecture!r}")
        sizes = "vocab_size hidden_size intermediate_size num_layers num_heads num_kv_heads head_dim"
        for name in [*sizes.split(), "max_position_embeddings"]:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")
        for name in ("rms_norm_eps", "rope_theta"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
