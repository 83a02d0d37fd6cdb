"""Text in, text out."""

import time

import jax
import jax.numpy as jnp
import pytest

import jaxdec
from jaxdec.decoding import Autoregressive, Sampling
from jaxdec.generation import Run, encode_prompt
from jaxdec.language_model import LanguageModel
from jaxdec.loading import LoadedModel
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.tiny_models import tiny_transformer
from tests.tiny_text import NUM_TOKENS, byte_tokenizer, model_that_says


@pytest.fixture(scope="module")
def random_lm():
    return LoadedModel(tiny_transformer(scale=3.0, vocab_size=NUM_TOKENS), byte_tokenizer(), "random")


def generate_raw(answer, **options):
    return jaxdec.generate(model_that_says(answer, 3), "abc", raw=True, max_new_tokens=40, **options)


def test_one_prompt_gives_one_generation():
    result = generate_raw("Hello, world")
    assert result.text == "Hello, world"
    assert result.finish_reason == "eos"
    assert result.new_tokens == len(result.token_ids) == len("Hello, world") + 1
    assert result.token_ids[-1] == 257
    assert result.target_calls == result.new_tokens
    assert result.tokens_per_call == 1
    assert (result.method, result.guarantee, result.model) == ("greedy", "token_identical", "scripted")
    assert "alternatives" not in result.as_dict()


def test_budget_ends_a_text():
    result = jaxdec.generate(model_that_says("Hello", 3), "abc", raw=True, max_new_tokens=3)
    assert (result.text, result.finish_reason, result.new_tokens) == ("Hel", "length", 3)


def test_characters_of_several_bytes_are_streamed_whole():
    pieces = [piece.text for piece in Run(model_that_says("né→😀!", 3), ["abc"], raw=True, max_new_tokens=30)]
    assert pieces == ["n", "é", "→", "😀", "!"]


def test_half_a_character_at_the_end_of_the_budget_is_kept_as_such():
    run = Run(model_that_says("n😀", 3), ["abc"], raw=True, max_new_tokens=3)
    assert "".join(piece.text for piece in run) == run.results()[0].text == "n\ufffd"


@pytest.mark.parametrize("stop", [["lo, w"], ["lo, w", "wor"], ["zzz", "lo"]])
def test_stop_strings_cut_the_text_across_token_borders(stop):
    result = generate_raw("Hello, world", stop=stop)
    assert (result.text, result.finish_reason) == ("Hel", "stop")
    run = Run(model_that_says("Hello, world", 3), ["abc"], raw=True, stop=stop, max_new_tokens=40)
    assert "".join(piece.text for piece in run) == "Hel"
    assert run.results()[0].finish_reason == "stop"
    assert run.results()[0].new_tokens <= len("Hello, w") + 1


def test_a_stop_string_that_never_comes_holds_nothing_back_in_the_end():
    run = Run(model_that_says("Hello", 3), ["abc"], raw=True, stop=["lo, world"], max_new_tokens=40)
    assert "".join(piece.text for piece in run) == "Hello"


def test_special_tokens_are_not_shown():
    lm = model_that_says("a<|im_start|>b", 3)
    result = jaxdec.generate(lm, "abc", raw=True, max_new_tokens=40)
    assert result.text == "ab"
    assert 256 in result.token_ids


def test_chat_template_and_messages():
    lm = model_that_says("hi", 0)
    by_text = encode_prompt(lm, "q", raw=False)
    by_messages = encode_prompt(lm, [{"role": "user", "content": "q"}], raw=False)
    assert by_text == by_messages == [256, *lm.tokenizer.encode("q"), 257, 256]
    assert encode_prompt(lm, "q", raw=True) == lm.tokenizer.encode("q")
    with pytest.raises(ValueError, match="raw is True and prompt is a list of messages"):
        encode_prompt(lm, [{"role": "user", "content": "q"}], raw=True)
    bare = LoadedModel(lm.model, byte_tokenizer(chat_template=None), "bare")
    assert encode_prompt(bare, "q", raw=False) == lm.tokenizer.encode("q")


@pytest.mark.slow  # the contract suite has the same below this interface
def test_a_batch_gives_what_its_prompts_give_alone(random_lm):
    prompts = ["a", "some longer prompt", "mid one"]
    together = jaxdec.generate(random_lm, prompts, max_new_tokens=10)
    alone = [jaxdec.generate(random_lm, prompt, max_new_tokens=10) for prompt in prompts]
    assert [result.token_ids for result in together] == [result.token_ids for result in alone]


