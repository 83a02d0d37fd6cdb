"""The launcher, as a user runs it: in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from jaxdec.checkpoints.orbax import save_orbax
from tests.tiny_models import tiny_transformer
from tests.tiny_text import NUM_TOKENS, byte_tokenizer


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory):
    """A random model with the byte tokenizer, saved as an Orbax checkpoint."""
    model = tiny_transformer(scale=3.0, vocab_size=NUM_TOKENS)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_orbax(folder, model.module.config, model.params, byte_tokenizer())
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return {**os.environ, "JAXDEC_CACHE": str(tmp_path_factory.mktemp("cache")), "JAX_PLATFORMS": "cpu"}


def command(*flags):
    return [sys.executable, "-W", "error", "-m", "experiments.generate", *map(str, flags)]


def launch(environment, *flags):
    return subprocess.run(command(*flags), env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_json_is_the_only_thing_on_stdout(environment, tiny_checkpoint):
    done = launch(environment, "--prompt=abc", f"--model={tiny_checkpoint}", "--max_new_tokens=9", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    fields = "text token_ids new_tokens target_calls tokens_per_call prefill_seconds decode_seconds tokens_per_second"
    assert set(f"{fields} compile_seconds method guarantee model".split()) <= set(answer)
    assert (answer["method"], answer["guarantee"]) == ("greedy", "token_identical")
    assert answer["new_tokens"] == len(answer["token_ids"]) == answer["target_calls"]
    streamed = launch(environment, "--prompt=abc", f"--model={tiny_checkpoint}", "--max_new_tokens=9")
    assert streamed.stdout == answer["text"] + "\n"
    assert "tokens/s" in streamed.stderr


def test_a_temperature_means_sampling(environment, tiny_checkpoint):
    flags = ("--prompt=abc", f"--model={tiny_checkpoint}", "--max_new_tokens=9", "--json", "--temperature=0.9")
    answer = json.loads(launch(environment, *flags, "--num_samples=2", "--seed=3").stdout)
    assert (answer["method"], answer["guarantee"]) == ("sample", "distribution")
    assert len(answer["alternatives"]) == 1


def test_files_of_prompts_resume(environment, tiny_checkpoint, tmp_path):
    prompts, answers = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    lines = [{"prompt": "abc"}, {"messages": [{"role": "user", "content": "de"}], "id": "x"}, {"prompt": "longer one"}]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    flags = (f"--prompt_file={prompts}", f"--model={tiny_checkpoint}", "--max_new_tokens=5", f"--out={answers}")
    assert launch(environment, *flags, "--batch_size=2").returncode == 0
    first = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [line["id"] for line in first] == [0, "x", 2]
    answers.write_text(json.dumps(first[0]) + "\n" + '{"id": "x", "te')  # interrupted while writing
    assert launch(environment, *flags, "--batch_size=2").returncode == 0
    second = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [(line["id"], line["token_ids"]) for line in second] == [(line["id"], line["token_ids"]) for line in first]
    assert "are answered" in launch(environment, *flags).stderr


def test_config_sets_flags_and_the_command_line_wins(environment, tiny_checkpoint, tmp_path):
    config = tmp_path / "config.py"
    body = "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({})\n"
    config.write_text(body.format({"prompt": "abc", "max_new_tokens": 4, "json": True, "model": str(tiny_checkpoint)}))
    assert json.loads(launch(environment, f"--config={config}").stdout)["new_tokens"] == 4
    assert json.loads(launch(environment, f"--config={config}", "--max_new_tokens=2").stdout)["new_tokens"] == 2
    config.write_text(body.format({"prompt": "abc", "maximum": 4}))
    done = launch(environment, f"--config={config}")
    assert done.returncode == 2
    assert "unknown field 'maximum'; known: batch_size" in done.stderr


BAD = [
    (["--prompt="], "--prompt is empty"),
    ([], "neither was given"),
    (["--prompt=a", "--prompt_file=b"], "both were given"),
    (["--prompt=a", "--max_new_tokens=0"], "max_new_tokens must be at least 1, got 0"),
    (["--prompt=a", "--temperature=-1"], "temperature must be a finite number >= 0, got -1.0"),
    (["--prompt=a", "--top_p=0"], r"top_p must be in (0, 1]"),
    (["--prompt=a", "--method=greedy", "--temperature=0.7"], "--method=greedy does not sample, and --temperature=0.7"),
    (["--prompt=a", "--method=nonsense"], "method must be one of greedy, sample"),
    (["--prompt=a", "--model=nonsense"], "Known names: smollm2-135m-instruct"),
    (["--prompt=a", "--model=/nowhere/model.gguf"], "no file or folder there"),
    (["--prompt=a", "--nonsense=1"], "Unknown command line flag 'nonsense'"),
    (["--prompt=a", "--config=/nowhere.py"], "no such file"),
    (["--prompt_file=/nowhere.jsonl"], "No such file"),
    (["what", "is", "this"], "'what' is not a flag"),
]


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_bad_input_is_one_clear_line(flags, message, capsys, monkeypatch):
    """In this process, for speed: what the launcher's main does with the flags."""
    from experiments import generate

    flags_object = generate.FLAGS
    flags_object.unparse_flags()
    for name in flags_object:
        flags_object[name].using_default_value = True
        flags_object[name].value = flags_object[name].default
        flags_object[name].present = 0
    with pytest.raises(SystemExit) as exit_:
        generate.main(generate.parse_flags(["generate", *flags]))
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message in error
    assert "Traceback" not in error


def test_errors_of_a_process_are_one_line_with_status_2(environment, tiny_checkpoint):
    done = launch(environment, "--prompt=" + "a" * 600, f"--model={tiny_checkpoint}")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "the context of this model is 512 tokens" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_interrupting_keeps_the_text_so_far(environment, tiny_checkpoint, as_json):
    flags = ["--prompt=abc", f"--model={tiny_checkpoint}", "--max_new_tokens=480", "--stop=\x01\x02never"]
    process = subprocess.Popen(
        command(*flags, f"--json={str(as_json).lower()}"),
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if as_json:
            time.sleep(6)
        else:
            assert process.stdout.read(1)  # the first text has appeared
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    if process.returncode == 0:
        pytest.skip("the machine was too slow or too fast: decoding ended before the signal came")
    assert process.returncode == 130
    assert "Interrupted" in stderr
    assert "Traceback" not in stderr
    if as_json and stdout:
        assert json.loads(stdout)["finish_reason"] == "interrupted"
