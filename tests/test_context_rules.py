"""Rules as users ask for them, through the whole of decoding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdec
from jaxdec.attention.sparse.block_sparse import BlockSparse
from jaxdec.attention.sparse.quest import Quest
from jaxdec.cache import ContiguousCache
from jaxdec.cache.evicted import EvictedCache
from jaxdec.cache.quantized import QuantizedCache
from jaxdec.cache.retrieval import RetrievalCache
from jaxdec.cache.sparse_prompt import mean_sparsity
from jaxdec.cache.summarised import SummarisedCache
from jaxdec.context_rules import attention_rule, kv_cache_rule, with_rules
from jaxdec.decoding import Autoregressive, Prompt
from jaxdec.decoding.long_prompts import feed_only
from jaxdec.decoding.loop import decode, start
from jaxdec.decoding.methods import build_method
from jaxdec.generation import Run
from jaxdec.loading import LoadedModel
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.tiny_models import tiny_transformer
from tests.tiny_text import NUM_TOKENS, byte_tokenizer

RNG = np.random.default_rng(7)
PROMPTS = [RNG.integers(0, 41, length).tolist() for length in (90, 33, 70)]
EVERYTHING = {
    "block_sparse": ({"attention": "block_sparse:top_blocks=32,block=4"}, ContiguousCache),
    "vertical_slash": ({"attention": "vertical_slash:vertical=96,slash=96,window=8,tile=8"}, ContiguousCache),
    "flex_prefill": ({"attention": "flex_prefill:min_budget=96,window=8"}, ContiguousCache),
    "video_xl2": (
        {"attention": "video_xl2:chunk=16,group=8,previous=5,prefix=3,marker=2,suffix=9,block=8"},
        ContiguousCache,
    ),
    "zipvl": ({"attention": "zipvl:threshold=1.0,last_probes=96,random_probes=0"}, ContiguousCache),
    "quest": ({"attention": "quest:budget=128,page_size=8"}, SummarisedCache),
    "actqkv": ({"attention": "actqkv:block_size=4,sinks=4,local=16,window=16,top_blocks=32,warmup=16"}, RetrievalCache),
    "snapkv": ({"kv_cache": "snapkv:capacity=160,window=8"}, EvictedCache),
    "ada_snapkv": ({"kv_cache": "ada_snapkv:capacity=160,window=8"}, EvictedCache),
    "block_sparse+snapkv": (
        {"attention": "block_sparse:top_blocks=32,block=4", "kv_cache": "snapkv:capacity=160,window=8"},
        EvictedCache,
    ),
}
"""Rules whose budget is everything, and the layout that decoding goes on with."""
NEAR = {
    "quantized": ({"kv_cache": "quantized:bits=8,window=0"}, QuantizedCache),
    "zipvl cache": ({"kv_cache": "zipvl:bits=8,coarse_bits=4,window=8,last_probes=8,random_probes=8"}, QuantizedCache),
}
SOME_SLOW = [name if name in ("quest", "snapkv") else pytest.param(name, marks=pytest.mark.slow) for name in EVERYTHING]


@pytest.fixture(scope="module")
def model():
    return tiny_transformer()


def batch(new_tokens=12):
    return Prompt.create(PROMPTS, [new_tokens, 5, new_tokens], seed=3)


def texts(model, prompt, method=None):
    decoded = decode(method or Autoregressive(), model, prompt)
    return [decoded.tokens[row, 0, : decoded.length[row, 0]].tolist() for row in range(3)], decoded


@pytest.fixture(scope="module")
def plain(model):
    return texts(model, batch())


@pytest.mark.parametrize("name", SOME_SLOW)
def test_a_budget_of_everything_is_dense(model, plain, name):
    rules, layout = EVERYTHING[name]
    prompt = with_rules(batch(), **rules)
    said, decoded = texts(model, prompt)
    assert said == plain[0]
    np.testing.assert_allclose(decoded.log_prob, plain[1].log_prob, atol=2e-4)
    assert isinstance(start(Autoregressive(), model, prompt).cache, layout)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EVERYTHING, *NEAR])
@pytest.mark.parametrize("method", ["prompt_lookup", "beam"])
def test_methods_decode_by_rules(model, name, method):
    rules, _ = {**EVERYTHING, **NEAR}[name]
    options: dict[str, Any] = {"tree_size": 4} if method == "prompt_lookup" else {"num_beams": 3}
    made = build_method(method, **options)
    said, decoded = texts(model, with_rules(batch(), **rules), made)
    expected, dense = texts(model, batch(), made)
    if name in EVERYTHING:
        assert said == expected
    else:
        np.testing.assert_allclose(decoded.log_prob, dense.log_prob, rtol=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quantized", "zipvl cache"])
def test_fewer_bits_say_nearly_the_same(model, plain, name):
    rules, layout = NEAR[name]
    prompt = with_rules(batch(), **rules)
    state = start(Autoregressive(), model, prompt)
    assert isinstance(state.cache, layout)
    assert state.cache.length.tolist() == [90, 33, 70]
    assert texts(model, prompt)[0][0][:1] == plain[0][0][:1]


PROBES = "last_probes=8,random_probes=8"


@pytest.mark.parametrize(
    ("asked", "fitted", "bits"),
    [
        ("quantized:bits=2", False, {(2, 2)}),
        ("quantized:bits=2,key_bits=8,fitted=true", True, {(8, 2)}),
        (f"zipvl:{PROBES}", True, {(4, 4), (2, 2)}),
        (f"zipvl:{PROBES},coarse_key_bits=4", True, {(4, 4), (4, 2)}),
        (f"zipvl:{PROBES},fitted=false", False, {(4, 4), (2, 2)}),
    ],
)
def test_ranges_are_fitted_and_bits_chosen_where_the_rule_says_so(model, asked, fitted, bits):
    found = []

    def note(prompt):
        cache: Any = start(Autoregressive(), model, prompt).cache
        found.extend((*cache.packed, *cache.coarse))

    jax.eval_shape(note, with_rules(batch(), kv_cache=asked))  # static: traced, never run
    assert {region.fitted for region in found} == {fitted}
    assert {(region.key_bits, region.value_bits) for region in found} == bits


@pytest.mark.slow
def test_each_precision_has_room_for_its_share_and_nothing_is_lost(model):
    lengths, window = (500, 33, 290), 3
    prompts = [RNG.integers(0, 41, length).tolist() for length in lengths]
    prompt = with_rules(Prompt.create(prompts, 5), kv_cache=f"zipvl:ratio=0.3,window={window},{PROBES}")
    cache: Any = start(Autoregressive(), model, prompt).cache
    assert cache.length.tolist() == list(lengths)
    for row, length in enumerate(lengths):
        fine, coarse = int(cache.packed[0].length[row]), int(cache.coarse[0].length[row])
        assert fine + coarse == length - window
        assert -(-3 * length // 10) - window <= fine < -(-3 * length // 10), (
            "the last token is important, in the window"
        )
    blocks = [side[0].used.shape[1] for side in (cache.packed, cache.coarse)]
    assert blocks == [2, 3], "154 tokens and 64 new ones, 358 tokens; each would take 4 for 512"


def test_a_small_budget_changes_the_text_and_takes_less_room(model, plain):
    tight = with_rules(batch(), kv_cache="snapkv:capacity=8,window=4,sinks=1,local=2,kernel=3")
    said, _ = texts(model, tight)
    assert said != plain[0]
    kept = start(Autoregressive(), model, tight).cache
    assert kept.kept[0].count.tolist() == [[8, 8]] * 3
    assert kept.length.tolist() == [90, 33, 70]


def test_what_prompts_leave_out_is_counted(model):
    prompt = with_rules(batch(), attention=BlockSparse(top_blocks=3, block=4))
    _, fed = jax.jit(feed_only)(model, prompt)
    expected = [BlockSparse(3, 4).sparsity(length) for length in (90, 33, 70)]
    np.testing.assert_allclose(mean_sparsity(fed), expected, atol=1e-6)


@pytest.fixture(scope="module")
def tiny_lm():
    return LoadedModel(tiny_transformer(scale=3.0, vocab_size=NUM_TOKENS), byte_tokenizer(), "random")


@pytest.mark.slow
def test_texts_by_rules_are_approximate_and_say_what_they_hold(tiny_lm):
    options = {"raw": True, "max_new_tokens": 4}
    plain = jaxdec.generate(tiny_lm, "a long text " * 12, **options)
    quick = jaxdec.generate(tiny_lm, "a long text " * 12, attention="quest:budget=16,page_size=8", **options)
    assert (plain.guarantee, quick.guarantee) == ("token_identical", "approximate")
    assert quick.cache_bytes == plain.cache_bytes * 9 // 8
    run = Run(tiny_lm, ["a long text " * 12] * 30, attention=Quest(budget=16), **options)
    assert run.prompt.sharing is None


def test_names_and_options_are_read():
    assert attention_rule(None) is attention_rule("dense") is kv_cache_rule("full") is None
    assert attention_rule("quest:budget=64,page_size=8,share_heads=false") == Quest(64, 8, share_heads=False)
    assert attention_rule(Quest(64)) == Quest(64)
    assert attention_rule("zipvl:ratio=0.5").ratio == 0.5
    assert kv_cache_rule("quantized").bits == 4


@pytest.mark.parametrize(
    ("read", "asked", "message"),
    [
        (attention_rule, "sparse", "attention must be one of dense, block_sparse, vertical_slash, .*, got 'sparse'"),
        (attention_rule, "quest:budget", "attention 'quest' cannot have 'budget': its options are budget, page_size"),
        (attention_rule, "quest:size=4", "attention 'quest' cannot have 'size=4'"),
        (attention_rule, "quest:budget=many", "attention 'quest': budget must be int, got 'many'"),
        (attention_rule, "quest:budget=16,share_heads=maybe", "share_heads must be bool, got 'maybe'"),
        (attention_rule, "quest", "attention 'quest' needs budget, for example quest:budget=1024"),
        (attention_rule, "dense:budget=3", "attention 'dense' cannot have 'budget=3': it has no options"),
        (
            attention_rule,
            kv_cache_rule("quantized"),
            "attention must be one of dense, .* or an object of their classes",
        ),
        (kv_cache_rule, "quantized:bits=3", "bits must be one of 2, 4, 8; got 3"),
        (kv_cache_rule, "quest:budget=16", "kv_cache must be one of full, snapkv, .*, got 'quest'"),
        (kv_cache_rule, "snapkv:capacity=16", "capacity must be more than sinks"),
        (kv_cache_rule, "quantized:key_bits=3", "key_bits must be one of 2, 4, 8; got 3"),
        (kv_cache_rule, "zipvl:coarse_key_bits=8", "coarse_key_bits must be one of 2, 4, 8, at most bits, 4; got 8"),
        (kv_cache_rule, "zipvl:bits=2", "bits and coarse_bits must be of 2, 4, 8, coarse_bits fewer; got 2 and 2"),
        (kv_cache_rule, "zipvl:window=-1", "window must be at least 0 tokens; got -1"),
        (kv_cache_rule, "quantized:window=-1", "window must be at least 0 tokens; got -1"),
    ],
)
def test_rules_that_there_are_not_are_refused(read, asked, message):
    with pytest.raises(ValueError, match=message):
        read(asked)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"attention": "quest:budget=16", "kv_cache": "quantized"}, "kv_cache must be full where attention is quest"),
        ({"attention": "actqkv", "kv_cache": "quantized"}, "kv_cache must be full where attention is actqkv"),
        ({"attention": "quest:budget=24,page_size=12"}, "page_size must divide 128, got 12"),
        ({"attention": "vertical_slash:vertical=80,slash=80"}, "window"),
        ({"kv_cache": "snapkv:capacity=160"}, "must have more tokens than window, 256; got 96"),
        ({"attention": "zipvl"}, "at least as many tokens as there are probes, 128; got 96"),
    ],
)
def test_rules_that_do_not_fit_are_refused_before_anything_compiles(rules, message):
    with pytest.raises(ValueError, match=message):
        with_rules(batch(), **rules)


def test_other_layouts_do_not_go_with_rules(tiny_lm):
    options = {"attention": "quest:budget=16", "raw": True}
    with pytest.raises(
        ValueError, match="kv_layout must be contiguous where attention or kv_cache has a rule, got paged"
    ):
        Run(tiny_lm, ["some text"], kv_layout="paged", **options)
    with pytest.raises(ValueError, match="share_prefixes must be False where attention or kv_cache has a rule"):
        Run(tiny_lm, ["some text " * 9] * 2, share_prefixes=True, **options)


@pytest.mark.slow
def test_padding_behind_prompts_may_be_anything(model):
    prompt = with_rules(batch(), attention="zipvl:last_probes=8,random_probes=8,threshold=0.5")
    behind = jnp.arange(prompt.tokens.shape[1]) >= prompt.length[:, None]
    other = prompt.replace(tokens=jnp.where(behind, 40, prompt.tokens))
    first, second = (start(Autoregressive(), model, one).log_prob for one in (prompt, other))
    np.testing.assert_array_equal(first, second)
