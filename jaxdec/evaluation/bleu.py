"""BLEU of single texts, and of a list against itself.

Papineni et al. 2002: ``BLEU = min(1, e^(1 - r/c)) (p_1 p_2 p_3 p_4)^(1/4)`` with the clipped n-gram precisions ``p_n`` and the
lengths ``c`` of the text and ``r`` of the reference closest in length. Computed by sacrebleu (Post 2018, arXiv 1804.08771) with
its settings for single sentences: orders longer than the text are left out ("effective order"), and the zero precisions are
replaced by ``1/2, 1/4, ...`` of one n-gram (``exp``). Scores run from 0 to 100.

Self-BLEU (Zhu et al. 2018, "Texygen", arXiv 1802.01886) is the mean BLEU of each text of a list against all others of that
list as references: 100 for a list of one text repeated, low for a varied one.
"""

import functools
from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU

TOKENIZERS = ("13a", "char", "intl", "none", "zh")


def sentence_bleu(text: str, references: Sequence[str], tokenize: str = "13a") -> float:
    """BLEU-4 of one text.

    Args:
      text: what is judged; an empty one scores 0.
      references: any number of right texts, at least one.
      tokenize: sacrebleu's word splitter; ``"none"`` where words are already separated by blanks.

    Returns:
      A score in [0, 100].

    Raises:
      ValueError: no references, a string in place of the list of references, or an unknown ``tokenize``.
    """
    if isinstance(references, str):
        raise ValueError(f"references must be a list of texts, got the string {references[:40]!r}")
    if not references:
        raise ValueError("references is empty: BLEU needs at least one")
    return min(
        100.0, _bleu(tokenize).sentence_score(text, list(references)).score
    )  # rounding can leave 100.00000000000004


def self_bleu(texts: Sequence[str], tokenize: str = "13a") -> float:
    """Mean BLEU-4 of each text against the others.

    Args:
      texts: at least two.
      tokenize: as for :func:`sentence_bleu`.

    Returns:
      A score in [0, 100]; lower is more varied.

    Raises:
      ValueError: fewer than two texts, or a string in place of the list.
    """
    if isinstance(texts, str):
        raise ValueError(f"texts must be a list of texts, got the string {texts[:40]!r}")
    if len(texts) < 2:
        raise ValueError(f"texts has {len(texts)} entries: self-BLEU compares at least two")
    scores = [sentence_bleu(text, [*texts[:i], *texts[i + 1 :]], tokenize) for i, text in enumerate(texts)]
    return sum(scores) / len(scores)


@functools.cache
def _bleu(tokenize: str) -> BLEU:
    if tokenize not in TOKENIZERS:
        raise ValueError(f"tokenize must be one of {', '.join(TOKENIZERS)}, got {tokenize!r}")
    return BLEU(effective_order=True, tokenize=tokenize)
