"""Oracle@k: what somebody who always picks the best of the first ``k`` texts would get.

Vijayakumar et al. 2016 (arXiv 1610.02424, sec. 5): ``oracle@k = max of the score over the first k texts of the list``, averaged
over inputs. It never falls as ``k`` grows.
"""

import math
from collections.abc import Sequence


def oracle_at_k(scores: Sequence[float], k: int) -> float:
    """Best of the first ``k`` scores.

    Args:
      scores: of the texts of one list, in the order in which the method ranks them.
      k: texts looked at.

    Raises:
      ValueError: no scores, ``k`` below 1 or beyond the list, or a score that is NaN.
    """
    if len(scores) == 0:
        raise ValueError("scores is empty: give at least one")
    if not 1 <= k <= len(scores):
        raise ValueError(f"k must be between 1 and the number of scores ({len(scores)}), got {k}")
    if any(math.isnan(score) for score in scores):
        raise ValueError(f"scores holds NaN at index {next(i for i, score in enumerate(scores) if math.isnan(score))}")
    return max(scores[:k])
