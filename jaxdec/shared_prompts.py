"""Whether prompts of a batch are decoded with their common beginnings kept once, and in which order."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdec.decoding.prefix_sharing import PrefixSharing, find_levels, given_levels, sorted_rows
from jaxdec.decoding.state import Prompt

AUTO_SAVES = 512  # tokens that need not be kept; with fewer, the merging costs as much as the reading


def share(
    prompt: Prompt, token_ids: Sequence[Sequence[int]], share_prefixes: Any, texts_per_prompt: int = 1
) -> tuple[Prompt, np.ndarray]:
    """Order a batch so that prompts that begin alike are neighbours, and note what they share.

    Args:
      prompt: the batch.
      token_ids: its prompts.
      share_prefixes: True, False, ``"auto"`` (if at least ``AUTO_SAVES`` tokens need then not be kept), or a tree as
        :func:`jaxdec.decoding.prefix_sharing.given_levels` takes it, for prompts in the order they have.
      texts_per_prompt: samples or beams; they share the whole prompt.

    Returns:
      The batch, and for each prompt the row that it has there.

    Raises:
      ValueError: something else, or a tree that does not fit the prompts.
    """
    rows = list(range(len(token_ids)))
    if share_prefixes is False:
        return prompt, np.array(rows)
    if share_prefixes is True or share_prefixes == "auto":
        rows = sorted_rows(token_ids)
        ordered = [token_ids[row] for row in rows]
        levels = find_levels(ordered)
        saved = sum((node.end - node.begin - 1) * (node.stop - node.start) for nodes in levels for node in nodes)
        saved += (texts_per_prompt - 1) * sum(map(len, token_ids))
        if not saved or (share_prefixes == "auto" and saved < AUTO_SAVES):
            return prompt, np.arange(len(token_ids))
    elif isinstance(share_prefixes, str) or not isinstance(share_prefixes, Sequence):
        raise ValueError(f"share_prefixes must be True, False, 'auto' or a tree of segments, got {share_prefixes!r}")
    else:
        ordered, levels = list(token_ids), given_levels(token_ids, share_prefixes)
    order = np.array(rows)
    fields = {name: getattr(prompt, name)[order] for name in ("tokens", "length", "max_new_tokens", "keys")}
    sharing = PrefixSharing.of(ordered, levels, int(prompt.max_new_tokens.max()), prompt.capacity)
    return prompt.replace(**fields, sharing=sharing), np.argsort(order)
