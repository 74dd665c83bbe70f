"""Sealed folders."""

import errno
import json
import os

import pytest

from helpers.unreadable import unreadable
from mimic_qlora.step import durable, files


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "checkpoint-2"
    (folder / "inner").mkdir(parents=True)
    for name in ("weights", "state.json", "inner/part"):
        (folder / name).write_bytes(b"0123456789" * 100)
    (tmp_path / "validation-2.json").write_text("{}")
    durable.seal(folder, [tmp_path / "validation-2.json"])
    return folder


def test_a_sealed_folder_is_whole_and_stays_so_elsewhere(sealed, tmp_path):
    assert durable.fault(sealed) is None
    durable.seal(sealed, [tmp_path / "validation-2.json"])
    assert durable.fault(sealed) is None
    moved = tmp_path.rename(tmp_path.with_name("moved")) / "checkpoint-2"
    assert durable.fault(moved) is None


@pytest.mark.parametrize("name", ["weights", "state.json", "inner/part", "../validation-2.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone", "longer"])
def test_any_damage_to_any_file_is_found(sealed, name, how):
    path = sealed / name
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"flip": flipped, "cut": content[:middle], "longer": content + b"0"}[how])
    assert durable.fault(sealed).endswith(path.name)


@pytest.mark.parametrize("seal", [None, "", "{", "[]", "{}", "\x00" * 50])
def test_without_a_seal_or_with_a_damaged_one_it_was_never_whole(sealed, seal):
    (sealed / durable.SEAL).unlink()
    if seal is not None:
        (sealed / durable.SEAL).write_text(seal)
    assert durable.fault(sealed) == durable.SEAL


def test_the_seal_comes_last_when_all_else_is_on_the_disk(tmp_path, monkeypatch):
    """A power cut at any moment leaves a folder without a seal, or one whose files are whole."""
    folder, calls = tmp_path / "checkpoint-1", []
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name)
    fsync = os.fsync

    def spied(handle):
        calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    if os.path.isdir("/proc/self/fd"):
        monkeypatch.setattr(os, "fsync", spied)
    durable.seal(folder)
    if calls:
        assert sorted(calls[:2]) == ["a", "b"]
        assert calls[2:] == [folder.name, f".{durable.SEAL}.new", folder.name, tmp_path.name]
    assert json.loads((folder / durable.SEAL).read_text()).keys() == {"a", "b"}


def test_a_file_that_cannot_be_read_now_is_not_called_damaged(sealed, monkeypatch):
    """The checkpoint would be removed; a stale handle of NFS is gone a minute later."""
    monkeypatch.setattr(files, "file_sha256", unreadable(errno.ESTALE))
    with pytest.raises(OSError, match="Stale"):
        durable.fault(sealed)
