"""Traces: what the page says is what the engine did, and the page is harmless whatever the texts hold."""

import html.parser
import re

import pytest

import jaxdec
from experiments import trace
from experiments.decode_trace import record
from experiments.interrupts import Interrupts
from experiments.trace_page import render
from jaxdec.decoding.speculative import Speculative
from tests.decoding.speculative.drafters import RandomTrees, Scripted
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.tiny_text import NUM_TOKENS, byte_tokenizer, model_that_says

ANSWER = "abc déf\n\tghi jkl mn"
VOID = {"meta"}


class Page(html.parser.HTMLParser):
    """A page taken apart; unbalanced tags fail."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.spans, self.steps, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))
        classes = (dict(attrs).get("class") or "").split()
        if "step" in classes:
            self.steps.append([])
        if "token" in classes and "data-place" in dict(attrs):
            self.spans.append({"classes": classes[1:], "text": "", **dict(attrs)})
            if dict(attrs)["data-place"] != "text":
                self.steps[-1].append(self.spans[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        inside = [attrs for _, attrs in self.open if "data-place" in attrs]
        if inside:
            self.spans[-1]["text"] += data
        elif not any(tag == "style" for tag, _ in self.open):
            self.words.append(data)

    def of(self, place):
        return [span for span in self.spans if span["data-place"] == place]


def traced(drafter, prompt="say", **options):
    """Run, traces and page of a model that says ANSWER."""
    lm = model_that_says(ANSWER, len(byte_tokenizer().encode(prompt)))
    run = jaxdec.Run(lm, [prompt], method=Speculative(drafter), raw=True, **{"max_new_tokens": 40, **options})
    traces = record(run)
    return run, traces, Page(render(run, traces, {"max_new_tokens": 40}))


SCRIPT = ((*byte_tokenizer().encode(ANSWER), 257),)


def random_trees():
    return RandomTrees(SCRIPT, num_nodes=7, max_depth=4, vocab_size=NUM_TOKENS)


def test_a_drafter_that_is_always_right():
    run, (traced_,), page = traced(Scripted(SCRIPT, 3, NUM_TOKENS))
    new = [span["classes"] for span in page.of("text")[3:]]
    step = [["draft", "d1"], ["draft", "d2"], ["draft", "d3"], ["target"]]
    assert new == [["prefill"], *(step * 10)][: len(new)]
    assert [token.step for token in traced_.tokens[3:9]] == [0, 1, 1, 1, 1, 2]
    assert len(new) == len(SCRIPT[0]) == run.results()[0].new_tokens
    assert all(node.outcome != "rejected" for one in traced_.steps for node in nodes_of(one.nodes))


def test_a_drafter_that_is_always_wrong():
    _, (traced_,), page = traced(Scripted(SCRIPT, 3, NUM_TOKENS, shift=1))
    assert {tuple(span["classes"]) for span in page.of("text")} == {("prompt",), ("prefill",), ("target",)}
    assert [span["classes"][0] for span in page.of("node")] == ["rejected"] * 3 * len(traced_.steps)
    assert all(len(one.nodes) == len(one.nodes[0].children) == 1 for one in traced_.steps)
    assert traced_.counts.wasted == traced_.counts.fed == 3 * len(traced_.steps)


def nodes_of(nodes):
    return [found for node in nodes for found in (node, *nodes_of(node.children))]


@pytest.mark.parametrize("budget", [40, 8, 9])
def test_the_page_agrees_with_the_engine(budget):
    run, (traced_,), page = traced(random_trees(), max_new_tokens=budget)
    stats = run.state.stats
    length, first = int(run.state.length[0]), int(run.state.prompt_length[0])
    tokens = page.of("text")
    names = {"prompt": 0, "prefill": 0, "target": 1, "draft": 2}
    assert [names[span["classes"][0]] for span in tokens] == stats.produced_by[0, :length].tolist()
    assert [span["classes"][0] for span in tokens[: first + 1]] == ["prompt"] * first + ["prefill"]
    assert len(traced_.steps) + 1 == traced_.counts.target_calls == stats.target_calls[0]
    assert sum(one.size for one in traced_.steps) == stats.fed[0] == traced_.counts.fed
    nodes = [node for one in traced_.steps for node in nodes_of(one.nodes)]
    for depth in range(1, 5):
        here = [node for node in nodes if node.depth == depth]
        assert len({node.step for node in here}) == stats.drafted[0, depth - 1]
        assert sum(node.outcome != "rejected" for node in here) == stats.accepted[0, depth - 1]
    emitted = [token for one in traced_.steps for token in one.emitted]
    assert emitted == list(traced_.tokens[first + 1 :])
    # Accepted nodes are the drafts of the text; those behind its end are not in it.
    accepted = [(node.token_id, node.position, node.depth) for node in nodes if node.outcome == "accepted"]
    drafts = [token for token in emitted if token.producer == "draft"]
    assert sorted(accepted, key=lambda node: node[1]) == [(t.token_id, t.position, t.depth) for t in drafts]
    assert {"cut", "rejected"} & {node.outcome for node in nodes}
    assert str(stats.fed[0]) in page.words
    assert f"{traced_.counts.tokens_per_call:.2f}" in page.words
    # A step's line has its nodes and what it emitted.
    for one, spans in zip(traced_.steps, page.steps, strict=True):
        assert sum(span["data-place"] == "node" for span in spans) == len(nodes_of(one.nodes))
        assert sum(span["data-place"] == "emitted" for span in spans) == len(one.emitted)


def test_what_was_accepted_behind_the_end_is_cut():
    _, (traced_,), page = traced(Scripted(SCRIPT, 6, NUM_TOKENS), max_new_tokens=4)
    assert [node.outcome for node in nodes_of(traced_.steps[0].nodes)] == ["accepted"] * 3 + ["cut"] * 3
    assert [span["classes"] for span in page.of("node")][3:] == [["cut", "d4"], ["cut", "d5"], ["cut", "d6"]]


def test_the_tokens_of_the_page_are_the_text():
    prompt = "ä<|im_start|> &amp; \t x"
    _, _, page = traced(random_trees(), prompt=prompt)
    text = "".join(span["text"] for span in page.of("text"))
    assert text == prompt + ANSWER + "<|im_end|>"
    named = [attrs["data-bytes"] for tag, attrs in page.tags if "data-bytes" in attrs]
    assert named[:2] == ["C3", "A4"]  # the halves of a character
    assert {"space", "tab", "newline"} <= {attrs.get("class") for _, attrs in page.tags}


def test_a_prompt_is_text_and_nothing_else():
    prompt = "</style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}{% x %}"
    run, traces, page = traced(Scripted(SCRIPT, 2, NUM_TOKENS), prompt=prompt)
    assert "".join(span["text"] for span in page.of("text")).startswith(prompt)
    hostile = Page(render(run, traces, {"stop": ["</td><script>"]}))
    allowed = "html head meta title style body h1 h2 table tr th td p span i section ol ul li div"
    assert {tag for tag, _ in page.tags + hostile.tags} <= set(allowed.split())
    allowed = "lang charset name content http-equiv class title data-place data-bytes"
    assert {name for _, attrs in page.tags for name in attrs} <= set(allowed.split())


def test_the_page_stands_alone():
    run, traces, page = traced(Scripted(SCRIPT, 2, NUM_TOKENS))
    text = render(run, traces, {})
    assert "://" not in text
    assert not re.search(r"url\(|@import|<script|<link|javascript:", text, re.IGNORECASE)
    (policy,) = (attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert "prefers-color-scheme: dark" in text
    for fact in ("scripted", "Speculative", "token_identical, relative to greedy decoding"):
        assert fact in page.words


@pytest.fixture
def write(tiny_gguf, tmp_path, monkeypatch, capsys):
    """``write(*flags)`` returns exit status, the page if there is one, and stderr."""
    monkeypatch.setattr(jaxdec, "enable_compilation_cache", lambda: None, raising=False)

    def write(*flags, interrupts=None):
        out = tmp_path / "trace.html"
        flags = [f"--out={out}", f"--model={tiny_gguf}", "--max_new_tokens=6", *flags]
        status = trace.main(["trace", *flags], interrupts or Interrupts(""))
        captured = capsys.readouterr()
        assert captured.out == ""
        return status, Page(out.read_text(encoding="utf-8")) if out.exists() else None, captured.err

    return write


def test_the_command_traces_plain_decoding(write, tiny_gguf):
    status, page, err = write("--prompt=abc", "--seed=3")
    assert status == 0, err
    assert [span["classes"][0] for span in page.of("text")][-6:] == ["prefill"] + ["target"] * 5
    answer = jaxdec.generate(jaxdec.load(str(tiny_gguf)), "abc", max_new_tokens=6)
    assert "".join(span["text"] for span in page.of("text")).endswith(answer.text)
    assert len(page.steps) == 5
    assert {"greedy", str(tiny_gguf), "dtype=float32, max_new_tokens=6, seed=3"} <= set(page.words)
    assert "6 tokens in 6 calls, 1.00 per call" in err


def test_the_command_traces_every_sample_and_replaces_its_own_pages(write, tmp_path):
    assert write("--prompt=abc")[0] == 0
    status, page, err = write("--prompt=abcabcab", "--method=prompt_lookup", "--tree_size=3", "--temperature=1",
                              "--num_samples=2")  # fmt: skip
    assert status == 0, err
    assert {"Text 1 of 2", "Text 2 of 2"} <= set(page.words)
    assert any("temperature=1.0" in word and "tree_size=3" in word for word in page.words)
    assert "2 texts" in err
    (tmp_path / "trace.html").write_text("mine")
    assert trace.main(["trace", "--prompt=a", f"--out={tmp_path / 'trace.html'}"], Interrupts("")) == 2
    assert (tmp_path / "trace.html").read_text() == "mine"


def test_an_interrupted_trace_shows_the_steps_so_far(write):
    class AfterThreeSteps(Interrupts):
        def keep_results(self):
            self.steps = getattr(self, "steps", -1) + 1
            self.requested = self.steps == 3

    status, page, err = write("--prompt=abc", interrupts=AfterThreeSteps(""))
    assert (status, len(page.steps)) == (130, 3)
    assert "Interrupted: the page shows the steps so far." in err
    assert "interrupted" in page.words


BAD = [
    ([], "--prompt is missing: give at least one character"),
    (["--prompt="], "--prompt is missing"),
    (["--prompt=\udcff"], "--prompt is not UTF-8"),
    (["--prompt=a", "--method=beam"], "--method=beam has no trace: its texts are known at the end only"),
    (["--prompt=a", "--prompt_file=b"], "Unknown command line flag 'prompt_file'"),
    (["--prompt=a", "--out=/nowhere/t.html"], "--out=/nowhere/t.html: there is no folder /nowhere"),
    (["--prompt=a", "--out=/"], "--out=/: it exists and is no trace"),
    (["--prompt=a", "--method=aded", "--tree_size=0"], "--tree_size=0: it must be a number of nodes"),
    (["--prompt=a", "--max_new_tokens=0"], "--max_new_tokens must be at least 1, got 0"),
]


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_bad_input_is_one_clear_line_before_a_model_is_loaded(write, monkeypatch, flags, message):
    monkeypatch.setattr("experiments.answers.load", lambda *_: pytest.fail("a model was loaded"))
    status, page, err = write(*flags)
    assert (status, page) == (2, None)
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_config_may_set_the_prompt(write, tmp_path):
    (tmp_path / "config.py").write_text("def get_config():\n    return {'prompt': 'abc', 'max_new_tokens': 3}\n")
    status, page, err = write(f"--config={tmp_path / 'config.py'}")
    assert status == 0, err
    assert len(page.steps) == 5  # the flag wins over the config


def test_methods_without_a_trace_are_refused():
    lm = model_that_says(ANSWER, 3)
    with pytest.raises(ValueError, match="method 'beam' has no trace"):
        record(jaxdec.Run(lm, ["say"], method="beam", raw=True))
