"""A decode trace as one HTML page: tokens coloured by who produced them, and a line per step with its draft tree.

The page stands alone and says so to the browser, whose content security policy forbids scripts and everything that would have
to be fetched. All texts go through jinja's escaping. Whitespace and bytes that are no whole character are made visible by style
sheets, so that the characters of the page, copied out of it, are those of the text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from experiments.decode_trace import DecodeTrace, TracedNode, TracedToken
from experiments.token_pieces import pieces, segments
from jaxdec.generation import Run
from jaxdec.tokenizers import Tokenizer

MARK = '<meta name="generator" content="jaxdec trace">'
SHADES = 8  # depths with a colour of their own; deeper drafts have that of the last

STYLE = """
:root { color-scheme: light dark; --l: 86%; --s: 62%; --edge: 45%; --ink: #1b1f24; --page: #fff; --faint: #68707a;
  --line: #d5dae0; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --l: 24%; --s: 45%; --edge: 55%; --ink: #e4e7ea; --page: #14171a; --faint: #98a1ab;
    --line: #363c43; --bad: #ff8a80; }
}
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: .5rem 0; }
td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.faint { color: var(--faint); }
.token { font: 14px/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate;
  padding: .05rem 0; border-radius: .2rem; box-shadow: inset 0 -2px 0 hsl(var(--h) var(--s) var(--edge));
  background: hsl(var(--h) var(--s) var(--l)); }
.prompt { background: none; box-shadow: none; color: var(--faint); }
.prefill, .target { --h: 38; }
.prefill { background: none; }
.space, .tab, .newline, .bytes { font-style: normal; position: relative; }
.space::before { content: "\\00b7"; position: absolute; left: 0; color: var(--faint); }
.tab::before { content: "\\2192"; position: absolute; left: 0; color: var(--faint); }
.newline::before { content: "\\21b5"; color: var(--faint); }
.bytes::before { content: attr(data-bytes); font-size: 11px; margin: 0 1px;
  border: 1px solid var(--faint); border-radius: .2rem; }
.text { border: 1px solid var(--line); border-radius: .4rem; padding: .8rem; }
.legend .token { margin-right: 1rem; padding: .1rem .4rem; }
ol.steps { list-style: none; padding: 0; }
.step { display: grid; grid-template-columns: 3rem 9rem 1fr; gap: .6rem; padding: .3rem 0; border-top: 1px solid var(--line); }
.step .row { display: flex; flex-wrap: wrap; gap: .35rem; align-items: flex-start; min-width: 0;
  overflow-x: auto; }
