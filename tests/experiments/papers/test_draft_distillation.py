"""Distilling a draft model: prompts, what the target writes, batches, and a draft that comes closer to its target."""

import numpy as np
import pytest

from experiments.papers.draft_distillation import (
    batch_maker,
    distilled_draft,
    teaching_prompts,
    teaching_texts,
)
from experiments.papers.progress import NoProgress
from jaxdec import load
from jaxdec.models.layer_skip import skip_layers
from jaxdec.training import distillation_loss
from tests.reference import full_logits
from tests.tiny_models import tiny_transformer

pytestmark = pytest.mark.slow  # compiles for most of a minute

TEXTS = [{"prompt": [1, 2, 3], "tokens": [4, 5]}, {"prompt": [6], "tokens": [7, 8, 9, 10, 11, 12, 13]},
         {"prompt": [14, 15], "tokens": [16]}]  # fmt: skip


def test_prompts_are_different_and_reproducible():
    prompts = teaching_prompts(60, seed=1)
    assert len(set(prompts)) == 60
    assert prompts == teaching_prompts(60, seed=1) != teaching_prompts(60, seed=2)
    with pytest.raises(ValueError, match="num_texts must be at most 320, got 321"):
        teaching_prompts(321, 0)


def test_the_target_writes_greedy_and_sampled_texts_in_turns(tiny_gguf):
    lm = load(tiny_gguf)
    config = {"num_texts": 5, "new_tokens": 4, "write_batch": 2}
    texts = teaching_texts(lm, config, 0, NoProgress())
    assert [lm.tokenizer.decode(text["prompt"]).count("user") for text in texts] == [1] * 5
    logits = [full_logits(lm.model, [*text["prompt"], *text["tokens"]], padded=160) for text in texts]
    greedy = [
        [int(row.argmax()) for row in rows[len(text["prompt"]) - 1 : -1]] == text["tokens"]
        for rows, text in zip(logits, texts)
    ]
    assert greedy == [True, True, False, False, True]


@pytest.mark.parametrize("tied", [True, False])
def test_batches_hold_the_laws_behind_the_answers(tied):
    target = tiny_transformer(tie_embeddings=tied)
    batch_at = batch_maker(target, TEXTS, 6, 2, seed=0)
    rows = {}
    for step in range(6):
        taught = batch_at(step)
        for tokens, weights, logits in zip(taught.tokens.tolist(), taught.weights.tolist(), taught.teacher_logits):
            rows[tokens[0]] = (tokens, weights)
            length = max(place for place, weight in enumerate(weights) if weight) + 1
            np.testing.assert_allclose(logits[:length], full_logits(target, tokens[:length]), atol=2e-4)
    assert rows == {
        1: ([1, 2, 3, 4, 5, 0], [0, 0, 1, 1, 1, 0]),
        6: ([6, 7, 8, 9, 10, 11], [1, 1, 1, 1, 1, 1]),
        14: ([14, 15, 16, 0, 0, 0], [0, 1, 1, 0, 0, 0]),
    }
    np.testing.assert_array_equal(batch_at(4).tokens, batch_maker(target, TEXTS, 6, 2, seed=0)(4).tokens)


def test_the_draft_comes_closer_and_goes_on_from_its_checkpoint(tmp_path):
    target = tiny_transformer(scale=4.0)
    config = {"layers": (1,), "steps": 24, "batch": 3, "learning_rate": 2e-2, "longest": 8}
    draft = distilled_draft(target, TEXTS, config, 0, tmp_path, NoProgress())
    batch = batch_maker(target, TEXTS, 8, 3, 0)(0)
    before, after = (float(distillation_loss(model, batch)) for model in (skip_layers(target, [1]), draft))
    assert after < 0.7 * before
    np.testing.assert_array_equal(draft.params["embed"]["embedding"], target.params["embed"]["embedding"])
    again = distilled_draft(target, [], config, 0, tmp_path, NoProgress())  # nothing is left to train
    np.testing.assert_array_equal(again.params["final_norm"]["scale"], draft.params["final_norm"]["scale"])
