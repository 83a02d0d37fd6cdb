"""The launcher: bad input is one line on stderr, status 2, and comes before the work."""

import os

import pytest

import jaxdec
from experiments import answers
from tests.experiments.prompt_files import write_lines

# What can be refused before a model is loaded.
BAD = [
    (["--prompt="], "--prompt is empty"),
    ([], "neither was given"),
    (["--prompt=a", "--prompt_file=b"], "both were given"),
    (["--prompt=a", "--max_new_tokens=0"], "--max_new_tokens must be at least 1, got 0"),
    (["--prompt=a", "--max_new_tokens=many"], "flag --max_new_tokens=many: invalid literal"),
    (["--prompt=a", "--num_samples=0"], "--num_samples must be at least 1, got 0"),
    (["--prompt=a", "--batch_size=0"], "--batch_size must be at least 1, got 0"),
    (["--prompt=a", "--row_tile=0"], "--row_tile must be at least 1, got 0"),
    (["--prompt=a", "--seed=-1"], "--seed must be from 0 to 2^32 - 1, got -1"),
    (["--prompt=a", f"--seed={2**32}"], "--seed must be from 0 to 2^32 - 1, got 4294967296"),
    (["--prompt=a", "--stop="], "--stop is empty"),
    (["--prompt=\udcff"], "--prompt is not UTF-8"),
    (["--prompt=a", "--temperature=-1"], "temperature must be a finite number >= 0, got -1.0"),
    (["--prompt=a", "--temperature=nan"], "temperature must be a finite number >= 0, got nan"),
    (["--prompt=a", "--top_p=0"], "top_p must be in (0, 1]"),
    (["--prompt=a", "--top_k=0"], "top_k must be at least 1"),
    (["--prompt=a", "--min_p=1"], "min_p must be in [0, 1)"),
    (
        ["--prompt=a", "--method=greedy", "--temperature=0.7", "--min_p=0"],
        "--method=greedy does not sample, and --temperature=0.7, --min_p=0.0 was given: drop one, or use --method=sample",
    ),
    (["--prompt=a", "--method=beam", "--temperature=0.7"], "--method=beam does not sample, and --temperature=0.7 was given"),
    (["--prompt=a", "--method=sample", "--temperature=0"], "--method=sample needs a temperature above 0"),
    (["--prompt=a", "--top_k=3", "--temperature=0"], "--temperature=0 is greedy decoding, and --top_k=3 was given"),
    (["--prompt=a", "--method=greedy", "--num_samples=2"], "all texts would be equal"),
    (["--prompt=a", "--method=beam", "--num_samples=2"], "method 'beam' has no option 'num_samples'"),
    (["--prompt=a", "--num_beams=2"], "method 'greedy' has no option 'num_beams'"),
    (["--prompt=a", "--method=beam", "--num_beams=0"], "num_beams must be at least 1, got 0"),
    (["--prompt=a", "--tree_size=4"], "method 'greedy' has no option 'tree_size'"),
    (["--prompt=a", "--method=lookahead", "--tree_size=auto"], "method 'lookahead' has no option 'tree_size'"),
    (["--prompt=a", "--method=prompt_lookup", "--tree_size=0"], "it must be a number of nodes, at least 1, or auto"),
    (["--prompt=a", "--method=aded", "--tree_size=many"], "flag --tree_size=many: it must be a number of nodes"),
    (["--prompt=a", "--method=aded", "--option=tree_size=4"], "there is a flag for that, --tree_size"),
    (["--prompt=a", "--method=draft_model", "--option=draft=x"], "there is a flag for that, --draft_model"),
    (["--prompt=a", "--method=aded", "--search=wide"], "search must be one of best_first, puct, got 'wide'"),
    (["--prompt=a", "--method=prompt_lookup", "--search=puct"], "method 'prompt_lookup' has no option 'search'"),
    (["--prompt=a", "--method=aded", "--verification=kind"], "verification must be one of exact, typical, got 'kind'"),
    (["--prompt=a", "--method=suffix_retrieval"], "--method=suffix_retrieval needs --datastore"),
    (["--prompt=a", "--method=suffix_retrieval", "--datastore=/nowhere"], "--datastore=/nowhere: there is no such file"),
    (["--prompt=a", "--method=aded", "--trigram_table=/nowhere"], "--trigram_table=/nowhere: there is no such file"),
    (["--prompt=a", "--method=draft_model", "--draft_layers=0,x"], "--draft_layers must be numbers like 0,3,6, got '0,x'"),
    (["--prompt=a", "--method=draft_model", "--draft_layers="], "--draft_layers must be numbers like 0,3,6, got ''"),
    (["--prompt=a", "--method=draft_model", "--draft_layers=0", "--draft_model=x"], "give one of --draft_model and"),
    (["--prompt=a", "--draft_layers=0"], "method 'greedy' has no option 'draft_layers'"),
    (["--prompt=a", "--method=beam", "--option=num_return=many"], "method 'beam' does not take these options"),
    (["--prompt=a", "--share_prefixes=yes"], "flag --share_prefixes=yes: it must be auto, true or false"),
    (["--prompt=a", "--option=share_prefixes=True"], "there is a flag for that, --share_prefixes"),
    (["--prompt=a", "--kv_layout=pages"], "--kv_layout must be one of contiguous, paged, got 'pages'"),
    (["--prompt=a", "--option=kv_layout=paged"], "there is a flag for that, --kv_layout"),
    (["--prompt=a", "--option=tree_size"], "--option=tree_size: write it as --option=NAME=VALUE"),
    (["--prompt=a", "--option=num_beams=4"], "--option=num_beams=4: there is a flag for that, --num_beams"),
    (["--prompt=a", "--option=sampling=4"], "there is a flag for that, --temperature"),
    (["--prompt=a", "--method=nonsense"], "--method must be one of greedy, sample, beam, diverse_beam"),
    (["--prompt=a", "--nonsense=1"], "Unknown command line flag 'nonsense'"),
    (["--prompt=a", "--promt=b"], "Did you mean: prompt"),
    (["--prompt=a", "--config=/nowhere.py"], "--config=/nowhere.py: no such file"),
    (["--prompt=a", "--out=b"], "--out goes with --prompt_file"),
    (["--prompt_file=/nowhere.jsonl"], "--prompt_file=/nowhere.jsonl: No such file"),
    (["--prompt_file=/"], "--prompt_file=/: Is a directory"),
    (["what", "is", "this"], "'what' is not a flag"),
]  # fmt: skip


