"""Drafters made for tests: always right, always wrong, and random trees."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdec.decoding.speculative.tree import DraftTree, chain


@dataclasses.dataclass(frozen=True)
class Scripted:
    """Drafts what plain decoding is known to emit (``shift=0``) or something else everywhere (``shift > 0``)."""

    script: tuple[tuple[int, ...], ...]
    num_nodes: int
    vocab_size: int
    shift: int = 0

    is_chain = True
    is_read_only = True

    @property
    def max_depth(self) -> int:
        return self.num_nodes

    def init(self, model, prompt):
        return None

    def propose(self, model, drafter_state, text):
        script = jnp.asarray(self.script)
        index = (text.length - text.prompt_length)[:, None] + jnp.arange(self.num_nodes)
        tokens = jnp.take_along_axis(script, jnp.minimum(index, script.shape[1] - 1), axis=1)
        count = jnp.full_like(text.length, self.num_nodes)
        return chain((tokens + self.shift) % self.vocab_size, count), None

    def observe(self, model, drafter_state, tree, verified, before, after):
        return None


@dataclasses.dataclass(frozen=True)
class RandomTrees:
    """Random topology, random tokens, random padding; half of the tokens are copied from a script."""

    script: tuple[tuple[int, ...], ...]
    num_nodes: int
    max_depth: int
    vocab_size: int
    is_chain = False
    is_read_only = False

    def init(self, model, prompt):
        return jax.random.key(7)

    def propose(self, model, drafter_state, text):
        rows, nodes = text.tokens.shape[0], self.num_nodes
        keys = jax.random.split(drafter_state, 5)
        parents = jnp.floor(jax.random.uniform(keys[0], (rows, nodes)) * (jnp.arange(nodes) + 1)).astype(jnp.int32) - 1
        valid = jax.random.bernoulli(keys[1], 0.85, (rows, nodes))
        depth = jnp.zeros((rows, nodes + 1), jnp.int32)
        for node in range(nodes):  # a node under a padding or too deep parent becomes padding
            parent = parents[:, node]
            level = jnp.take_along_axis(depth, parent[:, None] + 1, 1)[:, 0] + 1
            sound = (parent < 0) | jnp.take_along_axis(valid, jnp.maximum(parent, 0)[:, None], 1)[:, 0]
            valid = valid.at[:, node].set(valid[:, node] & sound & (level <= self.max_depth))
            depth = depth.at[:, node + 1].set(level)
        script = jnp.resize(jnp.asarray(self.script), (rows, len(self.script[0])))
        index = (text.length - text.prompt_length)[:, None] + depth[:, 1:] - 1
        right = jnp.take_along_axis(script, jnp.minimum(index, script.shape[1] - 1), axis=1)
        wild = jax.random.randint(keys[2], (rows, nodes), 0, self.vocab_size)
        tokens = jnp.where(jax.random.bernoulli(keys[3], 0.6, (rows, nodes)), right, wild)
        # Equal siblings are not allowed: the later one becomes padding, with all that hangs on it.
        same = (parents[:, :, None] == parents[:, None]) & (tokens[:, :, None] == tokens[:, None])
        earlier = jnp.tril(jnp.ones((nodes, nodes), bool), -1)
        valid = valid & ~(same & earlier & valid[:, None]).any(-1)
        for node in range(nodes):
            parent = parents[:, node]
            sound = (parent < 0) | jnp.take_along_axis(valid, jnp.maximum(parent, 0)[:, None], 1)[:, 0]
            valid = valid.at[:, node].set(valid[:, node] & sound)
        return DraftTree(tokens, parents, valid, valid), keys[4]

    def observe(self, model, drafter_state, tree, verified, before, after):
        return drafter_state


@dataclasses.dataclass(frozen=True)
class DrawnFromLaw:
    """Draws a chain from a Markov law of its own and says so: for speculative sampling. ``mix`` moves it to the target's."""

    num_nodes: int
    vocab_size: int
    mix: float = 0.0

    is_chain = True
    is_read_only = False

    @property
    def max_depth(self) -> int:
        return self.num_nodes

    def init(self, model, prompt):
        return prompt.keys

    def law(self, model):
        """Log-probabilities ``[V, V]``."""
        own = jax.nn.softmax(2.0 * jax.random.normal(jax.random.key(11), (self.vocab_size, self.vocab_size)), axis=-1)
        return jnp.log((1 - self.mix) * own + self.mix * jnp.exp(model.params["log_table"]))

    def propose(self, model, drafter_state, text):
        law = self.law(model)
        token = jnp.take_along_axis(text.tokens, text.length[:, None] - 1, axis=1)[:, 0]
        keys = jax.vmap(jax.random.fold_in)(drafter_state, -text.length)
        tokens, log_probs = [], []
        for node in range(self.num_nodes):
            log_probs.append(law[token])
            node_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, node)
            token = jax.vmap(jax.random.categorical)(node_keys, law[token])
            tokens.append(token)
        count = jnp.full_like(text.length, self.num_nodes)
        return chain(jnp.stack(tokens, axis=1), count, jnp.stack(log_probs, axis=1)), drafter_state

    def observe(self, model, drafter_state, tree, verified, before, after):
        return drafter_state
