"""What drafting costs: the time of ``propose`` and ``observe`` alone, beside that of a target step.

In the middle of a decoding, the drafter proposes and observes again and again behind the same text, in one compiled loop; the
target is not called. ``count + 1`` repetitions less one are timed, so that what the program does once drops out. The choice of
the tree's size and the checking of guesses are the engine's and not counted here.
"""

import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from jaxdec.decoding import Prompt
from jaxdec.decoding.loop import advance, start
from jaxdec.decoding.speculative import Speculative
from jaxdec.decoding.speculative.engine import SpeculativeState, node_depths
from jaxdec.decoding.speculative.step_cost import step_milliseconds
from jaxdec.language_model import LanguageModel

STEPS_BEFORE = 8


def drafting_cost(
    method: Speculative, model: LanguageModel, prompt: Prompt, seconds: float = 0.2, repeats: int = 3
) -> dict[str, float]:
    """Milliseconds of drafting and of a target step over one token behind as long a text, and their ratio.

    Args:
      method: whose drafter is timed.
      model: with the companions that the drafter needs.
      prompt: of batch 1; the drafter works behind its text and that of the first steps.
      seconds: spent on each of ``repeats``, of which the median counts.
    """
    state = advance(method, model, start(method, model, prompt), STEPS_BEFORE)
    verified, after = one_step(method, model, state)

    def milliseconds(count: int) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(draft_again(method, model, state, verified, after, count))
        return (time.perf_counter() - begin) * 1e3

    milliseconds(1)
    rough = milliseconds(5) / 5
    count = max(5, min(1000, round(seconds * 1e3 / max(rough, 1e-3))))
    drafting = statistics.median((milliseconds(count + 1) - milliseconds(1)) / count for _ in range(repeats))
    bare = model.replace(companions={})
    step = step_milliseconds(bare, 1, context=int(state.length[0]), seconds=repeats * seconds, repeats=repeats)
    return {"drafting_ms": drafting, "step_ms": step, "share": drafting / step}


@functools.partial(jax.jit, static_argnums=0)
def one_step(method: Speculative, model: LanguageModel, state: SpeculativeState) -> tuple[Any, SpeculativeState]:
    """The outcome of a step, as a drafter observes it: what was verified, and the text afterwards."""
    tree, _ = method.drafter.propose(model, state.drafter, state)
    tree = tree.replace(tokens=tree.tokens.astype(jnp.int32), parents=tree.parents.astype(jnp.int32))
    depth = node_depths(tree, method.drafter.max_depth)
    checked, _ = method.check(model, state, tree, depth, tree.num_nodes, state.cache)
    return checked.verified, method.emit(state, tree, depth, jnp.int32(tree.num_nodes), checked)


@functools.partial(jax.jit, static_argnums=0)
def draft_again(
    method: Speculative, model: LanguageModel, state: SpeculativeState, verified: Any, after: Any, count: int
) -> Any:
    """Propose and observe ``count`` times."""
    drafter = method.drafter

    def once(_: Any, carry: Any) -> Any:
        drafter_state, nothing = carry
        # Always 0, which the compiler does not know: otherwise it would draft once, before the loop.
        text = state.replace(length=state.length + nothing)
        tree, drafter_state = drafter.propose(model, drafter_state, text)
        drafter_state = drafter.observe(model, drafter_state, tree, verified, text, after)
        used = jnp.where(tree.valid, tree.tokens + tree.parents, 0)  # of all that was proposed; at least -2
        return drafter_state, jnp.minimum(used.astype(jnp.int32).min() + 2, 0)

    return jax.lax.fori_loop(0, count, once, (state.drafter, jnp.int32(0)))
