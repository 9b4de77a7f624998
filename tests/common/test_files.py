"""Files and folders: whole or not there, never through a link, whatever a name holds."""

import json
import os
import stat
from pathlib import Path

import pytest

from steelyard._common.files import (
    UNFINISHED,
    check_folder,
    filled_folder,
    held_folder,
    read_json,
    write_atomically,
    write_csv,
    write_json,
    write_text,
)
from steelyard.report.results import Environment

WRITERS = {
    "bytes": lambda file: write_atomically(file, lambda out: out.write(b"1")),
    "text": lambda file: write_text(file, "1"),
    "JSON": lambda file: write_json(file, 1),
    "CSV": lambda file: write_csv(file, ["1"], []),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_is_replaced_and_what_it_names_is_left_alone(tmp_path, writer):
    precious, link, page = tmp_path / "precious", tmp_path / "link", tmp_path / "page"
    precious.write_text("mine")
    for name in (link, page.with_name("page.tmp"), page):
        name.symlink_to(precious)
    WRITERS[writer](link)
    WRITERS[writer](page)
    assert precious.read_text() == "mine"
    assert not link.is_symlink()
    assert link.read_text().strip() == "1"
    assert {p.name for p in tmp_path.iterdir()} == {"precious", "link", "page", "page.tmp"}


def test_a_file_beside_is_new(tmp_path, monkeypatch):
    """Nobody's file is opened, not even one whose name was guessed."""
    monkeypatch.setattr("steelyard._common.files.secrets.token_hex", lambda size: "0" * 16)
    (tmp_path / f".{'0' * 16}.tmp").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a", "1")
    assert not (tmp_path / "precious").exists()


def test_what_utf8_cannot_hold_is_escaped(tmp_path):
    name = os.fsdecode(b"run\xff \xc3")
    write_json(tmp_path / "a.json", {"name": name, name: ["\\", "é", "🦉", '"']})
    escaped = "run\\udcff \\udcc3"
    assert read_json(tmp_path / "a.json") == {"name": escaped, escaped: ["\\", "é", "🦉", '"']}
    write_csv(tmp_path / "a.csv", [name], [[None, 0.1]])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == f"{escaped}\n,0.1\n"
    # a file that somebody else wrote with half a pair of surrogates
    found = Environment("1", "2", "3", "machine").to_dict() | {"machine": "\ud83e"}
    assert Environment.from_dict(json.loads(json.dumps(found))).machine == "\\ud83e"


def test_nan_is_refused_with_the_place(tmp_path):
    with pytest.raises(ValueError, match=r"^here: out of range float values are not JSON compliant"):
        Environment.from_dict({"machine": float("nan")}, "here")


def test_a_folder_is_held_by_one(tmp_path):
    with (
        held_folder(tmp_path / "a"),
        pytest.raises(ValueError, match=r"folder .*a is in use by another process"),
        held_folder(tmp_path / "a"),
    ):
        pass
    with held_folder(tmp_path / "a"):
        pass


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_a_folder_with_a_link_is_not_held(tmp_path, kind):
    outside, folder = tmp_path / "outside", tmp_path / "run"
    (folder / "deep").mkdir(parents=True)
    if kind == "file":
        outside.write_text("mine")
    elif kind == "folder":
        outside.mkdir()
    (folder / "deep" / "link").symlink_to(outside)
    with (
        pytest.raises(ValueError, match=r"deep/link is a link, and nothing is written through links"),
        held_folder(folder),
    ):
        pass
    (tmp_path / "alias").symlink_to(folder)  # the folder itself may have another name
    (folder / "deep" / "link").unlink()
    with held_folder(tmp_path / "alias"):
        pass


def test_a_folder_is_completed_until_it_is_whole(tmp_path):
    folder = tmp_path / "out"

    def interrupted():
        with filled_folder(folder):
            write_text(folder / "a", "1")
            (folder / f".{'0' * 16}.tmp").touch()  # as a kill leaves it
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert (folder / UNFINISHED).exists()
    with filled_folder(folder):
        pass
    assert [p.name for p in folder.iterdir()] == ["a"]
    with (
        pytest.raises(FileExistsError, match="holds something already; name another folder"),
        filled_folder(folder),
    ):
        pass


def test_a_folder_that_another_process_finishes_meanwhile_is_left_alone(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    (folder / UNFINISHED).parent.mkdir()
    (folder / UNFINISHED).touch()
    check_folder(folder)
    original = Path.mkdir

    def finished(path, *arguments, **options):  # between the first look and the lock
        (folder / UNFINISHED).unlink(missing_ok=True)
        (folder / "whole").touch()
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", finished)
    with pytest.raises(FileExistsError, match="holds something already"), filled_folder(folder):
        pytest.fail("it was filled")
    assert (folder / "whole").exists()


def test_files_have_the_rights_of_any_other(tmp_path):
    (tmp_path / "a").touch()
    write_text(tmp_path / "b", "")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
    assert modes[0] == modes[1]


def test_what_killed_processes_left_is_gone_once_a_folder_is_held(tmp_path):
    left = tmp_path / "part" / ".0123456789abcdef.tmp"
    left.parent.mkdir()
    left.write_text("half")
    with held_folder(tmp_path):
        assert not left.exists()
        left.write_text("of a worker that is killed now")
    assert not left.exists()
