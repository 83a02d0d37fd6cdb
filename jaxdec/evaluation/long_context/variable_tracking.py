"""Variable tracking: which variables have a value that is passed on from one to the next.

RULER's VT (Hsieh et al. 2024, arXiv 2404.06654) as in The Sparse Frontier (Nawrot et al. 2025, arXiv 2504.17768): high
dispersion, low scope. Each of ``num_chains`` chains gives a number to a variable and copies it ``num_hops`` times; statements
stand in any order among sentences about nothing.
"""

import itertools
import random
import string

from jaxdec.evaluation.long_context.sample import Count, Sample, check_sizes, count_words, most_that_fits, prompt_text
from jaxdec.evaluation.long_context.words import FILLER

INTRO = "Below is a text with assignments to variables. VAR A = 1 gives A the value 1, VAR B = VAR A copies it to B."
NAME_LENGTH = 3


def variable_tracking(
    budget: int,
    seed: int,
    *,
    count: Count = count_words,
    ask: str = "both",
    num_chains: int = 4,
    num_hops: int = 2,
) -> Sample:
    """A prompt of at most ``budget`` tokens; graded by intersection over union of the variables named.

    Args:
      budget: tokens, as ``count`` counts them.
      seed: equal seeds give equal samples.
      count: length of a text.
      ask: where the question stands: ``"both"``, ``"before"`` or ``"after"`` the text.
      num_chains: chains, one of which is asked for.
      num_hops: copies in each.

    Raises:
      ValueError: an argument out of range, or a budget too small.
    """
    check_sizes(budget, ask, num_chains=num_chains, num_hops=num_hops)
    draw = random.Random(f"variable_tracking {seed}")
    names: dict[str, None] = {}
    while len(names) < num_chains * (num_hops + 1):
        names["".join(draw.choices(string.ascii_uppercase, k=NAME_LENGTH))] = None
        names.pop("VAR", None)
    variables = iter(names)
    chains = [[next(variables) for _ in range(num_hops + 1)] for _ in range(num_chains)]
    values = list(map(str, draw.sample(range(10000, 100000), num_chains)))
    statements = []
    for chain, value in zip(chains, values):
        statements.append(f"VAR {chain[0]} = {value}.")
        statements += [f"VAR {new} = VAR {old}." for old, new in itertools.pairwise(chain)]
    sentences = [*statements, *(draw.choice(FILLER) for _ in range(budget))]
    place = [draw.random() for _ in sentences]
    question = f"Which variables have the value {values[0]}, given to them directly or by way of other variables?"

    def render(more: int) -> str:
        order = sorted(range(len(statements) + more), key=place.__getitem__)
        text = " ".join(sentences[index] for index in order)
        return prompt_text(INTRO, text, question, "Answer with their names alone, separated by spaces.", ask)

    fitting = most_that_fits(render, budget, budget, count)
    wrong = [name for chain in chains[1:] for name in chain]
    return Sample(
        task="variable_tracking",
        prompt=render(fitting),
        answers=tuple(chains[0]),
        grading="set",
        cue=f"The variables with the value {values[0]} are {' '.join(chains[0][:-1])} ",
        candidates=(chains[0][-1], *wrong),
    )
