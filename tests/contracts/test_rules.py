"""Rules that read or keep less of the context, under the methods' promises, and rules that break them and must be caught.

With a budget of everything a rule changes nothing: greedy, speculative and sampled texts of a ragged batch are those of dense
decoding. With a small budget texts are approximate, and still those of each row alone, greedy and sampled, streamed or not, by
one program.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.attention.sparse.snapkv import SnapKV, forced, largest
from jaxdec.context_rules import with_rules
from jaxdec.decoding import Autoregressive, Prompt, Sampling, decode
from jaxdec.decoding.speculative import PromptLookup, Speculative
from tests.contracts import checks
from tests.contracts.test_contracts import model_of
from tests.contracts.test_negative_controls import fails
from tests.test_context_rules import EVERYTHING, PROMPTS

BUDGETS = (6, 4, 6)
METHODS = {
    "greedy": Autoregressive(),
    "sample": Autoregressive(Sampling(1.0), num_samples=2),
    "prompt_lookup": Speculative(PromptLookup(num_nodes=3, max_ngram=2)),
    "prompt_lookup:sample": Speculative(PromptLookup(num_nodes=3, max_ngram=2), Sampling(1.0)),
}
SMALL = {
    "block_sparse": {"attention": "block_sparse:top_blocks=4,block=4"},
    "vertical_slash": {"attention": "vertical_slash:vertical=8,slash=8,sinks=2,local=4,window=8,tile=8"},
    "flex_prefill": {"attention": "flex_prefill:min_budget=8,alpha=0.3,window=8,sinks=2,local=4,tile=8"},
    "zipvl": {"attention": "zipvl:threshold=0.7,last_probes=8,random_probes=8"},
    "video_xl2": {"attention": "video_xl2:chunk=8,previous=1,prefix=4,marker=2,suffix=4"},
    "quest": {"attention": "quest:budget=16,page_size=8"},
    "actqkv": {"attention": "actqkv:block_size=4,sinks=4,local=16,window=16,top_blocks=2,warmup=16"},
    "snapkv": {"kv_cache": "snapkv:capacity=12,window=4,sinks=1,local=4,kernel=3"},
    "ada_snapkv": {"kv_cache": "ada_snapkv:capacity=12,window=4,sinks=1,local=4,kernel=3"},
    "quantized": {"kv_cache": "quantized:bits=2,window=4"},
    "zipvl cache": {"kv_cache": "zipvl:threshold=0.7,last_probes=8,random_probes=8,window=4"},
    "finer keys": {"kv_cache": "zipvl:ratio=0.4,coarse_key_bits=4,last_probes=8,random_probes=8,window=4"},
}
QUICK = {("snapkv", "prompt_lookup:sample")}


def batch(seed=3, **rules):
    return with_rules(Prompt.create(PROMPTS, BUDGETS, seed=seed), **rules)


def texts(method, prompt):
    """Texts, and their log-probabilities."""
    decoded = decode(method, model_of("float32"), prompt)
    return [checks.texts_of(decoded, row) for row in range(len(PROMPTS))], decoded.log_prob


def check_everything(method, rules):
    """A budget of everything changes no text."""
    expected, found = texts(method, batch()), texts(method, batch(**rules))
    assert found[0] == expected[0], "another text than dense decoding's"
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-3, err_msg="another law than dense decoding's")


def check_alone(method, rules):
    """A row's text is that of the row alone; its key goes with it, its padding does not."""
    together = batch(**rules)
    found, log_prob = texts(method, together)
    for row, tokens in enumerate(PROMPTS):
        alone = Prompt.create([tokens], BUDGETS[row]).replace(keys=together.keys[row : row + 1])
        decoded = decode(method, model_of("float32"), with_rules(alone, **rules))
        message = f"prompt {row} depends on its batch"
        assert checks.texts_of(decoded, 0) == found[row], message
        np.testing.assert_allclose(decoded.log_prob[0], log_prob[row], rtol=1e-4, atol=1e-3, err_msg=message)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=[] if (name, kind) in QUICK else [pytest.mark.slow])
        for name in EVERYTHING
        for kind in METHODS
    ],
)
def test_a_budget_of_everything_changes_no_text(name, kind):
    check_everything(METHODS[kind], EVERYTHING[name][0])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=[] if (name, kind) == ("quest", "greedy") else [pytest.mark.slow])
        for name in SMALL
        for kind in ("greedy", "sample")
    ],
)
def test_rows_do_not_depend_on_their_batch(name, kind):
    check_alone(METHODS[kind], SMALL[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_streaming_stopping_and_traces(name):
    model, prompt = model_of("float32"), batch(**SMALL[name])
    first, _ = texts(METHODS["greedy"], prompt)
    checks.check_streaming(METHODS["greedy"], model, prompt)
    ends = with_rules(Prompt.create(PROMPTS, BUDGETS, seed=3, eos_tokens=[first[0][0][2], -1]), **SMALL[name])
    checks.check_stopping(METHODS["greedy"], model, ends)
    other = Prompt.create([tokens[::-1] for tokens in PROMPTS], (5, 6, 2), seed=9, eos_tokens=[7])
    checks.check_traces(METHODS["greedy"], model, [prompt, with_rules(other, **SMALL[name])])


@dataclasses.dataclass(frozen=True)
class ForgetsTheFirst(SnapKV):
    """Loses the first token, whatever its budget."""

    def choose(self, scores, lengths):
        """All that it should keep, but for one."""
        return super().choose(scores, lengths) & (jnp.arange(scores.shape[2]) > 0)


@dataclasses.dataclass(frozen=True)
class ReadsItsBatch(SnapKV):
    """Keeps the newest tokens of the longest row, so that shorter rows lose theirs."""

    def choose(self, scores, lengths):
        """As if all rows were as long."""
        ranked = forced(scores, jnp.full_like(lengths, lengths.max()), self.sinks, self.local)
        within = jnp.arange(scores.shape[2]) < lengths[:, None, None]
        return largest(jnp.where(within, ranked, -jnp.inf), self.capacity)


@pytest.mark.parametrize("kind", ["greedy", pytest.param("sample", marks=pytest.mark.slow)])
def test_a_rule_that_forgets_is_caught(kind):
    rule = ForgetsTheFirst(capacity=160, window=8)
    assert "than dense decoding's" in fails(check_everything, METHODS[kind], {"kv_cache": rule})


@pytest.mark.parametrize("kind", ["greedy", pytest.param("sample", marks=pytest.mark.slow)])
def test_a_rule_that_depends_on_the_batch_is_caught(kind):
    rule = ReadsItsBatch(capacity=6, window=4, sinks=0, local=5, kernel=3)
    assert "depends on its batch" in fails(check_alone, METHODS[kind], {"kv_cache": rule})


@pytest.fixture(autouse=True, scope="module")
def _forget():
    yield
    jax.clear_caches()