def refused(run_generate, flags, message):
    status, out, err = run_generate(*flags)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.fixture
def no_model(monkeypatch):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(answers, "load", load)


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_bad_flags_are_one_clear_line_before_a_model_is_loaded(run_generate, no_model, flags, message):
    refused(run_generate, flags, message)


def test_bad_files_are_one_clear_line_before_a_model_is_loaded(run_generate, no_model, tmp_path):
    prompts = write_lines(tmp_path / "prompts.jsonl", {"prompt": "a"})
    folder = f"--out={tmp_path / 'nowhere' / 'answers.jsonl'}"
    refused(run_generate, [f"--prompt_file={prompts}", folder], f"{folder}: there is no folder {tmp_path / 'nowhere'}")
    refused(run_generate, [f"--prompt_file={prompts}", f"--out={tmp_path}"], f"--out={tmp_path}: Is a directory")
    (tmp_path / "diary.txt").write_text("not ours\n")
    refused(
        run_generate,
        [f"--prompt_file={prompts}", f"--out={tmp_path / 'diary.txt'}"],
        "line 1 is no answer with an 'id'",
    )
    prompts.write_bytes(b'{"prompt": "\xff"}\n')
    refused(run_generate, [f"--prompt_file={prompts}"], f"--prompt_file={prompts}: it is not UTF-8")
    prompts.write_text('{"prompt": "a"}\n{"promt": "b"}\n')
    refused(run_generate, [f"--prompt_file={prompts}"], f"--prompt_file={prompts}: line 2 must be an object")
    config = tmp_path / "config.py"
    config.write_text("def get_config():\n    return {'maximum': 4}\n")
    refused(
        run_generate,
        ["--prompt=a", f"--config={config}"],
        "unknown field 'maximum'; known: attention, batch_size, datastore, diversity, ",
    )
    config.write_text("def get_config()\n    return {}\n")
    refused(run_generate, ["--prompt=a", f"--config={config}"], f"--config={config}: SyntaxError: expected ':'")
    config.write_text("def get_config():\n    return {'config': 'other.py'}\n")
    refused(run_generate, ["--prompt=a", f"--config={config}"], "unknown field 'config'")


