"""Prompts that begin alike, decoded together: same texts, in the user's order."""

import jax
import numpy as np
import pytest

import jaxdec
from jaxdec.cache import SharedPrefixCache
from jaxdec.decoding import Prompt
from jaxdec.generation import Run
from jaxdec.loading import LoadedModel
from jaxdec.shared_prompts import AUTO_SAVES, share
from tests.tiny_models import tiny_transformer
from tests.tiny_text import NUM_TOKENS, byte_tokenizer

STEM = list(range(1, 37))
PROMPTS = [[*STEM, 5, 5], [9, 9], [*STEM, 4], [*STEM, 5, 7, 7]]


def batch(prompts=PROMPTS):
    return Prompt.create(prompts, 4, seed=1)


def test_prompts_that_begin_alike_become_neighbours_and_keep_their_keys():
    plain = batch()
    shared, row_of = share(plain, PROMPTS, True)
    assert row_of.tolist() == [1, 3, 0, 2]
    assert shared.sharing.spans == (((0, 3),),)
    assert shared.sharing.length[0].tolist() == [36]
    for name in ("tokens", "length", "max_new_tokens"):
        np.testing.assert_array_equal(np.asarray(getattr(shared, name))[row_of], getattr(plain, name))
    np.testing.assert_array_equal(jax.random.key_data(shared.keys)[row_of], jax.random.key_data(plain.keys))


def test_auto_shares_where_it_saves_enough():
    plain = batch()
    assert share(plain, PROMPTS, "auto")[0].sharing is None  # two rows need not keep 36 tokens
    assert share(plain, PROMPTS, False)[0].sharing is None
    many = [[*STEM, row] for row in range(AUTO_SAVES // 36 + 2)]
    assert share(batch(many), many, "auto")[0].sharing is not None
    assert share(batch(many[:-2]), many[:-2], "auto")[0].sharing is None
    one = [STEM * 8]
    assert share(batch(one), one, "auto")[0].sharing is None
    assert share(batch(one), one, "auto", texts_per_prompt=2)[0].sharing is None
    assert share(batch(one), one, "auto", texts_per_prompt=3)[0].sharing.spans == ()
    assert share(batch([[1], [2]]), [[1], [2]], True)[0].sharing is None  # nothing to share


def test_a_given_tree_keeps_the_order():
    prompts = [PROMPTS[0], PROMPTS[2], PROMPTS[1]]
    shared, row_of = share(batch(prompts), prompts, [[(2, 36), (1, 0)]])
    assert row_of.tolist() == [0, 1, 2]
    assert shared.sharing.spans == (((0, 2),),)
    with pytest.raises(ValueError, match="rows 2 to 3 are said to share 37 tokens; prompt 2 has 37, and must"):
        share(batch(PROMPTS), PROMPTS, [[(1, 0), (1, 0), (2, 37)]])


@pytest.mark.parametrize("value", ["yes", 3, None])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match="share_prefixes must be True, False, 'auto' or a tree of segments, got"):
        share(batch(), PROMPTS, value)


@pytest.mark.slow
def test_texts_come_back_in_the_order_of_the_prompts():
    tiny_lm = LoadedModel(tiny_transformer(scale=3.0, vocab_size=NUM_TOKENS), byte_tokenizer(), "random")
    stem = "the sea is wide and the sea is deep and so on and on "
    prompts = [stem + "then", "ab", stem + "but", stem + "then we", "zz"]
    options = {"max_new_tokens": 12, "method": "sample", "sampling": jaxdec.Sampling(1.0), "num_samples": 2, "seed": 5}
    plain = Run(tiny_lm, prompts, share_prefixes=False, **options)
    shared = Run(tiny_lm, prompts, share_prefixes=True, **options)
    expected, found = plain.run(), shared.run()
    assert isinstance(shared.state.cache, SharedPrefixCache)
    assert [text.token_ids for text in found] == [text.token_ids for text in expected]
    assert [text.alternatives[0].token_ids for text in found] == [text.alternatives[0].token_ids for text in expected]
    # A stop string ends the row that holds it, wherever the row lies in the batch.
    ids = [text.token_ids for text in expected]
    stop = next(
        piece
        for piece in (tiny_lm.tokenizer.decode(ids[3][4:7]),)
        if not any(piece in text.text for row, text in enumerate(expected) if row != 3)
    )
    stopped = Run(tiny_lm, prompts, share_prefixes=True, stop=[stop], **options)
    results = stopped.run()
    assert results[3].finish_reason == "stop"
    assert results[3].text == expected[3].text.partition(stop)[0]
    assert results[0].token_ids == ids[0]
