"""Classifiers of embeddings whose parameters all learn from every example: a linear map, and one hidden layer."""

import flax.linen as nn

from jaxdec.typing import Array, Float


class LinearProbe(nn.Module):
    """``W x + b`` of a whole embedding, with the tokens of one that has several side by side."""

    num_classes: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, embeddings: Float[Array, "B *dims"]) -> Float[Array, "B Y"]:
        """Logits."""
        return nn.Dense(self.num_classes, self.use_bias)(embeddings.reshape(embeddings.shape[0], -1))


class MLPProbe(nn.Module):
    """The same behind a hidden layer of rectified units."""

    num_classes: int
    width: int = 128

    @nn.compact
    def __call__(self, embeddings: Float[Array, "B *dims"]) -> Float[Array, "B Y"]:
        """Logits."""
        hidden = nn.relu(nn.Dense(self.width)(embeddings.reshape(embeddings.shape[0], -1)))
        return nn.Dense(self.num_classes)(hidden)
