"""The layout of a batch, as users ask for it."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import jaxdec
from jaxdec.cache import ContiguousCache, PagedCache, SharedPrefixCache
from jaxdec.cache.paged import PAGE_SIZE
from jaxdec.decoding import Autoregressive, Prompt
from jaxdec.decoding.loop import start
from jaxdec.decoding.prefix_sharing import Node, PrefixSharing
from jaxdec.generation import Run
from jaxdec.kv_layout import in_layout
from jaxdec.loading import LoadedModel
from tests.tiny_models import TINY, tiny_transformer
from tests.tiny_text import NUM_TOKENS, byte_tokenizer

PER_TOKEN = 2 * TINY.num_layers * TINY.num_kv_heads * TINY.head_dim * 4
RAGGED = ["a", "b" * 300, "some words", "c" * 140]


@pytest.fixture(scope="module")
def tiny_lm():
    return LoadedModel(tiny_transformer(scale=3.0, vocab_size=NUM_TOKENS), byte_tokenizer(), "random")


def run(lm, prompts, kv_layout, **options):
    done = Run(lm, prompts, kv_layout=kv_layout, raw=True, seed=5, **options)
    return [[text.token_ids, *(other.token_ids for other in text.alternatives)] for text in done.run()], done


def test_ragged_prompts_say_the_same_in_fewer_bytes(tiny_lm):
    texts, caches = [], []
    for layout in ("contiguous", "paged"):
        said, done = run(tiny_lm, RAGGED, layout, max_new_tokens=10, share_prefixes=False)
        texts.append(said)
        caches.append(done.state.cache)
    assert texts[0] == texts[1]
    plain, paged = caches
    assert isinstance(plain, ContiguousCache)
    assert isinstance(paged, PagedCache)
    assert plain.nbytes == PER_TOKEN * 4 * 384  # room for 310 tokens in each row, as a bucket and as whole blocks
    assert paged.nbytes == PER_TOKEN * PAGE_SIZE * (1 + 3 + 1 + 2 + 1)
    assert paged.pages.tolist() == [1, 3, 1, 2]


@pytest.mark.slow  # as do those of the contract suite
def test_draft_trees_have_room(tiny_lm):
    prompts = [*RAGGED[:3], "d" * 116]  # the tree of the last one reaches into another page
    options = {"method": "prompt_lookup", "tree_size": 4, "max_new_tokens": 10, "share_prefixes": False}
    (expected, _), (said, done) = (run(tiny_lm, prompts, layout, **options) for layout in ("contiguous", "paged"))
    assert said == expected
    own = [len(text) + 10 + 5 for text in prompts]  # prompt, budget, root and tree
    assert done.state.cache.pages.tolist() == [-(-tokens // PAGE_SIZE) for tokens in own]
    assert done.state.cache.nbytes == PER_TOKEN * PAGE_SIZE * (1 + 6 + 4)


SAMPLED = {"method": "sample", "sampling": jaxdec.Sampling(1.0), "num_samples": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "pages"), [({}, [1, 2, 1]), pytest.param(SAMPLED, [1] * 9, marks=pytest.mark.slow)]
)
def test_what_is_shared_is_no_part_of_the_pages(tiny_lm, options, pages):
    stem = "the sea is wide and the sea is deep and so on and on, " * 4
    prompts = [stem + "then", stem + "x" * 150, "zz"]
    options = {**options, "max_new_tokens": 8, "share_prefixes": True}
    (expected, _), (said, done) = (run(tiny_lm, prompts, layout, **options) for layout in ("contiguous", "paged"))
    assert said == expected
    cache = done.state.cache
    assert isinstance(cache, SharedPrefixCache)
    assert isinstance(cache.own, PagedCache)
    assert sorted(cache.own.pages.tolist()) == sorted(pages)
    assert cache.own.nbytes == PER_TOKEN * PAGE_SIZE * (sum(pages) + 1)
    assert cache.unshared().length.tolist() == cache.length.tolist()


def test_pages_are_counted_without_what_is_shared():
    prompts = [[*range(20), 1, 2], [*range(20), 3], [4]]
    prompt = Prompt.create(prompts, [3, 4, 30], seed=1)
    assert in_layout(prompt, "contiguous").paging is None
    assert in_layout(prompt, "paged", 8).paging.whole == 4 + 4 + 4
    sharing = PrefixSharing.of(prompts, [[Node(0, 2, 0, 20)]], 30, prompt.capacity)
    assert in_layout(prompt.replace(sharing=sharing), "paged", 8).paging.whole == 1 + 1 + 4
    assert in_layout(prompt, "paged", 8).repeat(2).paging.whole == 24


@pytest.mark.parametrize("value", ["page", "Paged", ""])
def test_other_layouts_are_refused(tiny_lm, value):
    with pytest.raises(ValueError, match=f"kv_layout must be one of contiguous, paged, got {value!r}"):
        Run(tiny_lm, ["a"], kv_layout=value)


def test_a_model_with_a_cache_of_its_own_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Other:
        vocab_size = 41
        max_positions = 99

        def init_cache(self, batch_size, capacity):
            return SharedPrefixCache((), tiny_transformer().init_cache(batch_size, capacity))

        def apply(self, *arguments):
            raise AssertionError

    prompt = in_layout(Prompt.create([[1, 2]], 3), "paged")
    with pytest.raises(
        ValueError, match="kv_layout 'paged' needs a model with a contiguous cache, this one has a Shared"
    ):
        jax.eval_shape(Autoregressive().init, tiny_transformer().replace(module=Other()), prompt)


def test_batches_with_as_many_pages_share_a_program():
    model = tiny_transformer()
    before = start._cache_size()
    for lengths, budgets in (((5, 2, 18), (14, 5, 9)), ((17, 1, 2), (3, 9, 15))):
        prompt = Prompt.create([[1] * length for length in lengths], budgets)
        state = start(Autoregressive(), model, in_layout(prompt, "paged", 16))
        assert jnp.isfinite(state.log_prob).all()
    assert start._cache_size() == before + 1
