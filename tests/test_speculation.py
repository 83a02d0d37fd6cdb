"""Speculative methods by name: what they need beside their settings, and that they say what plain decoding says."""

import pytest

import jaxdec
from jaxdec import speculation
from jaxdec.decoding.methods import AUTO_NODES, DRAFTERS, METHODS, build_method, options_of
from jaxdec.decoding.sampling import Sampling
from jaxdec.decoding.speculative import (
    Aded,
    DraftModel,
    ExactMatch,
    PromptLookup,
    Speculative,
    SpeculativeSampling,
    TypicalAcceptance,
)
from jaxdec.decoding.speculative.datastore import build_datastore, save_datastore
from jaxdec.decoding.speculative.trigram_table import build_trigram_table, save_trigram_table
from jaxdec.loading import LoadedModel
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.tiny_models import markov_model, tiny_transformer
from tests.tiny_text import NUM_TOKENS, byte_tokenizer

PROMPT = "abcabcab"


@pytest.fixture(scope="module")
def lm():
    return LoadedModel(tiny_transformer(scale=3.0, vocab_size=NUM_TOKENS), byte_tokenizer(), "random")


@pytest.fixture
def fixed_costs(monkeypatch):
    """Costs that were not measured, so that nothing depends on this machine."""
    asked = []

    def fake(model, counts, batch):
        asked.append((list(counts), batch))
        return {n: 1 + 0.1 * (n - 1) for n in counts}

    monkeypatch.setattr(speculation, "relative_step_cost", fake)
    return asked


IN_A_HURRY = {("prompt_lookup", False), ("suffix_retrieval", False)}
"""Without companions and with some; the contract suite has the texts of all of them."""


@pytest.fixture(scope="module")
def companions(lm, tmp_path_factory):
    """Files as users have them."""
    folder = tmp_path_factory.mktemp("companions")
    texts = [lm.tokenizer.encode(PROMPT * 3), lm.tokenizer.encode("some other text")]
    save_datastore(folder / "datastore", build_datastore(texts, NUM_TOKENS))
    save_trigram_table(folder / "table", build_trigram_table(texts, NUM_TOKENS))
    return {
        "suffix_retrieval": {"datastore": folder / "datastore"},
        "aded": {"trigram_table": str(folder / "table")},
        "draft_model": {"draft_layers": [0]},
    }


@pytest.mark.parametrize(
    ("name", "auto"),
    [
        pytest.param(name, auto, marks=[] if (name, auto) in IN_A_HURRY else [pytest.mark.slow])
        for name in DRAFTERS
        for auto in (False, True)
    ],
)
def test_every_drafter_says_what_greedy_decoding_says(lm, companions, fixed_costs, name, auto):
    if auto and "tree_size" not in options_of(name):
        with pytest.raises(ValueError, match=f"method '{name}' has no option 'tree_size'"):
            jaxdec.generate(lm, PROMPT, method=name, tree_size="auto", **companions.get(name, {}))
        return
    options = {**companions.get(name, {}), **({"tree_size": "auto"} if auto else {})}
    prompts = [PROMPT, "x"]
    plain = jaxdec.generate(lm, prompts, max_new_tokens=12, raw=True)
    drafted = jaxdec.generate(lm, prompts, method=name, max_new_tokens=12, raw=True, **options)
    assert [result.token_ids for result in drafted] == [result.token_ids for result in plain]
    assert {(result.method, result.guarantee, result.reference) for result in drafted} == {
        (name, "token_identical", "greedy decoding")
    }
    assert fixed_costs == ([([n + 1 for n in AUTO_NODES], 2)] if auto else [])


@pytest.mark.slow
def test_sampling_and_samples_go_to_the_drafters_too(lm):
    options = {"sampling": Sampling(temperature=0.9), "num_samples": 2, "max_new_tokens": 8, "seed": 3}
    plain = jaxdec.generate(lm, PROMPT, method="sample", **options)
    drafted = jaxdec.generate(lm, PROMPT, method="prompt_lookup", **options)
    assert drafted.token_ids == plain.token_ids
    assert drafted.alternatives[0].token_ids == plain.alternatives[0].token_ids
    assert (drafted.guarantee, drafted.reference) == ("token_identical", "sampling")


