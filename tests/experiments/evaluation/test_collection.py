"""What drafters remember, and that the prompt at hand is not in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evaluation import collection as module
from experiments.evaluation.collection import FOLDS, Collection, greedy_outputs
from jaxdec.decoding import Autoregressive, Prompt
from jaxdec.decoding.loop import decode
from jaxdec.decoding.speculative import SuffixRetrieval
from tests.tiny_models import markov_model

OUTPUTS = {"a": [1, 2, 3, 4], "b": [5, 6, 7, 8, 9], "c": [1, 2, 9]}


def test_outputs_in_batches_are_those_of_each_prompt_alone(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    model, _ = markov_model(num_states=20, seed=3)
    prompts = {"x": [1, 2, 3], "y": [4], "z": [7, 7]}
    outputs = greedy_outputs(model, prompts, [5], 12)
    assert list(outputs) == ["x", "y", "z"]
    for name, prompt in prompts.items():
        alone = decode(Autoregressive(), model, Prompt.create([prompt], 12, eos_tokens=[5]))
        assert outputs[name] == alone.tokens[0, 0, : alone.length[0, 0]].tolist()
    assert len({len(tokens) for tokens in outputs.values()}) > 1 or len(outputs["x"]) == 12


def occurrences(datastore, tokens):
    """How often tokens occur in a datastore, by plain comparison and by the drafter."""
    flat = np.asarray(datastore.tokens)
    plain = sum(flat[i : i + len(tokens)].tolist() == tokens for i in range(len(flat)))
    _, count, size = SuffixRetrieval(num_nodes=4).find(datastore, jnp.asarray([0, *tokens]), jnp.int32(len(tokens) + 1))
    assert int(count) == plain or int(size) != len(tokens)
    return plain


def test_the_datastore_leaves_the_prompts_fold_out_and_keeps_its_shape():
    memory = Collection(OUTPUTS, 10)
    without = {name: memory.companions("datastore", name)["datastore"] for name in OUTPUTS}
    assert len({datastore.tokens.shape for datastore in without.values()}) == 1
    assert [occurrences(without[name], [6, 7]) for name in "abc"] == [1, 0, 1]
    assert [occurrences(without[name], [1, 2]) for name in "abc"] == [1, 2, 1]
    for datastore in without.values():  # a permutation: the blanked places are in it too
        assert sorted(datastore.suffixes.tolist()) == list(range(datastore.tokens.shape[0]))


def follows_one_two(memory, name):
    tokens, weights = memory.companions("trigram_table", name)["trigram_table"].lookup(jnp.asarray([1, 2]))
    return {int(t): float(w) for t, w in zip(tokens, weights) if w > 0}


def test_the_trigram_table_leaves_the_prompts_fold_out():
    memory = Collection(OUTPUTS, 10)
    assert follows_one_two(memory, "a") == {9: 1.0}
    assert follows_one_two(memory, "b") == {3: 0.5, 9: 0.5}
    assert follows_one_two(memory, "c") == {3: 1.0}


def test_prompts_are_dealt_out_to_folds_in_turn():
    memory = Collection({str(i): [1, 2, 3 + i] for i in range(FOLDS + 2)}, 10)
    assert set(follows_one_two(memory, "1")) == {3 + i for i in range(FOLDS + 2) if i % FOLDS != 1}
    assert (
        memory.companions("trigram_table", "1")["trigram_table"]
        is memory.companions("trigram_table", str(1 + FOLDS))["trigram_table"]
    )


def test_texts_are_in_the_memory_of_every_prompt():
    memory = Collection(OUTPUTS, 10, [[8, 8, 1, 2, 0], [4, 4]])
    assert follows_one_two(memory, "a") == {9: 0.5, 0: 0.5}
    assert follows_one_two(memory, "c") == {3: 0.5, 0: 0.5}
    for name in OUTPUTS:
        assert occurrences(memory.companions("datastore", name)["datastore"], [8, 8, 1]) == 1


def test_companions_are_made_once_and_only_when_wanted():
    memory = Collection(OUTPUTS, 10)
    assert memory.companions("", "a") == {}
    first = memory.companions("datastore", "a")["datastore"]
    assert memory.companions("datastore", "a")["datastore"] is first
    assert isinstance(jax.tree.leaves(first)[0], jax.Array)
    with pytest.raises(KeyError):
        memory.companions("something", "a")
