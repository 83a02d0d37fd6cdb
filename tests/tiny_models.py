"""Language models small enough to check a decoding method against by hand."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdec.cache import ContiguousCache
from jaxdec.language_model import LanguageModel
from jaxdec.models import DecoderConfig, Transformer
from jaxdec.models.crate import CrateConfig
from jaxdec.models.crate_lm import CrateLM, CrateLMConfig

TINY = DecoderConfig(
    architecture="llama",
    vocab_size=41,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_position_embeddings=512,
)


def tiny_transformer(
    seed: int = 0, dtype: Any = jnp.float32, row_tile: int = 1, scale: float = 8.0, **changes: Any
) -> LanguageModel:
    """A random transformer whose logits are spread widely enough to have a clear best token.

    ``scale`` multiplies every initial weight matrix; ``changes`` go to its config.
    """
    module = Transformer(dataclasses.replace(TINY, **changes), dtype=dtype, row_tile=row_tile)
    zeros = jnp.zeros((1, 1), jnp.int32)
    params = module.init(jax.random.key(seed), zeros, zeros, module.init_cache(1, 2))["params"]
    return LanguageModel(module, jax.tree.map(lambda leaf: leaf * scale if leaf.ndim == 2 else leaf, params))


class MarkovModule(nn.Module):
    """The next token depends on the last one alone: ``logits = log table[token]``; all laws are known exactly."""

    num_states: int

    @property
    def vocab_size(self) -> int:
        """Number of states."""
        return self.num_states

    @property
    def max_positions(self) -> int:
        """No position is used."""
        return 1 << 20

    def init_cache(self, batch_size: int, capacity: int) -> ContiguousCache:
        """A cache that holds each token's id, so that tests can see what was committed."""
        return ContiguousCache.create(
            num_layers=1, batch_size=batch_size, capacity=capacity, num_kv_heads=1, head_dim=2, dtype=jnp.float32
        )

    @nn.compact
    def __call__(self, tokens, positions, cache, visible=None, logits_at=None):
        """Look the rows up."""
        table = self.param("log_table", nn.initializers.zeros, (self.num_states, self.num_states))
        entry = jnp.stack([tokens, positions], axis=-1)[:, :, None].astype(jnp.float32)
        cache = cache.append(0, entry, entry)
        hidden = jax.nn.one_hot(tokens, self.num_states, dtype=table.dtype)
        wanted = tokens if logits_at is None else jnp.take_along_axis(tokens, logits_at, axis=1)
        return table[wanted], hidden, cache


def markov_model(num_states: int = 6, seed: int = 0, concentration: float = 0.7) -> tuple[LanguageModel, np.ndarray]:
    """Return a Markov language model and its transition table ``[V, V]`` (rows sum to one)."""
    table = np.random.default_rng(seed).dirichlet(np.full(num_states, concentration), size=num_states)
    params = {"log_table": jnp.asarray(np.log(table), jnp.float32)}
    return LanguageModel(MarkovModule(num_states), params), table


def tiny_crate(seed: int = 0, dtype: Any = jnp.float32, scale: float = 4.0) -> LanguageModel:
    """A random CRATE language model whose logits are spread widely enough to have a clear best token."""
    layers = CrateConfig(hidden_size=32, num_layers=2, num_heads=4)
    module = CrateLM(CrateLMConfig(layers, vocab_size=TINY.vocab_size, max_position_embeddings=512), dtype=dtype)
    zeros = jnp.zeros((1, 1), jnp.int32)
    params = module.init(jax.random.key(seed), zeros, zeros, module.init_cache(1, 2))["params"]
    tables = ("token_table", "position_table")
    return LanguageModel(module, {name: leaf * scale if name in tables else leaf for name, leaf in params.items()})
