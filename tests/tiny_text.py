"""A byte-level tokenizer and models that say a given text, for tests of everything above token ids."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from jaxdec.cache import ContiguousCache
from jaxdec.language_model import LanguageModel
from jaxdec.loading import LoadedModel
from jaxdec.tokenizers import Tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
NUM_TOKENS = 258


def byte_tokenizer(chat_template: str | None = TEMPLATE) -> Tokenizer:
    """One token per byte, so that a character of several bytes is split, and two special tokens (256 and 257)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(text, special=True, normalized=False) for text in ("<|im_start|>", "<|im_end|>")])
    return Tokenizer(backend, eos_token_ids=(257,), chat_template=chat_template)


class ScriptedModule(nn.Module):
    """Says ``script`` whatever it is asked: the token behind position ``p`` is ``script[p + 1]``."""

    script: tuple[int, ...]

    @property
    def vocab_size(self) -> int:
        """Bytes and two special tokens."""
        return NUM_TOKENS

    @property
    def max_positions(self) -> int:
        """Context length."""
        return 256

    def init_cache(self, batch_size: int, capacity: int) -> ContiguousCache:
        """A cache of the smallest kind."""
        return ContiguousCache.create(
            num_layers=1, batch_size=batch_size, capacity=capacity, num_kv_heads=1, head_dim=2, dtype=jnp.float32
        )

    @nn.compact
    def __call__(self, tokens, positions, cache, visible=None, logits_at=None):
        """Look the script up."""
        entry = jnp.stack([tokens, positions], axis=-1)[:, :, None].astype(jnp.float32)
        cache = cache.append(0, entry, entry)
        wanted = positions if logits_at is None else jnp.take_along_axis(positions, logits_at, axis=1)
        script = jnp.asarray(self.script)
        said = script[jnp.minimum(wanted + 1, len(self.script) - 1)]
        return jax.nn.one_hot(said, NUM_TOKENS) * 10.0, jnp.zeros((*tokens.shape, 1)), cache


def model_that_says(answer: str, prompt_length: int, end: bool = True) -> LoadedModel:
    """A model that answers any prompt of ``prompt_length`` tokens with ``answer``."""
    tokenizer = byte_tokenizer()
    script = [0] * prompt_length + tokenizer.encode(answer) + ([257] if end else [])
    return LoadedModel(LanguageModel(ScriptedModule(tuple(script)), {}), tokenizer, "scripted")
