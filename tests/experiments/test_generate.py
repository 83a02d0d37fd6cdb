"""The launcher: what its flags do."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import jaxdec
from experiments.answers import summary
from experiments.generate_flags import SPECULATIVE_OPTIONS, define_flags, method_of, parse, run_options
from jaxdec.decoding import Autoregressive, BeamSearch, DiverseBeamSearch, Sampling
from jaxdec.decoding.methods import AUTO_NODES, build_method
from tests.experiments.prompt_files import read_lines, write_lines

NUMBERS = "new_tokens target_calls tokens_per_call prefill_seconds decode_seconds tokens_per_second compile_seconds"
FIELDS = ["text", "token_ids", *NUMBERS.split(), "method", "guarantee", "model"]


def test_json_has_the_fields_of_the_contract(ask_generate, tiny_gguf):
    answer = ask_generate("--prompt=abc")
    assert set(FIELDS) <= set(answer)
    assert (answer["method"], answer["guarantee"], answer["model"]) == ("greedy", "token_identical", str(tiny_gguf))
    assert answer["new_tokens"] == len(answer["token_ids"]) == answer["target_calls"] == len(answer["text"]) == 6
    assert answer["tokens_per_call"] == 1.0
    assert answer["finish_reason"] == "length"
    assert "alternatives" not in answer


@pytest.mark.parametrize(
    ("flags", "name", "method"),
    [
        ([], "greedy", Autoregressive()),
        (["--method=greedy"], "greedy", Autoregressive()),
        (["--method=greedy", "--temperature=0"], "greedy", Autoregressive()),
        (["--temperature=0"], "greedy", Autoregressive()),
        (["--method=sample"], "sample", Autoregressive(Sampling())),
        (["--temperature=0.9"], "sample", Autoregressive(Sampling(0.9))),
        (["--top_k=5", "--top_p=0.9", "--min_p=0.01"], "sample", Autoregressive(Sampling(1.0, 5, 0.9, 0.01))),
        (["--num_samples=2"], "sample", Autoregressive(Sampling(), num_samples=2)),
        (["--method=beam", "--num_beams=3", "--length_penalty=0.5"], "beam", BeamSearch(3, 0.5)),
        (["--method=beam", "--temperature=0"], "beam", BeamSearch()),
        (["--method=diverse_beam", "--num_beams=6", "--num_groups=3", "--diversity_strength=0.25", "--diversity=ngram"],
         "diverse_beam", DiverseBeamSearch(6, 3, 0.25, "ngram")),
    ],
)  # fmt: skip
def test_flags_choose_the_method(flags, name, method):
    values = define_flags()
    assert parse(values, ["generate", "--prompt=abc", *flags])
    options = run_options(values)
    assert options["method"] == name
    assert method_of(options) == method


def test_other_flags_become_options():
    values = define_flags()
    parse(values, ["generate", "--prompt=abc", "--max_new_tokens=7", "--raw", "--stop=a", "--stop=b"])
    options = run_options(values)
    assert (options["max_new_tokens"], options["raw"], options["stop"]) == (7, True, ["a", "b"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, "auto"), ("auto", "auto"), ("true", True), ("True", True), ("false", False)],
)
def test_whether_prefixes_are_shared(given, expected, tmp_path):
    values = define_flags()
    parse(values, ["generate", "--prompt=abc", *([] if given is None else [f"--share_prefixes={given}"])])
    assert run_options(values)["share_prefixes"] == expected
    assert method_of(run_options(values)) == Autoregressive()
    if isinstance(expected, bool):
        config = tmp_path / "config.py"
        config.write_text(f"def get_config():\n    return {{'share_prefixes': {expected}}}\n")
        values = define_flags()
        parse(values, ["generate", f"--config={config}"])
        assert values.share_prefixes is expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["prompt_lookup", "--tree_size=4"], build_method("prompt_lookup", tree_size=4)),
        (["prompt_lookup", "--tree_size=auto"], build_method("prompt_lookup", tree_size=AUTO_NODES[-1])),
        (["prompt_lookup", "--option=max_ngram=2"], build_method("prompt_lookup", tree_size=AUTO_NODES[-1], max_ngram=2)),
        (["prompt_lookup", "--verification=typical", "--temperature=0.5", "--tree_size=2"],
         build_method("prompt_lookup", verification="typical", tree_size=2, sampling=Sampling(0.5))),
        (["aded", "--search=puct"], build_method("aded", search="puct", tree_size=AUTO_NODES[-1])),
        (["lookahead"], build_method("lookahead")),
    ],
)  # fmt: skip
def test_options_are_fields_of_the_method(flags, expected):
    values = define_flags()
    parse(values, ["generate", "--prompt=abc", f"--method={flags[0]}", *flags[1:]])
    assert method_of(run_options(values)) == expected


@pytest.mark.parametrize(("flags", "expected"), [([], "contiguous"), (["--kv_layout=paged"], "paged")])
def test_the_layout_of_keys_and_values(flags, expected):
    values = define_flags()
    parse(values, ["generate", "--prompt=abc", *flags])
    assert run_options(values)["kv_layout"] == expected
    assert method_of(run_options(values)) == Autoregressive()


def test_flags_of_speculative_methods_become_options(tmp_path):
    (tmp_path / "data").write_text("")
    config = tmp_path / "config.py"
    config.write_text("def get_config():\n    return {'tree_size': 5, 'draft_layers': [0, 3]}\n")
    file = tmp_path / "data"

    def options(method, *flags):
        values = define_flags()
        parse(values, ["generate", "--prompt=abc", f"--method={method}", *map(str, flags)])
        every = run_options(values)
        return {name: every[name] for name in set(every) & set(SPECULATIVE_OPTIONS)}

    # What pays on this machine is the default where a method can choose.
    assert options("suffix_retrieval", f"--datastore={file}") == {"tree_size": "auto", "datastore": str(file)}
    assert options("aded", f"--trigram_table={file}", "--tree_size=3") == {"tree_size": 3, "trigram_table": str(file)}
    assert options("draft_model", "--draft_layers=0,2") == {"draft_layers": (0, 2)}
    assert options("draft_model", "--draft_model=m.gguf") == {"draft": "m.gguf"}
    assert options("greedy") == options("lookahead") == options("draft_model") == {}
    values = define_flags()
    parse(values, ["generate", f"--config={config}"])
    assert (values.tree_size, values.draft_layers) == (5, [0, 3])


def test_options_are_literals_or_texts():
    values = define_flags()
    flags = ["--option=branching=(2, 1)", "--option=prefer=a=b"]
    parse(values, ["generate", "--prompt=abc", "--method=draft_model", flags[0]])
    assert run_options(values)["branching"] == (2, 1)
    values = define_flags()
    parse(values, ["generate", "--prompt=abc", "--method=prompt_lookup", flags[1]])
    with pytest.raises(ValueError, match="prefer must be 'earliest' or 'latest', got 'a=b'"):
        run_options(values)


def test_companions_are_read_once(ask_generate, tiny_gguf, tmp_path, monkeypatch):
    """A draft model equal to the target: every guess is right."""
    loaded, load = [], jaxdec.load
    monkeypatch.setattr(jaxdec, "load", lambda *a, **k: loaded.append(a) or load(*a, **k), raising=False)
    prompts = write_lines(tmp_path / "prompts.jsonl", {"prompt": "abc"}, {"prompt": "de"}, {"prompt": "fg"})
    flags = (f"--prompt_file={prompts}", "--batch_size=1", "--max_new_tokens=9")
    answer = ask_generate(*flags, "--method=draft_model", f"--draft_model={tiny_gguf}", "--option=branching=(1, 1)")
    assert loaded == [(str(tiny_gguf),)] * 2  # the model and its draft, for three batches
    assert answer["tokens_per_call"] > 2
    plain = ask_generate(*flags)
    assert [line["text"] for line in answer["generations"]] == [line["text"] for line in plain["generations"]]


def test_flags_reach_the_library(ask_generate, tiny_gguf):
    lm = jaxdec.load(str(tiny_gguf))

    def texts(flags, **options):
        told = ask_generate("--prompt=abc", *flags)
        own = jaxdec.generate(lm, "abc", max_new_tokens=6, **options)
        assert told["token_ids"] == own.token_ids
        assert [other["text"] for other in told.get("alternatives", [])] == [other.text for other in own.alternatives]
        return tuple(told["token_ids"])

    greedy = texts([])
    assert texts(["--raw"], raw=True) != greedy
    sample = {"method": "sample", "sampling": jaxdec.Sampling(temperature=3.0)}
    seeds = {texts(["--temperature=3", f"--seed={seed}"], seed=seed, **sample) for seed in (0, 1)}
    assert len(seeds) == 2
    assert texts(["--temperature=3", "--num_samples=2"], num_samples=2, **sample) not in seeds  # keys of their own
    sampling = jaxdec.Sampling(temperature=1.0, top_k=1)
    assert texts(["--top_k=1"], method="sample", sampling=sampling) == greedy
    stop = lm.tokenizer.decode([greedy[3]])
    told = ask_generate("--prompt=abc", f"--stop={stop}", "--stop=never")
    assert told["finish_reason"] == "stop"
    assert stop not in told["text"]


def test_prompts_of_a_file_share_their_beginning(ask_generate, tmp_path, monkeypatch):
    caches = []
    results = jaxdec.Run.results
    monkeypatch.setattr(
        jaxdec.Run, "results", lambda run: caches.append(type(run.state.cache).__name__) or results(run)
    )
    stem = "the sea is wide and deep and so on and on, "
    lines = [{"prompt": stem + end} for end in ("then", "but", "so")]
    flags = (f"--prompt_file={write_lines(tmp_path / 'prompts.jsonl', *lines)}", "--raw")
    answers = [ask_generate(*flags, *more)["generations"] for more in ([], ["--share_prefixes=true"])]
    assert caches == ["ContiguousCache", "SharedPrefixCache"]
    assert [line["token_ids"] for line in answers[1]] == [line["token_ids"] for line in answers[0]]


def test_prompts_of_a_file_keep_what_they_need(ask_generate, tmp_path, monkeypatch):
    caches = []
    results = jaxdec.Run.results
    monkeypatch.setattr(
        jaxdec.Run, "results", lambda run: caches.append(type(run.state.cache).__name__) or results(run)
    )
    lines = [{"prompt": "a"}, {"prompt": "many words " * 13}]
    flags = (f"--prompt_file={write_lines(tmp_path / 'prompts.jsonl', *lines)}", "--raw")
    answers = [ask_generate(*flags, *more)["generations"] for more in ([], ["--kv_layout=paged"])]
    assert caches == ["ContiguousCache", "PagedCache"]
    assert [line["token_ids"] for line in answers[1]] == [line["token_ids"] for line in answers[0]]


def test_the_plain_text_is_that_of_the_json(ask_generate, run_generate, tiny_gguf):
    flags = ("--prompt=abc", f"--model={tiny_gguf}", "--max_new_tokens=6")
    status, out, err = run_generate(*flags)
    assert (status, out) == (0, ask_generate("--prompt=abc")["text"] + "\n")
    assert err.splitlines()[0] == f"Loading {tiny_gguf} ..."
    assert "6 tokens, " in err.splitlines()[-1]
    assert "greedy (token_identical, relative to greedy decoding), ended by length" in err
    answer = ask_generate("--prompt=abc", "--method=beam", "--num_beams=2")
    _, out, err = run_generate(*flags, "--method=beam", "--num_beams=2")
    assert out == f"[1] {answer['text']}\n[2] {answer['alternatives'][0]['text']}\n"
    assert "Decoding: " in err  # where the text is not the progress


def test_files_of_prompts_are_lines_or_one_object(run_generate, ask_generate, tiny_gguf, tmp_path):
    entries = [
        {"prompt": "abc"},
        {"messages": [{"role": "user", "content": "de"}], "id": "x"},
        {"prompt": "longer one"},
    ]
    prompts = write_lines(tmp_path / "prompts.jsonl", *entries)
    flags = (f"--prompt_file={prompts}", f"--model={tiny_gguf}", "--max_new_tokens=6", "--batch_size=2")
    status, out, err = run_generate(*flags)
    lines = [json.loads(line) for line in out.splitlines()]
    assert (status, [line["id"] for line in lines]) == (0, [0, "x", 2])
    assert "3 answers, 18 tokens" in err
    assert "prompts answered, decoding: " in err
    whole = ask_generate(f"--prompt_file={prompts}", "--batch_size=2")
    assert [line["text"] for line in whole["generations"]] == [line["text"] for line in lines]
    assert (whole["new_tokens"], whole["target_calls"], whole["tokens_per_call"]) == (18, 18, 1.0)
    assert (whole["method"], whole["guarantee"], whole["model"]) == ("greedy", "token_identical", str(tiny_gguf))
    assert whole["tokens_per_second"] * whole["decode_seconds"] == pytest.approx(
        15
    )  # two batches, less the first tokens
    alone = ask_generate(f"--prompt_file={prompts}", "--batch_size=1")
    assert [line["text"] for line in alone["generations"]] == [line["text"] for line in lines]


def test_totals_count_all_texts_and_batches_once():
    values = define_flags()
    parse(values, ["generate", "--prompt=abc", "--num_samples=2"])
    options = run_options(values)
    text = {"new_tokens": 6, "target_calls": 3}
    lines = [{**text, "alternatives": [text]}] * 4  # two batches of two prompts
    times = {"prefill_seconds": 1.0, "decode_seconds": 2.0, "compile_seconds": 4.0}
    firsts = [SimpleNamespace(**times, tokens_per_second=10.0), SimpleNamespace(**times, tokens_per_second=20.0)]
    totals = summary(values, options, lines, firsts)
    assert (totals["new_tokens"], totals["target_calls"], totals["tokens_per_call"]) == (48, 24, 2.0)
    assert {name: totals[name] for name in times} == {name: 2 * value for name, value in times.items()}
    assert totals["tokens_per_second"] == 15.0


def test_answers_resume_as_if_never_interrupted(run_generate, tiny_gguf, tmp_path):
    """Also when sampling, and in the middle of a batch: batches and draws are those of the whole file."""
    entries = [
        {"prompt": "abc"},
        {"prompt": "abc", "id": "x"},
        {"prompt": "abc", "id": "y"},
        {"prompt": "abc", "id": "z"},
    ]
    prompts, out = write_lines(tmp_path / "prompts.jsonl", *entries), tmp_path / "answers.jsonl"
    flags = (f"--prompt_file={prompts}", f"--model={tiny_gguf}", "--max_new_tokens=6", f"--out={out}")
    sampled = ("--temperature=3", "--batch_size=2")
    assert run_generate(*flags, *sampled)[:2] == (0, "")
    first = read_lines(out)
    assert [line["id"] for line in first] == [0, "x", "y", "z"]
    assert len({line["text"] for line in first}) == 4  # one prompt, four draws
    out.write_text(json.dumps(first[0]) + "\n" + json.dumps(first[2]) + '\n{"id": "x", "te')
    status, _, err = run_generate(*flags, *sampled)
    assert status == 0
    assert "2 answers" in err
    second = {line["id"]: line["text"] for line in read_lines(out)}
    assert second == {line["id"]: line["text"] for line in first}
    assert [line["id"] for line in read_lines(out)] == [0, "y", "x", "z"]
    status, text, err = run_generate(*flags, *sampled)
    assert (status, text) == (0, "")
    assert "All prompts of" in err
    assert "Loading" not in err
    status, text, _ = run_generate(*flags, *sampled, "--json")
    empty = json.loads(text)
    assert (empty["generations"], empty["new_tokens"], empty["method"], empty["guarantee"]) == (
        [],
        0,
        "sample",
        "distribution",
    )


def test_a_batch_is_let_go_when_it_is_answered(run_generate, tiny_gguf, tmp_path, monkeypatch):
    """A run holds its cache; a long file must not gather them."""
    import gc
    import weakref

    alive, most = [], []
    states = jaxdec.Run.states

    def counted(self, steps):
        alive.append(weakref.ref(self))
        gc.collect()
        most.append(sum(ref() is not None for ref in alive))
        yield from states(self, steps)

    monkeypatch.setattr(jaxdec.Run, "states", counted)
    prompts = write_lines(tmp_path / "prompts.jsonl", *({"prompt": "abc"} for _ in range(5)))
    run_generate(f"--prompt_file={prompts}", f"--model={tiny_gguf}", "--max_new_tokens=6", "--batch_size=1")
    assert len(most) == 5
    assert max(most) <= 2


def test_config_sets_flags_and_the_command_line_wins(run_generate, tiny_gguf, tmp_path):
    config = tmp_path / "config.py"
    fields = {"prompt": "abc", "max_new_tokens": 4, "json": True, "model": str(tiny_gguf), "stop": "never"}
    config.write_text(f"def get_config():\n    return {fields!r}\n")
    assert json.loads(run_generate(f"--config={config}")[1])["new_tokens"] == 4
    assert json.loads(run_generate(f"--config={config}", "--max_new_tokens=2")[1])["new_tokens"] == 2
    prompts = write_lines(tmp_path / "prompts.jsonl", {"prompt": "abc"}, {"prompt": "de"})
    assert json.loads(run_generate(f"--config={config}", f"--prompt_file={prompts}")[1])["new_tokens"] == 8


def test_the_example_config(ask_generate):
    answer = ask_generate("--config=configs/generate/colours.py")
    assert answer["method"] == "beam"
    assert len(answer["alternatives"]) == 2


def test_help_is_status_0(run_generate):
    for flag in ("--help", "-h", "-help"):
        status, out, err = run_generate(flag)
        assert (status, err) == (0, "")
        assert out.startswith("Generate text from the command line.")
        assert "--max_new_tokens" in out


def test_a_process_streams_and_says_the_rest_on_stderr(start_generate, tiny_gguf, ask_generate):
    process = start_generate("--prompt=abc", f"--model={tiny_gguf}", "--max_new_tokens=6")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, ask_generate("--prompt=abc")["text"] + "\n")
    first, last = err.splitlines()
    assert first == f"Loading {tiny_gguf} ..."
    assert "tokens/s" in last


def test_a_model_that_returns_nan_is_one_clear_line(run_generate, tiny_gguf, monkeypatch):
    load = jaxdec.load

    def damaged(*arguments, **options):
        lm = load(*arguments, **options)
        params = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), lm.model.params)
        return dataclasses.replace(lm, model=lm.model.replace(params=params))

    monkeypatch.setattr(jaxdec, "load", damaged, raising=False)
    status, out, err = run_generate(f"--model={tiny_gguf}", "--prompt=abc", "--max_new_tokens=3", "--json")
    assert (status, out) == (2, "")
    assert "returned NaN logits for prompt 0: its weights are damaged" in err
    assert "Traceback" not in err
