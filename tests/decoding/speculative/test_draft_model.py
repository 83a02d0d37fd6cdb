"""Draft models: what they draw, as chain and as tree, and what their cache holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.decoding import Autoregressive, Prompt, Sampling, decode, stream
from jaxdec.decoding.loop import UNLIMITED, advance, start
from jaxdec.decoding.speculative import DraftModel, Speculative, SpeculativeSampling
from jaxdec.decoding.speculative.tree import check_tree
from jaxdec.models.layer_skip import skip_layers
from tests.decoding.speculative.drafters import DrawnFromLaw
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.reference import full_logits
from tests.tiny_models import markov_model, tiny_transformer

PROMPTS = [[3, 1, 4, 1, 5], [9, 2]]


def pair():
    draft = tiny_transformer(seed=1, scale=4.0)
    return tiny_transformer(scale=4.0).accompanied(draft=draft), draft


@pytest.mark.slow
def test_a_chain_is_the_drafts_own_greedy_text_and_its_cache_follows_the_target():
    model, draft = pair()
    method = Speculative(DraftModel((1, 1, 1)))
    propose = jax.jit(method.drafter.propose)
    for state in stream(method, model, Prompt.create(PROMPTS, 9)):
        for row in np.flatnonzero(~np.asarray(state.done)):
            text = state.tokens[row, : int(state.length[row])].tolist()
            tree, after = propose(model, state.drafter, state)
            for token in tree.tokens[row].tolist():
                assert token == int(full_logits(draft, text)[-1].argmax())
                text.append(token)
            assert int(after.cache.length[row]) == int(state.length[row]), "the draft's own guesses are forgotten"


def test_a_tree_holds_the_most_probable_tokens_below_every_node():
    model, draft = pair()
    method = DraftModel((3, 2))
    assert (method.num_nodes, method.max_depth, method.is_chain) == (9, 2, False)
    state = start(Speculative(method), model, Prompt.create(PROMPTS, 9))
    tree, _ = jax.jit(method.propose)(model, state.drafter, state)
    check_tree(tree, model.vocab_size, 2)
    for row in range(2):
        text = state.tokens[row, : int(state.length[row])].tolist()
        first = np.argsort(full_logits(draft, text)[-1])[::-1][:3].tolist()
        assert tree.tokens[row, :3].tolist() == first
        for node, token in enumerate(first):
            below = np.argsort(full_logits(draft, [*text, token])[-1])[::-1][:2].tolist()
            assert tree.tokens[row, 3 + 2 * node : 5 + 2 * node].tolist() == below
            assert tree.parents[row, 3 + 2 * node : 5 + 2 * node].tolist() == [node, node]


@pytest.mark.slow
def test_a_draft_equal_to_its_target_is_always_accepted():
    model = tiny_transformer(scale=4.0)
    for sampling in (Sampling(temperature=0), Sampling(temperature=1.0)):
        method = Speculative(DraftModel((1, 1, 1), sampling), sampling, SpeculativeSampling())
        both = model.accompanied(draft=model)
        state = advance(method, both, start(method, both, Prompt.create(PROMPTS, 13)), UNLIMITED)
        assert method.result(state).target_calls.tolist() == [[4], [4]], "the prefill and 12 tokens by fours"


@pytest.mark.slow
def test_acceptance_is_the_overlap_of_the_two_laws():
    """sum_x min(p, q): measured at the first node of chains drawn from mixtures of a foreign law and the target's own."""
    model, table = markov_model(6, seed=1, concentration=0.9)
    rates = []
    for mix in (0.0, 1.0):
        drafter = DrawnFromLaw(1, 6, mix)
        method = Speculative(drafter, Sampling(), SpeculativeSampling())
        state = start(method, model, Prompt.create([[0]] * 2000, 3))
        root = np.asarray(state.tokens[:, 1])
        overlap = np.minimum(table, np.exp(np.asarray(drafter.law(model)))).sum(1)
        state = advance(method, model, state, 1)
        rates.append(float(state.stats.accepted.sum() / state.stats.drafted.sum()))
        # Rows whose first token ended nothing all took one step.
        assert rates[-1] == pytest.approx(overlap[root].mean(), abs=0.03)
    assert rates == sorted(rates)
    assert rates[-1] == 1.0