def test_the_state_tells_who_produced_what(lm):
    run = jaxdec.Run(lm, [PROMPT], method="prompt_lookup", max_new_tokens=8, raw=True)
    assert run.state is None
    (result,) = run.run()
    produced = run.state.stats.produced_by[0, len(PROMPT) : len(PROMPT) + result.new_tokens]
    assert int((produced == 2).sum()) == int(run.state.stats.accepted.sum())


def test_a_draft_may_be_a_model_or_its_layers(lm):
    draft = LoadedModel(tiny_transformer(seed=2, vocab_size=NUM_TOKENS), byte_tokenizer(), "other")
    assert speculation.draft_model(lm, draft, None) is draft.model
    assert speculation.draft_model(lm, draft.model, None) is draft.model
    assert speculation.draft_model(lm, None, None).module.config.num_layers == 1
    assert speculation.draft_model(lm, None, [0, 1]).module.config.num_layers == 2


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("prompt_lookup", {"tree_size": 0}, "tree_size must be a number of nodes, at least 1, or 'auto', got 0"),
        ("prompt_lookup", {"tree_size": "big"}, "tree_size must be a number of nodes"),
        ("prompt_lookup", {"verification": "kind"}, "verification must be one of exact, typical, got 'kind'"),
        ("prompt_lookup", {"datastore": "x"}, "method 'prompt_lookup' has no option 'datastore'"),
        ("suffix_retrieval", {}, "method 'suffix_retrieval' needs the option datastore"),
        ("suffix_retrieval", {"datastore": 3}, "datastore must be a path or a Datastore, got int"),
        ("draft_model", {"draft": 3}, "draft must be a model or its name, got int"),
        ("draft_model", {"draft": "nonsense"}, "Known names: smollm2-135m-instruct"),
        ("draft_model", {"draft": "x", "draft_layers": [0]}, "give one of draft"),
        ("draft_model", {"draft_layers": [7]}, "layers must be increasing numbers between 0 and 1, got"),
        ("greedy", {"tree_size": "auto"}, "method 'greedy' has no option 'tree_size'"),
        ("aded", {"num_nodes": 4}, "method 'aded' has no option 'num_nodes'"),
    ],
)
def test_input_without_sense_is_refused(lm, method, options, message):
    with pytest.raises(ValueError, match=message):
        jaxdec.generate(lm, PROMPT, method=method, **options)


def test_missing_files_are_named(lm, tmp_path):
    for method, option in (("aded", "trigram_table"), ("suffix_retrieval", "datastore")):
        with pytest.raises(FileNotFoundError, match=r"no file at .*nothing"):
            jaxdec.generate(lm, PROMPT, method=method, **{option: tmp_path / "nothing"})


def test_a_model_that_is_no_transformer_has_no_layers_to_skip():
    markov = LoadedModel(markov_model()[0], byte_tokenizer(), "markov")
    with pytest.raises(ValueError, match="layers can be skipped in a Transformer"):
        speculation.draft_model(markov, None, None)


def test_names_build_what_they_say():
    assert set(DRAFTERS) < set(METHODS)
    method = build_method("prompt_lookup", tree_size=5, max_ngram=2)
    assert method == Speculative(PromptLookup(5, 2))
    assert build_method("aded", verification="typical").verification == TypicalAcceptance()
    assert build_method("aded").drafter == Aded()
    law = Sampling(temperature=0.5)
    chain = build_method("draft_model", sampling=law, branching=(1, 1))
    assert (chain.drafter, chain.verification) == (DraftModel((1, 1), law), SpeculativeSampling())
    tree = build_method("draft_model", sampling=law, branching=(2, 1))
    assert (tree.drafter.branching, tree.verification) == ((2, 1), ExactMatch())
