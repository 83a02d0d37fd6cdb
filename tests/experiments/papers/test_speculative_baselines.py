"""The replica of the speculative baselines: what it counts and times, by hand and on made-up numbers for each verdict."""

import jax
import numpy as np
import pytest

from configs.papers.speculative_baselines import get_config
from experiments.papers.command import config_of
from experiments.papers.progress import NoProgress
from experiments.papers.speculative import markov, timing
from experiments.papers.speculative.arms import (
    PLAIN,
    Arm,
    counts_of,
    decode_counted,
    differences,
    family_arms,
    pack,
    rows_of,
    tokens_per_step,
)
from experiments.papers.speculative.chains import chain_results, overlap_results
from experiments.papers.speculative.figures import draw_figures
from experiments.papers.speculative.results import Results
from experiments.papers.speculative.tables import tables
from experiments.papers.speculative.timing import speed_ups
from experiments.papers.speculative.verdicts import all_claims, ordered, same_order
from experiments.record import markdown_table
from jaxdec.decoding import Autoregressive, Prompt, decode
from jaxdec.decoding.sampling import GREEDY, Sampling
from jaxdec.decoding.speculative import (
    DraftModel,
    ExactMatch,
    PromptLookup,
    Speculative,
    SpeculativeSampling,
    TreeSizes,
)
from jaxdec.language_model import LanguageModel
from tests.reference import full_logits
from tests.tiny_models import tiny_transformer

pytestmark = pytest.mark.slow  # compiles for most of a minute

HIDDEN = NoProgress()


def constant_pair(chance: float) -> LanguageModel:
    """A Markov target with a draft whose every drawn guess is accepted with this chance."""
    target = np.full((6, 6), 1 / 6)
    return markov.markov(target).accompanied(draft=markov.markov(target + (1 - chance) / 3 * np.repeat([1, -1], 3)))


def test_arms_and_their_methods():
    config = get_config().to_dict()
    arms = family_arms(config["arms"], "distilled")
    assert [arm.name for arm in arms] == [
        PLAIN, "prompt lookup", "lookahead", "retrieval", "draft chain 4", "draft tree",
    ]  # fmt: skip
    warm = Sampling(0.5)
    assert arms[0].method(warm) == Autoregressive(warm)
    assert arms[1].method() == Speculative(PromptLookup(10, 3))
    drafter = DraftModel((1, 1))
    assert Arm("x", drafter, "d").method(warm) == Speculative(drafter, warm, ExactMatch())
    drawn = Speculative(DraftModel((1, 1), warm), warm, SpeculativeSampling())
    assert Arm("x", drafter, "d", drawn=True).method(warm) == drawn
    assert Arm("a chain, 4").slug == "a_chain__4"
    assert [arm.num_nodes for arm in arms] == [0, 10, 24, 16, 4, 14]


@pytest.mark.parametrize("drafter", [DraftModel((1, 1, 1)), DraftModel((2, 3, 2))], ids=["chain", "tree"])
def test_drafting_passes_are_those_that_the_draft_model_makes(drafter):
    widths = []

    class Recording(LanguageModel):
        def __call__(self, tokens, positions, cache, visible=None, logits_at=None):
            jax.debug.callback(lambda _, width=tokens.shape[1]: widths.append(width), tokens[0, 0])
            return super().__call__(tokens, positions, cache, visible, logits_at)

    pair = constant_pair(0.7)
    draft = Recording(pair.module, pair.companions["draft"].params)
    model = pair.accompanied(draft=draft)
    method = Speculative(drafter, GREEDY)
    state = method.init(model, Prompt.create([[2]], 9))
    jax.effects_barrier()
    widths.clear()
    jax.block_until_ready(jax.jit(method.step)(model, state))
    jax.effects_barrier()
    assert sorted(widths) == sorted(Arm("x", drafter, "d").drafting_passes)


def test_texts_and_counters_do_not_depend_on_the_batches():
    model = tiny_transformer()
    prompt = pack([[3, 1, 4, 1, 5], [9, 2], [7, 7, 7]], 12, [], seed=3)
    arm = Arm("lookup", PromptLookup(4))
    texts = decode_counted(arm, GREEDY, model, prompt, 2, "texts", HIDDEN)
    assert len(texts) == 3
    for text in texts:
        assert text["calls"] + sum(text["accepted"]) >= 12
        assert text["fed"] == 4 * (text["calls"] - 1)
    alone = decode(arm.method(), model, rows_of(prompt, [1]))
    assert texts[1]["tokens"] == alone.tokens[0, 0].tolist()[:12]
    assert texts[1]["calls"] == int(alone.target_calls[0, 0])
    plain = decode_counted(Arm(PLAIN), GREEDY, model, prompt, 2, "texts", HIDDEN)
    assert [text["tokens"] for text in plain] == [text["tokens"] for text in texts]
    assert [(text["calls"], text["drafted"], text["fed"]) for text in plain] == [(12, [], 0)] * 3
    counts = counts_of(texts)
    assert tokens_per_step(counts, 3) == 1 + sum(counts.accepted) / (sum(text["calls"] for text in texts) - 3)


