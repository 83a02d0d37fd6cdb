"""The replica of Video-XL-2: documents, measurements through a tiny model, and every verdict both ways."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.papers import video_xl2
from experiments.papers.chunk_sparsity.documents import FACTS, HEAD, document
from experiments.papers.chunk_sparsity.figures import draw_figures
from experiments.papers.chunk_sparsity.measurements import Arm, Setting, arms_of, ask_all, fed, inner, ranks
from experiments.papers.chunk_sparsity.results import Results, right
from experiments.papers.chunk_sparsity.tables import tables
from experiments.papers.chunk_sparsity.verdicts import all_claims
from experiments.papers.command import run_command
from jaxdec.decoding import Autoregressive, Prompt, decode
from tests.tiny_models import tiny_transformer
from tests.tiny_text import NUM_TOKENS, byte_tokenizer

TOKENIZER = byte_tokenizer()
encode = TOKENIZER.encode


def decode_text(ids):
    return TOKENIZER.decode(list(ids))


def test_documents_are_sections_with_facts():
    one = document(encode, 6, 180, 3, seed=5)
    assert len(one.tokens) == one.prefix + 6 * 180
    assert decode_text(one.tokens[: one.prefix]) == HEAD
    assert sorted(set(one.sections)) == sorted(one.sections)
    assert not {0, 5} & set(one.sections)
    for number in range(6):
        start = one.prefix + number * 180
        text = decode_text(one.tokens[start : start + 180])
        assert text.startswith(f"Section {number + 1:02d}:\n")
        assert text.endswith("\n")
        assert decode_text(one.tokens[start : start + one.marker]) == f"Section {number + 1:02d}:\n"
        for fact, (question, _) in enumerate(FACTS[:3]):
            answer = decode_text(one.answers[fact])
            assert (f"{question}{answer}. " in text) == (one.sections[fact] == number)
            assert decode_text(one.questions[fact]) == question
    assert document(encode, 6, 180, 3, seed=6).tokens != one.tokens


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((2, 64, 1), "num_sections must be in 3..99, got 2"),
        ((5, 64, 4), "facts must be in 1..3, got 4"),
        ((5, 10, 1), "section must be more than the 13 tokens of its first line, got 10"),
    ],
)
def test_documents_that_make_no_sense_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        document(encode, *sizes, seed=0)


def test_ranks_and_what_is_chosen():
    scores = np.array([[[9.0, 1.0, 3.0, 8.0], [0.0, 2.0, 2.0, 0.0]]])  # one question, two documents
    assert inner(scores)[0, :, 1:3].tolist() == [[1, 3], [2, 2]]
    assert inner(scores)[0].argmax(axis=1).tolist() == [2, 1]
    assert ranks(inner(scores), np.array([[1], [1]])) == [1, 0]
    assert ranks(inner(np.array([[[0.0, -np.inf, 1.0]]])), np.array([[1]])) == [2]


def test_arms_of_a_config():
    arms = arms_of({"compression": 4, "compressions": (2, 4), "top": (1, 2)})
    assert len(arms) == len(set(arms)) == 1 + 4 + 6 + 4
    assert Arm("oracle", 1, 4, log_mass=True) in arms
    assert Arm("none", 0, 4, reposition=False) in arms


@pytest.mark.slow
def test_answers_are_those_of_greedy_decoding():
    """An answer is right if greedy text begins with it: asked for what the model says, and for something else."""
    setting = Setting(
        tiny_transformer(scale=4.0, vocab_size=NUM_TOKENS, max_position_embeddings=1024),
        [document(encode, 4, 32, 1, seed) for seed in (0, 1)],
        32,
        16,
    )
    cache, found = fed(setting, None)
    assert len(found["last_section"]) == 2 * (32 - 12)
    assert found["computed"] == 1
    texts = [[*text.tokens, *text.questions[0]] for text in setting.texts]
    said = decode(Autoregressive(), setting.model, Prompt.create(texts, 2)).tokens[:, 0, :2].tolist()
    answers = [tuple(said[0]), (said[1][0], (said[1][1] + 1) % NUM_TOKENS)]
    asked = [dataclasses.replace(text, answers=(answer,)) for text, answer in zip(setting.texts, answers, strict=True)]
    setting = dataclasses.replace(setting, texts=asked)
    result = ask_all(setting, lambda number: (cache, cache.length))
    assert result["right"] == [True, False]
    assert all(value < 0 for value in result["log_prob"])
    ruled, counted = fed(setting, setting.rule(3, True))
    assert counted["computed"] == pytest.approx(1)
    again = ask_all(setting, lambda number: (ruled, ruled.length))
    np.testing.assert_allclose(again["log_prob"], result["log_prob"], atol=1e-3)


def made_up(changes: dict) -> Results:
    """Results under which every claim holds, with some of the numbers changed."""
    values = {
        "whole": 0.0, "same": True, "share": 0.4, "right": 8, "markers": -0.5, "last": -0.1, "oracle right": 8, "oracle": -0.2,
        "bm25": -0.3, "query_key": -0.4, "pooled": -2.0, "rank bm25": 0, "rank query_key": 1, "wide right": 8, "old": -0.4,
        "raised": -0.1,
    } | changes  # fmt: skip

    def answers(log_prob, correct=8):
        return {"log_prob": [log_prob + 0.001 * index for index in range(8)], "right": [i < correct for i in range(8)]}

    def prefill(previous, markers, share, log_prob, correct=8, last=0.0):
        sizes = {
            "previous": previous,
            "markers": markers,
            "share": share,
            "computed": share,
            "seconds": 1.0,
            "foreign_load": None,
        }
        return {**sizes, "last_section": [-1 + last + 0.001 * i for i in range(9)], **answers(log_prob, correct)}

    def arm(relevance, top, log_prob, compression=4, entries=40, correct=8, **options):
        sizes = {"relevance": relevance, "top": top, "compression": compression, "reposition": True, "log_mass": False}
        return {
            **sizes,
            **options,
            "entries": entries,
            "bytes": entries * 10,
            "found": 0.5,
            **answers(log_prob, correct),
        }

    prefills = [
        prefill(0, True, values["share"], -0.3),
        prefill(1, True, 0.5, -0.3, values["right"]),
        prefill(7, True, 1.0, -0.2 + values["whole"]),
        prefill(0, False, 0.3, -0.3 + values["markers"], last=values["last"]),
        prefill(1, False, 0.4, -0.3 + values["markers"], last=values["last"]),
    ]
    arms = [
        arm("all", 0, -0.25, entries=80),
        arm("none", 0, values["pooled"], entries=35, correct=1),
        arm("none", 0, values["pooled"], 2, 50, 1),
        arm("oracle", 1, values["oracle"], correct=values["oracle right"]),
        arm("oracle", 1, values["oracle"], 2, 55, values["oracle right"]),
        arm("oracle", 1, values["oracle"], 16, 38, values["wide right"]),
        arm("none", 0, values["pooled"], 16, 30, 1),
        arm("oracle", 1, values["old"], reposition=False),
        arm("none", 0, values["pooled"], reposition=False),
        arm("oracle", 1, values["raised"], log_mass=True),
        arm("none", 0, values["pooled"], log_mass=True),
    ]
    arms += [
        arm(name, top, values.get(name, -3.0), entries=40 + top)
        for name in ("bm25", "query_key", "random")
        for top in (1, 2)
    ]
    found = {name: [values.get(f"rank {name}", 3)] * 8 for name in ("bm25", "query_key", "query_key max", "random")}
    bilevel = {
        "arms": arms,
        "bitwise": values["same"],
        "bytes": {"dense": 100, "pooled": 30},
        "dense_lies_in": ["pinned_host"],
        "tokens": 80,
        "chunks": 10,
        "ranks": found,
    }
    return Results(prefill(None, False, 1.0, -0.2), prefills, bilevel, previous=1, compression=4)


CLAIMS = (
    "with as many chunks before",
    "with all chunks chosen",
    "the prefill computes a share",
    "answers after chunked prefill with previous = 1",
    "answers: likelier with markers",
    "the last section's text: likelier with markers",
    "with the relevant chunk dense and others pooled",
    "oracle, top 1: bi-level is better",
    "bm25, top 2: bi-level is better",
    "query_key, top 2: bi-level is better",
    "bm25 finds the chunk",
    "query_key finds the chunk",
    "with the relevant chunk dense, larger windows",
    "numbering entries anew",
    "raising pooled keys",
)


@pytest.mark.parametrize(
    ("changes", "others"),
    [
        ({}, {}),
        ({"whole": 0.01}, {0: False}),
        ({"same": False}, {1: False}),
        ({"share": 0.6}, {2: False}),
        ({"right": 7}, {3: False}),
        ({"markers": 0.5}, {4: False}),
        ({"markers": 0.0}, {4: None}),
        ({"last": 0.1}, {5: False}),
        ({"oracle right": 7, "wide right": 7}, {6: False}),
        ({"oracle": -2.5, "raised": -0.1, "old": -2.9}, {7: False}),
        ({"bm25": -2.5}, {8: False}),
        ({"query_key": -2.5}, {9: False}),
        ({"query_key": -2.0}, {9: None}),
        ({"rank bm25": 2}, {10: False}),
        ({"rank query_key": 2}, {11: False}),
        ({"wide right": 7}, {12: False}),
        ({"old": -0.1}, {13: False}),
        ({"raised": -0.3}, {14: False}),
        ({"raised": -0.2}, {14: None}),
    ],
)
def test_every_claim_can_fail(changes, others):
    expected = [others.get(index, True) for index in range(len(CLAIMS))]
    found = all_claims(made_up(changes))
    assert all(entry["claim"].startswith(text) for entry, text in zip(found, CLAIMS, strict=True))
    assert [entry["reproduced"] for entry in found] == expected
    assert all(entry["reason"] for entry in found if not entry["reproduced"])


def test_tables_figures_and_notes(tmp_path):
    results = made_up({})
    assert right(results.plain) == 1
    shown = tables(results)
    assert [len(table["rows"]) for table in shown] == [6, 17, 4]
    assert all(len(row) == len(table["header"]) for table in shown for row in table["rows"])
    for folder in ("one", "two"):
        assert [figure["file"] for figure in draw_figures(results, tmp_path / folder)] == ["prefill.svg", "bilevel.svg"]
    figure = (tmp_path / "one" / "bilevel.svg").read_text()
    assert figure == (tmp_path / "two" / "bilevel.svg").read_text()
    assert all(label in figure for label in ("all pooled", "oracle", "BM25", "query-key", "all dense"))
    assert video_xl2.notes(results)[1].startswith("8 questions")


@pytest.mark.slow
def test_the_smoke_run_judges_nothing(tmp_path):
    assert run_command(["reproduce", "--paper=video_xl2", "--smoke", f"--out={tmp_path}"], "") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert len(metrics["claims"]) == len(CLAIMS)
    assert all(claim["reproduced"] is None for claim in metrics["claims"])
    assert metrics["claims"][1]["measured"].startswith("equal bit by bit")
    assert (tmp_path / "report.md").read_text().count("![") == 2