def test_an_output_that_cannot_be_written_to(run_generate, no_model, tmp_path, monkeypatch):
    prompts = write_lines(tmp_path / "prompts.jsonl", {"prompt": "a"})
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # the tests may run as root, who may anything
    refused(
        run_generate,
        [f"--prompt_file={prompts}", f"--out={tmp_path / 'out'}"],
        f"--out={tmp_path / 'out'}: it cannot be written to",
    )


def model_refused(run_generate, model, message):
    status, out, err = run_generate("--prompt=a", f"--model={model}")
    first, last = err.splitlines()
    assert (status, out, first) == (2, "", f"Loading {model} ...")
    assert last.startswith("error: ")
    assert message in last


def test_models_that_cannot_be_read(run_generate, tmp_path, monkeypatch):
    model_refused(run_generate, "nonsense", "Known names: smollm2-135m-instruct")
    model_refused(run_generate, "/nowhere/model.gguf", "no file or folder there")
    model_refused(run_generate, tmp_path, "has neither config.json (Hugging Face) nor jaxdec_config.json (Orbax)")
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    model_refused(run_generate, tmp_path / "model.gguf", "is not a GGUF file")
    (tmp_path / "config.json").write_text("{")
    model_refused(run_generate, tmp_path, "config.json")

    status, _, err = run_generate("--prompt=a", f"--model={tmp_path / 'model.gguf'}", "--dtype=float7")
    assert status == 2
    assert "error: dtype must be one of float32, bfloat16" in err

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied", "/secret/config.json")

    monkeypatch.setattr(jaxdec, "load", forbidden, raising=False)
    model_refused(run_generate, tmp_path, "Permission denied: '/secret/config.json'")


def test_prompts_that_the_model_cannot_take_are_named_before_decoding(run_generate, tiny_gguf, tmp_path, monkeypatch):
    def start(*_):
        raise AssertionError("something was decoded")

    monkeypatch.setattr(jaxdec.Run, "states", start)
    entries = [{"prompt": "abc"}, {"prompt": "a" * 50, "id": "x"}]
    prompts = write_lines(tmp_path / "prompts.jsonl", *entries)
    long = f"--max_new_tokens={(1 << 17) - 45}"
    status, out, err = run_generate(f"--prompt_file={prompts}", f"--model={tiny_gguf}", long, "--batch_size=2")
    assert (status, out) == (2, "")
    assert f"error: --prompt_file={prompts}: id 'x': prompt 0 has " in err
    assert "the context of this model is 131072 tokens" in err
    messages = write_lines(tmp_path / "messages.jsonl", {"messages": [{"role": "user"}], "id": 7})
    _, _, err = run_generate(f"--prompt_file={messages}", f"--model={tiny_gguf}")
    assert "id 7: messages[0] must have the keys 'role' and 'content'" in err
    status, _, err = run_generate("--prompt=abc", f"--model={tiny_gguf}", "--max_new_tokens=200000")
    assert status == 2
    assert err.splitlines()[-1].startswith("error: prompt 0 has ")
