"""Arms: every one of them is a method that can be built."""

import pytest

from experiments.evaluation.arms import ARMS, DEFAULT_ARMS, auto_rows, choose_arms, method_of
from jaxdec.decoding import Autoregressive
from jaxdec.decoding.speculative import Speculative

COSTS = {1: 1.0, 4: 1.5, 8: 2.0, 16: 3.0}


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_can_be_built_and_keeps_the_text(name):
    arm = ARMS[name]
    method = method_of(arm, COSTS)
    assert str(method.guarantee) in ("bitwise", "token_identical")
    assert ARMS[arm.baseline].method == "greedy"
    assert ARMS[arm.baseline].dtype == arm.dtype
    if arm.method == "greedy":
        assert isinstance(method, Autoregressive)
    else:
        assert isinstance(method, Speculative)
        assert (method.sizes is not None) == arm.auto


def test_sizes_of_auto_carry_the_cost_of_root_and_nodes():
    assert auto_rows() == [1, 4, 8, 16]
    method = method_of(ARMS["aded_static"], COSTS)
    assert (method.sizes.nodes, method.sizes.costs) == ((0, 3, 7, 15), (1.0, 1.5, 2.0, 3.0))
    assert (method.drafter.num_nodes, method.drafter.window) == (15, 0)
    assert method_of(ARMS["prompt_lookup_7"], {}).drafter.num_nodes == 7
    assert method_of(ARMS["aded_adaptive_63"], {}).drafter.window == 16


def test_baselines_take_part_once_and_just_before_their_arms():
    assert [arm.name for arm in choose_arms(["lookahead", "greedy"])] == ["greedy", "lookahead"]
    named = [arm.name for arm in choose_arms(["int8_prompt_lookup", "aded_static"])]
    assert named == ["int8_greedy", "int8_prompt_lookup", "greedy", "aded_static"]
    assert [arm.name for arm in choose_arms(DEFAULT_ARMS)] == list(DEFAULT_ARMS)
    assert set(ARMS) - set(DEFAULT_ARMS) == {"int8_greedy", "int8_prompt_lookup", "lookahead_56"}


def test_an_unknown_arm_is_refused():
    with pytest.raises(ValueError, match=r"--methods must be some of greedy, prompt_lookup, .*; got 'medusa'"):
        choose_arms(["greedy", "medusa"])
