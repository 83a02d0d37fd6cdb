"""Array types used in signatures across the package.

Shapes are written the jaxtyping way, for example ``Float[Array, "B T D"]``. The letters keep one meaning everywhere:

====== ===========================================   ====== ==========================================
``B``  rows of a batch                               ``H``  query heads
``T``  new tokens in one forward pass                ``G``  key/value heads (``num_kv_heads``)
``S``  slots of a cache (its capacity)               ``E``  width of one head (``head_dim``)
``L``  tokens of a text buffer                       ``D``  width of the residual stream
``V``  vocabulary                                    ``F``  width of the feed-forward layer
``K``  beams, or samples of one prompt               ``A``  tokens of an accepted path
====== ===========================================   ====== ==========================================
"""

from jax import Array
from jaxtyping import Bool, Float, Int, Key, Num, PyTree

__all__ = ["Array", "Bool", "Float", "Int", "Key", "Num", "PyTree"]
