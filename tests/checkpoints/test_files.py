"""Folders that are replaced whole or not at all."""

import os

import pytest

from jaxdec.checkpoints.files import replace_folder


def fill(folder, text, overwrite=True):
    with replace_folder(folder, overwrite=overwrite) as target:
        (target / "config.json").write_text(text)


def test_parents_are_made_and_nothing_else_is_left(tmp_path):
    fill(tmp_path / "a" / "b", "new", overwrite=False)
    assert (tmp_path / "a" / "b" / "config.json").read_text() == "new"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o777 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_what_was_there(exception, tmp_path):
    def interrupted():
        with replace_folder(tmp_path / "m", overwrite=True) as target:
            (target / "config.json").write_text("half")
            raise exception

    with pytest.raises(exception):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    fill(tmp_path / "m", "old")
    with pytest.raises(exception):
        interrupted()
    assert (tmp_path / "m" / "config.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    fill(tmp_path / "m", "old")
    replace = os.replace

    def fail_on_the_new_one(source, target):
        if os.path.basename(source) == "new":
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_the_new_one)
    with pytest.raises(OSError, match="no"):
        fill(tmp_path / "m", "new")
    assert (tmp_path / "m" / "config.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_only_checkpoints_and_empty_folders_are_replaced(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    fill(home, "first")  # it was empty
    fill(home, "second")
    (home / "config.json").unlink()
    (home / "thesis.tex").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("a file")
    link = tmp_path / "link"
    link.symlink_to(home)
    fill(tmp_path / "model", "a checkpoint")
    model_link = tmp_path / "model_link"
    model_link.symlink_to(tmp_path / "model")
    for path in (home, file, link, model_link):
        with pytest.raises(FileExistsError, match="is not replaced, even with overwrite=True"):
            fill(path, "new")
        with pytest.raises(FileExistsError, match="give overwrite=True"):
            fill(path, "new", overwrite=False)
    assert (home / "thesis.tex").read_text() == "years of work"
    assert file.read_text() == "a file"


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path):
    def race():
        with replace_folder(tmp_path / "m", overwrite=False) as target:
            (target / "config.json").write_text("ours")
            (tmp_path / "m").mkdir()
            (tmp_path / "m" / "config.json").write_text("theirs")

    with pytest.raises(FileExistsError):
        race()
    assert (tmp_path / "m" / "config.json").read_text() == "theirs"