@pytest.mark.slow
def test_disjoint_laws_accept_nothing():
    model, _ = markov_model(6, seed=1)
    half = jnp.where(jnp.arange(6) < 3, 0.0, -jnp.inf)
    target = model.replace(params={"log_table": jnp.broadcast_to(half, (6, 6))})
    draft = model.replace(params={"log_table": jnp.broadcast_to(half[::-1], (6, 6))})
    method = Speculative(DraftModel((1, 1), Sampling()), Sampling(), SpeculativeSampling())
    both = target.accompanied(draft=draft)
    state = advance(method, both, start(method, both, Prompt.create([[0]] * 50, 8)), UNLIMITED)
    assert state.stats.accepted.sum() == 0
    assert (np.asarray(method.result(state).tokens)[:, 0, :8] < 3).all()


@pytest.mark.slow
def test_skipped_layers_share_the_parameters():
    model = tiny_transformer(scale=4.0, num_layers=4)
    draft = skip_layers(model, [0, 3])
    assert draft.module.config.num_layers == 2
    assert draft.params["layer_1"] is model.params["layer_3"]
    assert full_logits(skip_layers(model, range(4)), [1, 2, 3]) == pytest.approx(full_logits(model, [1, 2, 3]))
    prompt = Prompt.create(PROMPTS, 12)
    plain = decode(Autoregressive(), model, prompt)
    drafted = decode(Speculative(DraftModel((1, 1))), model.accompanied(draft=draft), prompt)
    np.testing.assert_array_equal(plain.tokens[..., :12], drafted.tokens[..., :12])
    for layers in ([], [1, 0], [0, 4], [-1, 2], [1, 1]):
        with pytest.raises(ValueError, match="layers must be increasing numbers between 0 and 3"):
            skip_layers(model, layers)
    with pytest.raises(ValueError, match="layers can be skipped in a Transformer, and the model is a MarkovModule"):
        skip_layers(markov_model()[0], [0])


def test_a_missing_or_foreign_draft_is_refused():
    method, prompt = Speculative(DraftModel()), Prompt.create([[1]], 2)
    with pytest.raises(ValueError, match=r"model\.companions has no 'draft'"):
        decode(method, tiny_transformer(), prompt)
    with pytest.raises(ValueError, match="the draft model has a vocabulary of 6 tokens, the model one of 41"):
        decode(method, tiny_transformer().accompanied(draft=markov_model()[0]), prompt)
    with pytest.raises(ValueError, match="branching must be a list of numbers of at least 1"):
        DraftModel((2, 0))


def test_processed_laws_are_what_is_drafted_and_declared():
    """Temperature and top-k apply to both sides: the declared log-probabilities are those of the processed law."""
    model, draft = pair()
    sampling = Sampling(temperature=0.7, top_k=5)
    method = DraftModel((1, 1), sampling)
    state = start(Speculative(method, sampling, SpeculativeSampling()), model, Prompt.create(PROMPTS, 9))
    tree, _ = jax.jit(method.propose)(model, state.drafter, state)
    assert tree.log_probs is not None
    for row in range(2):
        text = state.tokens[row, : int(state.length[row])].tolist()
        expected = sampling.log_probs(jnp.asarray(full_logits(draft, text)[-1]))
        np.testing.assert_allclose(jnp.exp(tree.log_probs[row, 0]), jnp.exp(expected), atol=1e-4)
        assert (jnp.exp(tree.log_probs) > 0).sum(-1).tolist() == [[5, 5], [5, 5]]
        assert jax.numpy.isfinite(tree.log_probs[row, 0, tree.tokens[row, 0]])