def test_streaming_and_running_give_the_same(random_lm):
    options = {
        "method": "sample",
        "sampling": Sampling(temperature=1.0),
        "num_samples": 2,
        "max_new_tokens": 12,
        "seed": 5,
    }
    streamed = Run(random_lm, ["one", "another"], **options)
    texts = {}
    for piece in streamed.pieces(steps=3):
        texts[piece.row, piece.sample] = texts.get((piece.row, piece.sample), "") + piece.text
    for row, result in enumerate(jaxdec.generate(random_lm, ["one", "another"], **options)):
        for sample, text in enumerate([result, *result.alternatives]):
            assert texts.get((row, sample), "") == text.text
    assert len(result.alternatives) == 1
    assert result.as_dict()["alternatives"][0]["new_tokens"] > 0


def test_seconds_add_up_to_the_wall_clock(random_lm):
    begin = time.perf_counter()
    result = jaxdec.generate(random_lm, "x" * 40, max_new_tokens=30)
    wall = time.perf_counter() - begin
    booked = result.prefill_seconds + result.decode_seconds + result.compile_seconds
    assert 0.5 * wall < booked <= wall
    again = jaxdec.generate(random_lm, "y" * 40, max_new_tokens=29, seed=3)
    assert again.compile_seconds < result.compile_seconds / 3


def test_results_after_an_interruption_hold_the_text_so_far():
    run = Run(model_that_says("Hello, world", 3), ["abc"], raw=True, max_new_tokens=40)
    assert run.results() == []
    stream = iter(run)
    assert next(stream).text + next(stream).text == "He"
    assert (run.results()[0].text, run.results()[0].finish_reason) == ("He", "interrupted")


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "prompt is empty"),
        ([], {}, "prompts is empty"),
        (["a", ""], {}, "prompt is empty"),
        ("a", {"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ("a" * 300, {}, "the context of this model is 256 tokens"),
        ("a", {"method": "gready"}, "method must be one of greedy, sample"),
        ("a", {"stop": "abc"}, "stop must be a sequence of strings"),
        ("a", {"stop": [""]}, "stop contains an empty string"),
        ("a", {"sampling": Sampling()}, "method 'greedy' takes no sampling"),
        ("a", {"num_samples": 2}, "num_samples is 2 with greedy decoding"),
        ("a", {"num_beams": 2}, "method 'greedy' has no option 'num_beams'"),
        ("a", {"method": Autoregressive(), "num_samples": 2}, "method is an object"),
    ],
)
def test_bad_input_is_refused_before_anything_is_compiled(prompt, options, message):
    with pytest.raises(ValueError, match=message):
        jaxdec.generate(model_that_says("x", 1), prompt, raw=True, **options)


def test_loading_refuses_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="dtype must be one of float32"):
        jaxdec.load("smollm2-135m-instruct", dtype="int4")
    with pytest.raises(ValueError, match="'float64' needs"):
        jaxdec.load("smollm2-135m-instruct", dtype="float64")
    with pytest.raises(ValueError, match="row_tile must be at least 1, got 0"):
        jaxdec.load("smollm2-135m-instruct", row_tile=0)
    with pytest.raises(ValueError, match="Known names: smollm2-135m-instruct"):
        jaxdec.load("smollm3")
    with pytest.raises(FileNotFoundError, match="no file or folder there"):
        jaxdec.load(str(tmp_path / "model.gguf"))


def test_public_names_resolve():
    for name in jaxdec.__all__:
        assert getattr(jaxdec, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = jaxdec.nothing


def test_params_are_data_not_constants():
    model = model_that_says("x", 1).model
    assert isinstance(model, LanguageModel)
    assert model.num_params() == 0


@pytest.mark.parametrize(
    "options", [{}, {"method": "beam", "num_beams": 2}, {"method": "prompt_lookup", "tree_size": 2}]
)
def test_a_model_that_returns_nan_is_an_error(random_lm, options):
    def damage(leaf):
        return leaf.at[0].set(jnp.nan)

    broken = random_lm.model.replace(params=jax.tree.map(damage, random_lm.model.params))
    lm = LoadedModel(broken, random_lm.tokenizer, "broken")
    with pytest.raises(
        FloatingPointError, match="model 'broken' returned NaN logits for prompt 0: its weights are damaged"
    ):
        jaxdec.generate(lm, "abc", raw=True, max_new_tokens=4, **options)
