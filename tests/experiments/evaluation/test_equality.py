"""Where texts part, and whether it was a tie."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evaluation.equality import TIE, difference, first_difference, next_logits
from jaxdec.language_model import LanguageModel
from tests.tiny_models import MarkovModule


@pytest.fixture(scope="module")
def model():
    """Behind 1: 2 before 3 by 0.01, and 0 far below; behind anything else: 1."""
    table = np.full((5, 5), -9.0, np.float32)
    table[:, 1] = 4.0
    table[1] = [-9.0, -9.0, 3.01, 3.0, -9.0]
    return LanguageModel(MarkovModule(5), {"log_table": jnp.asarray(table)})


def test_first_difference():
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 4, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == first_difference([1, 2, 3], [1, 2]) == 2
    assert first_difference([], []) is None


def test_next_logits_are_those_behind_the_whole_context(model):
    assert next_logits(model, [1, 1, 4]).tolist() == [-9.0, 4.0, -9.0, -9.0, -9.0]
    assert int(next_logits(model, [4] * 20 + [1]).argmax()) == 2


def parted(model, plain, text, tie):
    found = difference(model, [4], plain, text, tie)
    assert found is not None
    return found


def test_a_difference_between_the_two_best_within_the_tolerance_is_a_tie(model):
    found = parted(model, [1, 2, 1, 2], [1, 2, 1, 3], 0.02)
    assert (found["position"], found["tie"]) == (3, True)
    assert found["gap"] == pytest.approx(0.01, abs=1e-5)
    assert parted(model, [1, 2, 1, 2], [1, 2, 1, 3], 0.005)["tie"] is False


def test_a_token_that_is_not_among_the_two_best_is_no_tie(model):
    assert parted(model, [1, 2], [1, 0], 0.02)["tie"] is False


def test_a_text_that_ends_early_is_no_tie_and_the_same_text_no_difference(model):
    assert parted(model, [1, 2], [1], 0.02)["tie"] is False
    assert difference(model, [4], [1, 2], [1, 2], 0.02) is None


def test_float64_knows_no_tie():
    assert TIE["float64"] == 0.0 < TIE["float32"] < TIE["bfloat16"]
