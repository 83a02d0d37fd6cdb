"""Steps and prefills by rules under the stopwatch. Runs inside a worker process.

Times do not depend on what a text says, but for rules that read as much as they find. Caches are random, so are prompts, and
positions may lie behind those that the model was trained for.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import machine
from experiments.benchmarks.kernels.device_time import wall_seconds
from experiments.benchmarks.smoke_model import write_smoke_model
from experiments.record import environment
from jaxdec import load
from jaxdec.attention.dense import SlotMask, dense_attention
from jaxdec.attention.sparse.gathered import sparse_attention
from jaxdec.cache import ContiguousCache
from jaxdec.cache.observed import ObservedCache
from jaxdec.compat import CompileClock
from jaxdec.context_rules import attention_rule, kv_cache_rule, with_rules
from jaxdec.decoding import Prompt
from jaxdec.decoding.chunks import LARGEST_CHUNK
from jaxdec.decoding.long_prompts import observed_positions, settle
from jaxdec.decoding.prefill import feed_prompt
from jaxdec.language_model import LanguageModel

DENSE = "dense"
Passes = Callable[[int], Any]


class RuleEngine:
    """All rules, in one process."""

    def __init__(self, model: str, smoke: bool, folder: str):
        """Load the model; of a smoke run a tiny random one, written to ``folder``."""
        path = model
        if smoke:
            path = str(write_smoke_model(Path(folder) / "random.gguf"))
        self.model: LanguageModel = load(path).model
        self.name = model
        self._passes: dict[tuple[str, str], Passes] = {}
        self._count: dict[tuple[str, str], int] = {}
        self._held: dict[tuple[str, str], int] = {}

    def describe(self) -> dict[str, Any]:
        """Versions, device, and the sides, which are added by the suite."""
        import jaxdec

        return {
            "engine": "jaxdec",
            "version": jaxdec.__version__,
            "jax": jax.__version__,
            "model": self.name,
            "dtype": "float32",
            "threads": machine.num_threads(),
        }

    def environment(self) -> dict[str, Any]:
        """Hardware, versions and commit."""
        return environment()

    def warm_up(self, side: str, case: str, kind: str, rules: dict[str, Any], seconds: float, **sizes: Any) -> Any:
        """Compile, run once, and find out how many passes take about ``seconds``."""
        make = {"step": self._steps, "prefill": self._prefill, "attention": self._attention}[kind]
        clock = CompileClock()
        with clock:
            self._passes = {(case, side): make(rules[side], (case, side), **sizes), **self._passes}
            self._passes[case, side](1)
        once = wall_seconds(lambda _: self._passes[case, side](1), 1)
        self._count[case, side] = int(min(max(seconds / once, 1), 200))
        return {"compile_seconds": clock.seconds}

    def measure(self, side: str, case: str, **_: Any) -> dict[str, float]:
        """Milliseconds per pass, and the bytes of keys and values that are held."""
        count = self._count[case, side]
        seconds = wall_seconds(lambda _: self._passes[case, side](count), 1) / count
        return {"milliseconds": 1e3 * seconds, "cache_megabytes": self._held.get((case, side), 0) / 1e6}

    def _steps(self, rules: dict[str, str], key: tuple[str, str], context: int, batch: int) -> Passes:
        """One token per row behind ``context`` random ones, again and again: nothing is committed."""
        model, room = self.model, context + 128
        like = model.init_cache(1, 1)
        assert isinstance(like, ContiguousCache)
        prompt = Prompt.create([[1] * context] * batch, 16).replace(capacity=room)
        prompt = with_rules(prompt, **rules)
        shape = (
            batch,
            like.keys[0].shape[1],
            prompt.tokens.shape[1] if rules.get("kv_cache") else room,
            like.keys[0].shape[3],
        )

        def random(number: int) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(jax.random.key(0), number), shape)

        layers = range(len(like.keys))
        keys, values = (tuple(random(2 * layer + side) for layer in layers) for side in (0, 1))
        whole = ContiguousCache(keys, values, jnp.full(batch, context, jnp.int32))
        cache: Any = whole
        if prompt.rules is not None:
            cache = settled_at_random(whole, prompt)
        self._held[key] = cache.nbytes
        held = [cache]

        def step(model: LanguageModel, cache: Any, passes: jax.Array) -> Any:
            def once(_: Any, carry: Any) -> Any:
                token, cache = carry
                output = model(token[:, None], jnp.full((batch, 1), context), cache)
                token = output.logits[:, 0].argmax(-1).astype(jnp.int32)
                return token, output.cache.commit(None, jnp.zeros(batch, jnp.int32))

            return jax.lax.fori_loop(0, passes, once, (jnp.ones(batch, jnp.int32), cache))

        run = jax.jit(step, donate_argnums=1)

        def passes(count: int) -> Any:
            token, held[0] = run(model, held[0], jnp.int32(count))
            return token

        return passes

    def _prefill(self, rules: dict[str, str], key: tuple[str, str], context: int, layers: int) -> Passes:
        """A random prompt through the first layers of the model."""
        module: Any = self.model.module
        config = dataclasses.replace(module.config, num_layers=layers, max_position_embeddings=2 * context)
        model = self.model.replace(module=dataclasses.replace(module, config=config))
        tokens = np.random.default_rng(0).integers(0, model.vocab_size, context).tolist()
        prompt = with_rules(Prompt.create([tokens], 16), **rules)
        run = jax.jit(lambda model, prompt: feed_prompt(model, prompt)[0])
        return lambda count: [run(model, prompt).block_until_ready() for _ in range(count)][-1]

    def _attention(self, rules: dict[str, str], key: tuple[str, str], context: int) -> Passes:
        """Attention of one layer over a random prompt, dense in the chunks that a prompt is fed in."""
        like = self.model.init_cache(1, 1)
        assert isinstance(like, ContiguousCache)
        module: Any = self.model.module
        kv_heads, width = like.keys[0].shape[1], like.keys[0].shape[3]
        one = jax.random.key(1)
        q, k, v = (
            jax.random.normal(jax.random.fold_in(one, number), (1, context, heads, width))
            for number, heads in enumerate((module.config.num_heads, kv_heads, kv_heads))
        )
        rule = attention_rule(rules.get("attention"))
        if rule is not None:
            sparse = jax.jit(lambda q, k, v: sparse_attention(q, k, v, jnp.full(1, context), rule))
            return lambda count: [sparse(q, k, v).block_until_ready() for _ in range(count)][-1]
        chunk = min(LARGEST_CHUNK, context)
        swapped = k.swapaxes(1, 2), v.swapaxes(1, 2)

        @jax.jit
        def dense(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            def part(number: Any, out: jax.Array) -> jax.Array:
                start = number * chunk
                mask = SlotMask.behind(start[None], context, chunk, None)
                new = dense_attention(jax.lax.dynamic_slice_in_dim(q, start, chunk, axis=1), k, v, mask)
                return jax.lax.dynamic_update_slice_in_dim(out, new, start, axis=1)

            return jax.lax.fori_loop(0, context // chunk, part, jnp.zeros_like(q))

        return lambda count: [dense(q, *swapped).block_until_ready() for _ in range(count)][-1]


def settled_at_random(whole: ContiguousCache, prompt: Prompt) -> Any:
    """The cache that decoding goes on with, from random entries; queries that a rule wants to see are random as well."""
    assert prompt.rules is not None
    fed: Any = whole
    positions = observed_positions(prompt.rules, prompt)
    if positions is not None:
        _, kv_heads, _, width = whole.keys[0].shape
        shape = (*positions.shape, kv_heads, width)
        queries = tuple(
            jax.random.normal(jax.random.fold_in(jax.random.key(2), layer), shape) for layer in range(len(whole.keys))
        )
        fed = ObservedCache(whole, positions, queries)
    return jax.jit(settle)(fed, prompt)


def checked(rules: dict[str, str]) -> dict[str, str]:
    """The rules, if there are such.

    Raises:
      ValueError: there are not.
    """
    attention_rule(rules.get("attention"))
    kv_cache_rule(rules.get("kv_cache"))
    return rules
