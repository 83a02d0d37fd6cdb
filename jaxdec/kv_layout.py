"""In which layout a batch keeps its keys and values."""

import numpy as np

from jaxdec.cache.paged import PAGE_SIZE
from jaxdec.decoding.paging import Paging
from jaxdec.decoding.state import Prompt

KV_LAYOUTS = ("contiguous", "paged")


def check_layout(kv_layout: str):
    """Raise ``ValueError`` for a layout that there is not."""
    if kv_layout not in KV_LAYOUTS:
        raise ValueError(f"kv_layout must be one of {', '.join(KV_LAYOUTS)}, got {kv_layout!r}")


def in_layout(prompt: Prompt, kv_layout: str, page_size: int = PAGE_SIZE) -> Prompt:
    """The batch in a layout.

    Args:
      prompt: the batch, with what its rows share: that is kept by itself, and not in pages.
      kv_layout: ``"contiguous"``, as much room for each row as the longest needs, or ``"paged"``, as much as it needs itself.
      page_size: tokens of a page.

    Raises:
      ValueError: another layout.
    """
    check_layout(kv_layout)
    if kv_layout == "contiguous":
        return prompt.replace(paging=None)
    own = np.array(prompt.length)
    if prompt.sharing is not None:
        for spans, lengths in zip(prompt.sharing.spans, prompt.sharing.length):
            for (begin, end), length in zip(spans, np.asarray(lengths)):
                own[begin:end] -= length
    return prompt.replace(paging=Paging.of(own, np.asarray(prompt.max_new_tokens), prompt.capacity, page_size))