def test_rows_keep_their_keys():
    prompt = pack([[1], [2], [3]], 4, [5], seed=1)
    some = rows_of(prompt, [2, 0])
    assert [int(row[0]) for row in some.tokens] == [3, 1]
    assert (jax.random.key_data(some.keys[0]) == jax.random.key_data(prompt.keys[2])).all()
    assert some.capacity == prompt.capacity


def test_differences_and_gaps():
    model = tiny_transformer()
    same, other, shorter = ({"tokens": ids} for ids in ([1, 2, 3], [1, 5, 3], [1, 2]))
    found = differences(model, [[4, 4], [4], [4]], [same, same, same], [same, other, shorter])
    assert [(one["row"], one["place"]) for one in found] == [(1, 1), (2, 2)]
    for one, text in zip(found, ([4, 1], [4, 1, 2])):
        second, best = np.sort(full_logits(model, text)[-1])[-2:]
        assert one["gap"] == pytest.approx(best - second, abs=1e-4)


def test_laws_and_the_control(monkeypatch):
    p = np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(markov.biased(p, 1), [0.35, 0.51, 0.14])
    assert markov.distance(np.array([3, 1]), np.array([0.5, 0.5])) == 0.25
    tree = {name: method for name, method in markov.LAW_METHODS.items() if "tree" in name}  # all compile for a minute
    monkeypatch.setattr(markov, "LAW_METHODS", tree)
    results = markov.law_results(8000, 0, HIDDEN)
    for row in results["methods"].values():
        assert max(row.values()) < 0.035
    assert set(results["methods"]) == {"plain sampling", *tree}
    assert len(tree) == 1
    control = results["control"]
    assert control["biased"] < 0.035
    assert control["right"] > 0.07
    assert control["between"] > 0.07


def test_constant_acceptance_gives_the_formula():
    (row,) = markov.formula_results([0.8], [2], 400, 48, 0, HIDDEN)
    assert row["formula"] == pytest.approx(2.44)
    assert row["acceptance"] == pytest.approx(0.8, abs=0.02)
    assert row["measured"] == pytest.approx(2.44, rel=0.03)


def test_the_overlap_at_the_contexts_of_first_guesses():
    prompt = pack([[2], [3]], 40, [], seed=5)
    arm = Arm("drawn", DraftModel((1, 1)), "d", drawn=True)
    found = overlap_results(arm, constant_pair(0.7), prompt, 2, 1.0, HIDDEN)
    assert found["overlap"] == pytest.approx(0.7, abs=1e-5)
    assert found["deviation"] == pytest.approx(np.sqrt(0.21 / found["steps"]), rel=1e-4)
    assert abs(found["accepted"] - 0.7) < 3.5 * found["deviation"]
    assert found["tokens_per_step"] == pytest.approx(1 + 0.7 + 0.49, abs=0.5)
    assert found["steps"] >= 2 * 13
    agreeing = constant_pair(1.0)
    assert overlap_results(arm, agreeing, prompt, 2, 1.0, HIDDEN)["overlap"] == pytest.approx(1, abs=1e-5)


def test_chains_of_the_target_itself_are_accepted():
    model = tiny_transformer()
    model = model.accompanied(draft=model)
    prompt = pack([[3, 1], [5]], 13, [], seed=0)
    (row,) = chain_results("itself", model, prompt, 2, [3], HIDDEN)
    assert (row["g"], row["a"], row["measured"], row["formula"]) == (3, 1.0, 4.0, 4.0)
    assert row["tokens_per_call"] == 26 / 8


def test_cost_curves_are_ratios_inside_a_round(monkeypatch):
    speed = iter([1.0, 10.0])  # the second round is ten times slower, all of it
    now = {}

    def fake(model, count, batch, context):
        assert (batch, context) == (1, 64)
        if (model, count) == ("target", 1):
            now["factor"] = next(speed)
        return now["factor"] * {"target": 1.0 + count, "draft": -1.0 if count == 1 else 1.0}[model]

    monkeypatch.setattr(timing, "step_milliseconds", fake)
    curve = timing.cost_curves({"": "target", "d": "draft"}, {"": [3, 1, 3], "d": [1, 5]}, 64, 2, HIDDEN)
    assert curve["costs"] == {"": {"3": 2.0, "1": 1.0}, "d": {"1": timing.LEAST, "5": 0.5}}
    assert curve["milliseconds"] == 11.0


