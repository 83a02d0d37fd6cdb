"""docs/long_documents.md says what the code does."""

import re
from pathlib import Path

import pytest

from jaxdec.context_rules import attention_rule
from jaxdec.loading import LoadedModel
from tests.tiny_models import tiny_transformer
from tests.tiny_text import NUM_TOKENS, byte_tokenizer

PAGE = (Path(__file__).parents[1] / "docs" / "long_documents.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    lm = LoadedModel(tiny_transformer(vocab_size=NUM_TOKENS), byte_tokenizer(), "random")
    text = "The mill is old. The baker sells bread. " * 6
    exec(code, {"lm": lm, "text": text, "questions": ["Who sells bread?"]})
    assert len(capsys.readouterr().out) > 1


def test_the_rule_has_the_options_of_the_page():
    (asked,) = re.findall(r'attention="(video_xl2:[^"]+)"', PAGE)
    rule = attention_rule(asked)
    assert (rule.chunk, rule.previous, rule.prefix, rule.marker, rule.suffix) == (64, 3, 5, 6, 20)
