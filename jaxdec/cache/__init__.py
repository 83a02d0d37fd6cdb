"""Key/value-cache layouts. All follow one protocol, :class:`Cache`: append, attend, commit, fork."""

from jaxdec.cache.contiguous import ContiguousCache
from jaxdec.cache.paged import PagedCache
from jaxdec.cache.protocol import Cache
from jaxdec.cache.shared_prefix import PrefixLevel, SharedPrefixCache

__all__ = ["Cache", "ContiguousCache", "PagedCache", "PrefixLevel", "SharedPrefixCache"]