.step .token { white-space: pre; padding: .05rem .25rem; } .step .newline { white-space: normal; }
ul.tree { list-style: none; margin: 0; padding: 0; display: flex; flex-direction: column; gap: .2rem; }
ul.tree li { display: flex; gap: .35rem; align-items: flex-start; }
ul.tree ul.tree { border-left: 1px solid var(--line); padding-left: .35rem; }
.rejected { background: none; box-shadow: inset 0 0 0 1px var(--line); color: var(--bad); text-decoration: line-through; }
.cut { background: none; box-shadow: inset 0 0 0 1px hsl(var(--h) var(--s) var(--edge)); text-decoration: underline dotted; }
"""

TEMPLATE = (
    """
{%- macro shown(piece) -%}
{%- for part in segments(piece) -%}
{%- if part.kind == "text" -%}{{ part.text }}
{%- elif part.kind == "bytes" -%}<i class="bytes" data-bytes="{{ part.text }}"></i>
{%- else -%}<i class="{{ part.kind }}">{{ part.text }}</i>{%- endif -%}
{%- endfor -%}
{%- endmacro -%}
{%- macro token(item, place="") -%}
<span class="token {{ class_of(item) }}" title="{{ hover(item) }}"{% if place %} data-place="{{ place }}"{% endif %}>
{{- shown(item_piece(item)) -}}
</span>
{%- endmacro -%}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
"""
    + MARK
    + """
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Decode trace: {{ facts["method"] }}</title>
<style>"""
    + STYLE
    + """{% for depth in range(1, shades + 1) %}.d{{ depth }} { --h: {{ 125 + 20 * depth }}; }
{% endfor %}</style>
</head>
<body>
<h1>Decode trace</h1>
<table class="facts">
{% for name, value in facts.items() %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table>
<p class="legend">
<span class="token prompt">prompt</span>
<span class="token prefill">target, from the pass over the prompt</span>
<span class="token target">target</span>
{% for depth in range(1, deepest + 1) %}<span class="token draft d{{ depth }}">draft, depth {{ depth }}
{%- if depth == shades %} and more{% endif %}</span>
{% endfor -%}
{% if deepest %}<span class="token rejected">rejected</span>
<span class="token cut d1">accepted, behind the end of the text</span>{% endif %}
</p>
{% for text in texts %}
<section>
<h2>Text{% if texts|length > 1 %} {{ loop.index }} of {{ texts|length }}{% endif %}</h2>
<p class="text">
{%- for item in text.trace.tokens -%}{{ token(item, "text") }}{%- endfor -%}
</p>
<table class="totals">
{% for name, value in text.totals.items() %}<tr><th>{{ name }}</th><td class="number">{{ value }}</td></tr>
{% endfor %}</table>
{% if text.depths %}<table class="depths">
<tr><th>depth</th><th>drafted</th><th>accepted</th><th>share</th></tr>
{% for row in text.depths %}<tr>{% for cell in row %}<td class="number">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
<p class="faint">Steps in which a candidate of the depth was fed, and in which one was accepted.</p>
{% endif %}<h2>Steps</h2>
<p class="faint">Each line is one forward pass: the last token of the text, what was guessed behind it, what came out.</p>
<ol class="steps">
{% for step in text.trace.steps %}<li class="step"><span class="faint">{{ step.number }}</span>
<span class="faint">{{ step.size }} fed, {{ step.emitted|length }} out</span>
<div class="row">{{ token(step.root) }}
{% if step.nodes %}<ul class="tree">{% for node in step.nodes recursive %}<li>{{ token(node, "node") }}
{%- if node.children %}<ul class="tree">{{ loop(node.children) }}</ul>{% endif %}</li>{% endfor %}</ul>{% endif %}
<span class="faint">&rarr;</span>{% for item in step.emitted %}{{ token(item, "emitted") }}{% endfor %}</div></li>
{% endfor %}</ol>
</section>
{% endfor %}
</body>
</html>
"""
)


def render(run: Run, traces: Sequence[DecodeTrace], settings: Mapping[str, Any]) -> str:
    """The page.

    Args:
      run: that the traces were recorded of.
      traces: a text each.
      settings: flags or options, by name.
    """
    results = [text for result in run.results() for text in (result, *result.alternatives)]
    facts = {
        "model": results[0].model,
        "method": results[0].method,
        "guarantee": f"{results[0].guarantee}, relative to {results[0].reference}",
        "options": ", ".join(f"{name}={value}" for name, value in settings.items()),
        "built as": repr(run.method),
    }
    view = _View(run.lm.tokenizer, traces)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)
    return environment.from_string(TEMPLATE.lstrip("\n")).render(
        facts=facts,
        shades=SHADES,
        deepest=min(SHADES, max(row[0] for trace in traces for row in [(0,), *depths(trace)])),
        texts=[
            {"trace": trace, "totals": totals(trace, result.finish_reason), "depths": depths(trace)}
            for trace, result in zip(traces, results)
        ],
        class_of=class_of,
        hover=hover,
        item_piece=view.piece,
        segments=segments,
    )


class _View:
    """The pieces of all tokens: within a text a character may be split over several, in a tree each token stands alone."""

    def __init__(self, tokenizer: Tokenizer, traces: Sequence[DecodeTrace]):
        self._tokenizer = tokenizer
        self._in_text = {
            id(token): piece
            for trace in traces
            for token, piece in zip(trace.tokens, pieces(tokenizer, [token.token_id for token in trace.tokens]))
        }
        self._alone: dict[int, Any] = {}

    def piece(self, item: TracedToken | TracedNode) -> Any:
        """What an item stands for."""
        if id(item) in self._in_text:
            return self._in_text[id(item)]
        if item.token_id not in self._alone:
            piece = pieces(self._tokenizer, [item.token_id])[0]
            self._alone[item.token_id] = piece._replace(text=piece.text.strip("\ufffd")) if piece.bytes else piece
        return self._alone[item.token_id]


def class_of(item: TracedToken | TracedNode) -> str:
    """Style classes: the producer of a token or the outcome of a node, and the shade of its depth."""
    kind = item.producer if isinstance(item, TracedToken) else item.outcome
    return f"{kind} d{min(item.depth, SHADES)}" if item.depth else kind


def hover(item: TracedToken | TracedNode) -> str:
    """What is told about a token under the pointer."""
    where = f"position {item.position}, token {item.token_id}"
    if isinstance(item, TracedNode):
        return f"{where}, guessed in step {item.step} at depth {item.depth}: {item.outcome}"
    told = {
        "prompt": "prompt",
        "prefill": "the target's, from the pass over the prompt",
        "target": f"the target's, step {item.step}",
        "draft": f"draft of depth {item.depth}, step {item.step}",
    }
    return f"{where}, {told[item.producer]}"


def totals(trace: DecodeTrace, finish_reason: str) -> dict[str, Any]:
    """Numbers of a text, as the page names them."""
    counts = trace.counts
    shown: dict[str, Any] = {
        "new tokens": counts.new_tokens,
        "forward passes, that over the prompt included": counts.target_calls,
        "tokens per call": f"{counts.tokens_per_call:.2f}",
        "ended by": finish_reason,
    }
    if counts.wasted_share is not None:
        shown["nodes fed"] = counts.fed
        shown["of which accepted"] = sum(counts.accepted)
        shown["of which wasted"] = f"{counts.wasted} ({counts.wasted_share:.0%})"
    return shown


def depths(trace: DecodeTrace) -> list[tuple[Any, ...]]:
    """Rows of acceptance by depth; depths at which nothing was drafted are left out."""
    counts = trace.counts
    rows = zip(counts.drafted, counts.accepted, counts.acceptance)
    return [(depth, *row[:2], f"{row[2]:.0%}") for depth, row in enumerate(rows, start=1) if row[2] is not None]
