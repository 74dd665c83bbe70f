"""Files that are written whole or not at all, and are their owner's alone."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import pytest

from helpers.paths import ROOT
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError

KILLED_HALF_WAY = """
import sys
from pathlib import Path
from mimic_qlora.step.files import atomic_write

def half(file):
    file.write(b"half of it")
    file.flush()
    print("half", flush=True)
    sys.stdin.read()  # until the process is killed

atomic_write(Path(sys.argv[1]), half)
"""


@pytest.mark.parametrize("content", ["néw", "néw".encode(), lambda file: file.write(b"n\xc3\xa9w")])
def test_text_bytes_and_a_function_write_the_same_private_file(tmp_path, content):
    path = tmp_path / "file.txt"
    path.write_text("old and much longer")
    path.chmod(0o644)
    files.atomic_write(path, content)
    assert path.read_text(encoding="utf-8") == "néw"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_mode_can_be_given_and_the_umask_does_not_narrow_it(tmp_path):
    files.atomic_write(tmp_path / "a", "x", mode=0o664)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o664


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "7", "[" * 100_000, "\xff"])
def test_a_json_file_without_an_object_has_an_empty_one(tmp_path, text):
    path = tmp_path / "file.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    assert files.read_object(path) == {}
    path.write_text('{"a": {"b": 1}, "c": 2}')
    found = files.read_object(path)
    assert files.part_of(found, "a") == {"b": 1} and found["c"] == 2
    assert files.part_of(found, "c") == files.part_of(found, "d") == {}


@pytest.mark.parametrize("before", ["old", None])
def test_a_kill_half_way_leaves_the_old_file_or_none(tmp_path, before):
    path = tmp_path / "file.txt"
    if before:
        path.write_text(before)
    command = [sys.executable, "-c", KILLED_HALF_WAY, str(path)]
    writer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with writer:
        assert writer.stdout.readline() == "half\n"
        assert (tmp_path / ".file.txt.new").read_text() == "half of it"
        writer.send_signal(signal.SIGKILL)
    assert (path.read_text() if path.exists() else None) == before
    files.atomic_write(path, "new")  # what the kill left stands in nobody's way
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_an_error_half_way_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise ValueError

    with pytest.raises(ValueError):
        files.atomic_write(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_json_keeps_its_form_and_private_files_have_names_of_their_own(tmp_path):
    files.write_json(tmp_path / "a.json", {"é": [1, tmp_path]})
    assert (tmp_path / "a.json").read_text() == f'{{\n "é": [\n  1,\n  "{tmp_path}"\n ]\n}}\n'
    made = {files.private_file(tmp_path / "own", "a-", ".jsonl") for _ in range(3)}
    assert len(made) == 3 and {stat.S_IMODE(p.stat().st_mode) for p in made} == {0o600}


def test_only_the_users_own_link_may_stand_in_the_place_of_a_private_folder(tmp_path, monkeypatch):
    there, link = tmp_path / "elsewhere", tmp_path / "link"
    link.symlink_to(there)
    with pytest.raises(UserError, match="no folder"):  # it leads nowhere
        files.private_folder(link)
    there.mkdir(mode=0o750)
    assert files.private_file(files.private_folder(link), "a-", ".txt").parent == link
    assert link.is_symlink() and stat.S_IMODE(there.stat().st_mode) == 0o750
    assert stat.S_IMODE(files.private_folder(there).stat().st_mode) == 0o750
    there.chmod(0o777)
    assert stat.S_IMODE(files.private_folder(there).stat().st_mode) == 0o700
    monkeypatch.setattr(os, "getuid", lambda: there.stat().st_uid + 1)
    for path in (link, there):
        with pytest.raises(UserError, match="another user's link or folder"):
            files.private_folder(path)


@pytest.mark.parametrize(
    "name, fits",
    [
        ("a", True),
        ("seed-0.b_c", True),
        ("", False),
        (".a", False),
        ("a/b", False),
        ("a\n", False),
        ("-a", False),
    ],
)
def test_names_that_can_be_folders(name, fits):
    assert files.is_folder_name(name) == fits


def test_a_path_that_is_not_utf_8_comes_back_from_json(tmp_path):
    files.write_json(tmp_path / "a.json", {"folder": "/data/caf\udce9", "é": 1})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"folder": "/data/caf\udce9", "é": 1} and '"é"' in text


def test_a_full_disk_names_the_file_and_leaves_no_half_of_it(tmp_path):
    def full(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")  # as write() raises it

    with pytest.raises(OSError) as error:
        files.atomic_write(tmp_path / "a", full)
    assert error.value.filename == str(tmp_path / "a") and not list(tmp_path.iterdir())


def test_a_loop_of_links_and_a_folder_that_is_gone_end_in_no_traceback(tmp_path, monkeypatch):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert files.resolved_path(str(tmp_path / "a")).parent == tmp_path
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match="stands in was removed"):
        files.resolved_path("storage")


class Known(TypedDict):
    n: int


class Half(Known, total=False):
    a: str | None


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (int, [1, -1], [True, 1.0, "1", None]),
        (float, [1, 1.5], [True, "1"]),
        (str | None, ["", None], [1]),
        (Literal["a", "b"], ["a"], ["c", ["a"]]),
        (dict[str, int], [{}, {"a": 1}], [[], {"a": "1"}]),
        (Mapping[str, list[str]], [{"a": ["b"]}], [{"a": "b"}, {"a": [1]}]),
        (dict[str, Any], [{"a": None}], [None]),
        (Half, [{"n": 1}, {"n": 1, "a": None, "b": 2}], [{}, {"n": "1"}, {"n": 1, "a": 2}, []]),
    ],
)
def test_what_json_holds_is_compared_with_a_type(kind, good, bad):
    assert all(files.has_shape(data, kind) for data in good)
    assert not any(files.has_shape(data, kind) for data in bad)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\0" * 20, b"\xff", b"", b"{"])
def test_what_is_no_json_is_one_kind_of_error(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError):
        files.read_json(tmp_path / "a.json")


def test_a_home_that_nobody_has_is_a_name(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    given = {"~": "/home/ada", "~/x": "/home/ada/x", "~nobody-of-this-name/x": None, "a~": None}
    for text, path in given.items():
        assert str(files.given_path(text)) == (path or text)


def test_what_people_write_is_read_as_editors_save_it(tmp_path):
    path = tmp_path / "prompt.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes("Très\r\nbien".encode(encoding))
        assert files.read_text(path) == "Très\nbien"
    path.write_bytes("Très bien".encode("cp1252"))
    with pytest.raises(UserError, match=r"prompt.txt is not UTF-8 text: save it as UTF-8"):
        files.read_text(path)


def test_a_file_of_ours_that_an_editor_saved_otherwise_keeps_its_bytes(tmp_path):
    path = tmp_path / "README.md"
    assert files.read_kept(path) == ""
    path.write_bytes("# An adapter, très bien\n".encode("cp1252"))
    files.atomic_write(path, files.read_kept(path) + "It is audited: 5 µm.\n")
    assert path.read_bytes() == b"# An adapter, tr\xe8s bien\nIt is audited: 5 \xc2\xb5m.\n"


def test_a_file_that_is_not_there_is_written_privately(tmp_path):
    files.rewrite(tmp_path / "README.md", "a card")
    assert (tmp_path / "README.md").read_text() == "a card"
    assert stat.S_IMODE((tmp_path / "README.md").stat().st_mode) == 0o600


@pytest.mark.parametrize("read", [files.read_text, files.read_kept])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_file_of_somebody_elses_is_rewritten_where_and_as_it_was(tmp_path, mark, end, read):
    """A group keeps its questions in a repository of its own, and links them into run_files/."""
    (tmp_path / "group").mkdir()
    kept, link = tmp_path / "group" / "questions.yaml", tmp_path / "questions.yaml"
    kept.write_bytes(mark + end.join([b"a: 1", b"b: 2", b""]))
    kept.chmod(0o640)
    link.symlink_to(kept)
    files.rewrite(link, read(link).replace("2", "3"))
    assert link.is_symlink() and kept.read_bytes() == mark + end.join([b"a: 1", b"b: 3", b""])
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640


def test_a_script_of_run_files_takes_the_storage_folder_here_else_the_checkouts(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("STORAGE_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    checkout = tmp_path / "checkout"
    assert files.storage_path(None) == tmp_path / "storage"
    assert files.storage_path(None, checkout) == checkout / "storage"
    (tmp_path / "storage").mkdir()
    assert files.storage_path(None, checkout) == tmp_path / "storage"
    monkeypatch.setenv("STORAGE_DIR", "other")
    assert files.storage_path(None, checkout) == tmp_path / "other"
    assert files.storage_path("given", checkout) == tmp_path / "given"