def test_times_are_of_the_steps_alone():
    arms = [Arm(PLAIN), Arm("chain", DraftModel((1,)), "d")]
    model = constant_pair(0.7)
    prompts = [Prompt.create([[2]], 9), Prompt.create([[3]], 5)]
    ticks = iter(range(1000))
    found = timing.time_arms(arms, {"": model, "d": model}, prompts, 3, HIDDEN, clock=lambda: float(next(ticks)))
    assert found["speeds"] == {PLAIN: [[8.0, 4.0]] * 3, "chain": [[8.0, 4.0]] * 3}


def test_speed_ups_are_ratios_of_mean_speeds():
    speeds = {"speeds": {PLAIN: [[10, 30], [20, 20]], "x": [[20, 20], [60, 20]]}}
    assert speed_ups(speeds, "x") == [1.0, 2.0]
    assert speed_ups(speeds, "x", [0]) == [2.0, 3.0]


CHAIN = "draft chain 4"
FAMILIES = ("chat", "code", "summarise", "extract", "edit")


def text_of(tokens_per_call: float, calls: int = 50, depth: int = 4) -> dict:
    """Counters of a text of so many tokens per call, of ``calls`` calls."""
    new = round(tokens_per_call * calls)
    steps = calls - 1
    accepted = [max(0, min(steps, new - calls)), *[0] * (depth - 1)]
    return {
        "tokens": list(range(new)),
        "calls": calls,
        "drafted": [steps] * depth,
        "accepted": accepted,
        "fed": steps * depth,
    }


def made_up(**changes) -> Results:
    """Results under which every claim holds, with some of the numbers changed."""
    values = {
        "formula": 2.19, "own": 1.5, "accepted": 0.5, "law": 0.01, "control": 0.1, "gap": 1e-5, "hot": 1.2, "free": 1.1,
        "copied": 1.8, "cost": 1.05, "speed": 3.0, "first speed": 3.3,
    } | changes  # fmt: skip
    families = [family for family in FAMILIES for _ in range(4)]

    def texts(free: float, copied: float) -> list[dict]:
        return [text_of(copied if family in FAMILIES[2:] else free) for family in families]

    arms = [Arm(PLAIN), Arm("prompt lookup", PromptLookup(10)), Arm("lookahead, small", PromptLookup(3)),
            Arm("retrieval", PromptLookup(7)), Arm(CHAIN, DraftModel((1, 1, 1, 1)), "d")]  # fmt: skip
    arms.append(Arm("prompt lookup, sized", PromptLookup(10), sizes=TreeSizes((0, 3), (1.0, 1.1))))
    yields = {
        PLAIN: texts(1.0, 1.0), "prompt lookup": texts(values["free"], values["copied"]), "lookahead": texts(1.3, 1.2),
        "retrieval": texts(1.94, 1.6), CHAIN: texts(1.9, 1.9),
    }  # fmt: skip
    few = {"": {str(n): values["cost"] for n in (2, 4, 5, 8, 11, 16)}, "d": {"1": 0.001, "5": 0.001}}
    few[""]["1"] = 1.0
    places = [families.index(family) for family in FAMILIES]
    speeds = {arm.name: [[values["speed"]] * len(FAMILIES)] * 2 for arm in arms}
    speeds |= {PLAIN: [[1.0] * len(FAMILIES)] * 2, "prompt lookup": [[values["first speed"]] * len(FAMILIES)] * 2,
               "retrieval": [[values["speed"] - 0.1] * len(FAMILIES)] * 2,
               "lookahead, small": [[values["speed"] - 0.2] * len(FAMILIES)] * 2}  # fmt: skip
    cost = values["cost"]
    timed = {arm.name: [text_of(speeds[arm.name][0][0] * cost) for _ in places] for arm in arms}
    return Results(
        laws={"draws": 40000, "methods": {"chain": {"first": 0.01, "second": values["law"]}},
              "control": {"right": values["control"], "biased": 0.01, "between": 0.1}},
        formula=[{"a": 0.7, "g": 2, "acceptance": 0.7, "measured": values["formula"], "formula": 2.19}],
        curve={"costs": few, "milliseconds": 20.0, "foreign_load": 0.0},
        families=families,
        texts=yields,
        differences={"prompt lookup": [{"row": 0, "place": 3, "gap": values["gap"]}], "lookahead": []},
        chains={"d": [{"g": 1, "a": 0.5, "measured": 1.5, "formula": 1.5, "tokens_per_call": 1.4},
                      {"g": 2, "a": 0.5, "measured": values["own"] + 0.25, "formula": 1.75, "tokens_per_call": 1.6}]},
        overlaps={"d": {"1": {"steps": 100, "accepted": values["accepted"], "overlap": 0.5, "deviation": 0.05,
                              "tokens_per_step": 1.9}}},
        temperatures={"prompt lookup": {"0": [1.5, 1.6, 1.7], "1": [values["hot"] + 0.1 * item for item in range(3)]}},
        timing={"speeds": speeds, "foreign_load": 0.1},
        timed_arms=arms,
        timed_places=places,
        timed_texts=timed,
        teaching={"texts": 3, "tokens": 100},
    )  # fmt: skip


