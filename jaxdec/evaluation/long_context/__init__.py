"""Tasks about long texts whose answers are known: generators by seed and length, and graders.

Natural text, for language models, and the same in a few dozen symbols for models that are trained on them
(:mod:`jaxdec.evaluation.long_context.token_tasks`). After RULER and The Sparse Frontier, with words and templates of our own.
"""

from collections.abc import Callable

from jaxdec.evaluation.long_context.common_words import common_words
from jaxdec.evaluation.long_context.needle import needle
from jaxdec.evaluation.long_context.sample import Sample, count_words, grade, mean_grade
from jaxdec.evaluation.long_context.story_tasks import story_filtering, story_multihop, story_retrieval
from jaxdec.evaluation.long_context.variable_tracking import variable_tracking

LONG_CONTEXT_TASKS: dict[str, Callable[..., Sample]] = {
    "needle": needle,
    "variable_tracking": variable_tracking,
    "common_words": common_words,
    "story_retrieval": story_retrieval,
    "story_multihop": story_multihop,
    "story_filtering": story_filtering,
}
"""``task(budget, seed, *, count, ask, ...)`` by name."""

__all__ = [
    "LONG_CONTEXT_TASKS",
    "Sample",
    "common_words",
    "count_words",
    "grade",
    "mean_grade",
    "needle",
    "story_filtering",
    "story_multihop",
    "story_retrieval",
    "variable_tracking",
]
