"""Ten thousand tokens decoded with random trees, in float64: every one is plain greedy decoding's. Wrong tree attention is not.

In float64 the rounding of a pass over many nodes and of a pass over one is far below the gap between the two best logits, so
that no difference is excused as a near-tie.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.decoding import Autoregressive, Prompt
from jaxdec.decoding.loop import UNLIMITED, advance, start
from jaxdec.decoding.speculative import Speculative
from jaxdec.language_model import LanguageModel
from tests.decoding.speculative.drafters import RandomTrees
from tests.tiny_models import tiny_transformer

ROWS, BUDGET = 16, 220
CASES = (  # seed of the model, its vocabulary, nodes and depth of the trees
    (0, 41, 9, 4),
    (1, 41, 14, 5),
    (2, 7, 24, 6),
)


class PositionsByOrder(LanguageModel):
    """Places the nodes of a tree one behind another instead of by depth. Prompts and single tokens come out right."""

    def __call__(self, tokens, positions, cache, visible=None, logits_at=None):
        positions = positions[:, :1] + jnp.arange(tokens.shape[1])
        return super().__call__(tokens, positions, cache, visible, logits_at)


class SiblingsSeeEachOther(LanguageModel):
    """Lets a node see all nodes listed before it."""

    def __call__(self, tokens, positions, cache, visible=None, logits_at=None):
        visible = None if visible is None else jnp.broadcast_to(jnp.tri(visible.shape[1], dtype=bool), visible.shape)
        return super().__call__(tokens, positions, cache, visible, logits_at)


def decoded_by(method, model, prompt):
    """``(tokens [B, N], state)``."""
    state = advance(method, model, start(method, model, prompt), UNLIMITED)
    return np.asarray(method.result(state).tokens[:, 0]), state


def mismatches(case, kind: type[LanguageModel] = LanguageModel) -> tuple[int, int]:
    """Decode one case: ``(tokens decoded, tokens that differ from plain greedy decoding)``."""
    seed, vocab_size, num_nodes, max_depth = case
    rng = np.random.default_rng(seed)
    right = tiny_transformer(seed, jnp.float64, vocab_size=vocab_size)
    prompts = [rng.integers(0, vocab_size, rng.integers(1, 20)).tolist() for _ in range(ROWS)]
    prompt = Prompt.create(prompts, BUDGET, seed=seed)
    expected, _ = decoded_by(Autoregressive(), right, prompt)
    assert expected.shape[1] >= BUDGET
    drafter = RandomTrees(tuple(map(tuple, expected.tolist())), num_nodes, max_depth, vocab_size)
    found, state = decoded_by(Speculative(drafter), kind(right.module, right.params), prompt)
    assert state.log_prob.dtype == jnp.float64
    # The trees were worth something: nodes of every depth were fed, not all of them were accepted, and many were.
    drafted, accepted = (np.asarray(getattr(state.stats, name)).sum(0) for name in ("drafted", "accepted"))
    assert (drafted > accepted).all()
    assert accepted.sum() > ROWS * BUDGET / 4
    return expected[:, :BUDGET].size, int((found[:, :BUDGET] != expected[:, :BUDGET]).sum())


@pytest.mark.slow
def test_ten_thousand_tokens_without_a_mismatch():
    with jax.enable_x64(True):
        results = [mismatches(case) for case in CASES]
    assert sum(count for count, _ in results) >= 10_000
    assert sum(wrong for _, wrong in results) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [PositionsByOrder, SiblingsSeeEachOther])
def test_wrong_tree_attention_is_caught(kind):
    with jax.enable_x64(True):
        _, wrong = mismatches(CASES[0], kind)
    assert wrong > 0
