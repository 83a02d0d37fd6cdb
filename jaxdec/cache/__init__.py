"""Key/value-cache layouts. All follow one protocol, :class:`Cache`: append, attend, commit, fork."""

from jaxdec.cache.contiguous import ContiguousCache
from jaxdec.cache.protocol import Cache

__all__ = ["Cache", "ContiguousCache"]
