"""Common words: which words of a long list come up most often.

RULER's CWE (Hsieh et al. 2024, arXiv 2404.06654) as in The Sparse Frontier (Nawrot et al. 2025, arXiv 2504.17768): high scope,
as every entry of the list counts. ``num_common`` words come ``common_times`` each, as many others as fit ``rare_times``.
"""

import random

from jaxdec.evaluation.long_context.sample import Count, Sample, check_sizes, count_words, most_that_fits, prompt_text
from jaxdec.evaluation.long_context.words import NOUNS

INTRO = "Below is a numbered list of words. Some words come up more often than the others."
NUM_CANDIDATES = 8


def common_words(
    budget: int,
    seed: int,
    *,
    count: Count = count_words,
    ask: str = "both",
    num_common: int = 4,
    common_times: int = 12,
    rare_times: int = 2,
) -> Sample:
    """A prompt of at most ``budget`` tokens; graded by intersection over union of the words named.

    Args:
      budget: tokens, as ``count`` counts them.
      seed: equal seeds give equal samples.
      count: length of a text.
      ask: where the question stands: ``"both"``, ``"before"`` or ``"after"`` the text.
      num_common: common words.
      common_times: how often each of them comes.
      rare_times: how often each of the others comes, less.

    Raises:
      ValueError: an argument out of range, or a budget too small for the common words and another one.
    """
    check_sizes(budget, ask, num_common=num_common, common_times=common_times, rare_times=rare_times)
    if common_times <= rare_times:
        raise ValueError(f"common_times must be more than rare_times, {rare_times}; got {common_times}")
    if num_common >= len(NOUNS):
        raise ValueError(f"num_common must be at most {len(NOUNS) - 1}, got {num_common}")
    draw = random.Random(f"common_words {seed}")
    words = draw.sample(NOUNS, len(NOUNS))
    common, rare = words[:num_common], words[num_common:]
    first, rest = rare[0], rare[1:]
    entries = [word for word in common for _ in range(common_times)]
    entries += [word for word in (first, *rest) for _ in range(rare_times)]
    place = [draw.random() for _ in entries]
    always = num_common * common_times + rare_times
    question = (
        f"Which {num_common} words come up {common_times} times each? All others come up {rare_times} times each."
    )

    def render(more: int) -> str:
        order = sorted(range(always + more * rare_times), key=place.__getitem__)
        text = "\n".join(f"{number}. {entries[index]}" for number, index in enumerate(order, 1))
        return prompt_text(INTRO, text, question, f"Answer with the {num_common} words, separated by commas.", ask)

    fitting = most_that_fits(render, len(rest), budget, count)
    wrong = draw.sample(rare[: fitting + 1], min(NUM_CANDIDATES - 1, fitting + 1))
    return Sample(
        task="common_words",
        prompt=render(fitting),
        answers=tuple(common),
        grading="set",
        cue="A word that comes up most often is ",
        candidates=(common[0], *wrong),
    )