def verdicts(results: Results) -> dict[str, bool | None]:
    return {claim["claim"]: claim["reproduced"] for claim in all_claims(results, CHAIN)}


def test_every_claim_can_hold():
    found = all_claims(made_up(), CHAIN)
    assert {claim["claim"]: claim["reproduced"] for claim in found if claim["reproduced"] is not True} == {}
    assert len(found) == 20


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"formula": 2.3}, "constant acceptance"),
        ({"own": 1.9}, "formula's with the measured a"),
        ({"own": 1.9}, "a of single guesses"),
        ({"accepted": 0.7}, "sum min(p, q)"),
        ({"law": 0.03}, "joint law of two tokens"),
        ({"control": 0.03}, "negative control"),
        ({"gap": 1e-3}, "near-ties"),
        ({"hot": 1.9}, "fall with the temperature"),
        ({"free": 1.4}, "near 1"),
        ({"copied": 1.15}, "prompt lookup is best where text is copied"),
        ({"copied": 2.2}, "order by tokens per call"),
        ({"cost": 1.3}, "costs what a pass over one does"),
        ({"speed": 0.5}, "speed-up of lookahead"),
        ({"first speed": 1.0}, "speed-up of prompt lookup, summarisation"),
        ({"first speed": 2.9}, "order by speed"),
    ],
)
def test_every_claim_can_fail(change, claim):
    (verdict,) = (verdict for text, verdict in verdicts(made_up(**change)).items() if claim in text)
    assert verdict is False


def test_a_prediction_is_tokens_per_step_over_costs():
    results = made_up(cost=1.05)
    arm = next(arm for arm in results.timed_arms if arm.name == CHAIN)
    counts = counts_of(results.timed_texts[CHAIN])
    per_step = (counts.new_tokens - 5) / (counts.target_calls - 5)
    assert results.step_cost(arm) == 1.05
    assert results.drafting_cost(arm) == pytest.approx(0.001 + 3 * 0.001)
    assert results.predicted(arm) == pytest.approx(per_step / 1.054)
    slow = made_up()
    slow.timing["speeds"][CHAIN] = [[1.0] * len(FAMILIES)] * 2
    (verdict,) = (verdict for text, verdict in verdicts(slow).items() if "E / (v + c)" in text)
    assert verdict is False


def test_orders():
    assert same_order({"a": 3, "b": 2, "c": 1})
    assert not same_order({"a": 3, "b": 1, "c": 2})
    assert ordered({"a": 1.0, "b": 2.0}) == "b 2.00 > a 1.00"


def test_tables_and_figures(tmp_path):
    results = made_up()
    shown = {table["title"].split(":")[0]: markdown_table(table["header"], table["rows"]) for table in tables(results)}
    assert "| prompt lookup | 1.1 | 1.1 | 1.8 | 1.8 | 1.8 | 1.52 |" in shown["Tokens per call, greedy, by family"]
    assert "| prompt lookup | 20 | 1 | 1.0e-05 |" in shown["Greedy texts beside plain decoding's"]
    assert "| prompt lookup, sized | 3 | 3 | 3 | 3 | 3 | 3 | - | - | - | 3 |" in "".join(shown.values())
    for folder in (tmp_path / "one", tmp_path / "two"):
        figures = draw_figures(results, folder)
        assert sorted(path.name for path in folder.iterdir()) == sorted(figure["file"] for figure in figures)
    assert all(
        path.read_bytes() == (tmp_path / "two" / path.name).read_bytes() for path in (tmp_path / "one").iterdir()
    )


def test_smoke_settings_fit():
    config = config_of("speculative_baselines", smoke=True, path=None)
    assert config["model"] == ""
    assert config["skips"] == {"10 layers": [0], "24 layers": []}
