"""The file of marks: on file systems without locks, which none here lacks, and as a backup."""

import errno
import fcntl
import shutil
import sqlite3
import subprocess
import sys

import pytest

from mimic_qlora.review.database import FILE, Database
from mimic_qlora.step import faults, locks
from mimic_qlora.step.errors import UserError


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS])
def no_locks(request, monkeypatch):
    def lockf(*_):
        raise OSError(request.param, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)


def test_marks_are_kept_by_a_lock_file_instead(tmp_path, no_locks):
    database = Database(tmp_path)
    assert not locks.are_there(database.path)
    with database.open(write=True) as db:
        db.execute("INSERT INTO about VALUES ('a', 'b')")
        assert (tmp_path / "ratings.sqlite.lock").exists()
    assert not (tmp_path / "ratings.sqlite.lock").exists()
    again = Database(tmp_path)
    assert [tuple(row) for row in again.rows("SELECT * FROM about")] == [("a", "b")]


def test_a_lock_file_that_a_dead_review_left_is_named(tmp_path, no_locks, monkeypatch):
    Database(tmp_path)
    (tmp_path / "ratings.sqlite.lock").mkdir()
    monkeypatch.setattr("mimic_qlora.review.database.TIMEOUT", 0.1)
    with pytest.raises(UserError, match="remove .*ratings.sqlite.lock if no review is running"):
        Database(tmp_path)


def test_with_locks_nothing_changes(tmp_path):
    database = Database(tmp_path)
    assert locks.are_there(database.path) and "vfs" not in database._uri


def test_a_copy_of_the_file_alone_holds_the_marks_while_the_page_is_on(tmp_path):
    database = Database(tmp_path)
    with database.open(write=True) as db:
        db.execute("INSERT INTO about VALUES ('a', 'b')")
    with sqlite3.connect(shutil.copy(database.path, tmp_path / "backup")) as backup:
        assert backup.execute("SELECT * FROM about").fetchall() == [("a", "b")]


def written_then_killed(folder, *names):
    """Write names into the file of marks, and end without closing anything."""
    lines = [
        "import os, sys, pathlib",
        "from mimic_qlora.review.database import Database",
        "database = Database(pathlib.Path(sys.argv[1]))",
        "for name in sys.argv[2:]:",
        "    with database.open(write=True) as db:",
        "        db.execute('INSERT INTO about VALUES (?, ?)', (name, 'x' * 900))",
        "os._exit(1)",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines), str(folder), *names], check=False)


def test_a_backup_that_is_put_back_after_a_kill_is_what_it_was(tmp_path):
    written_then_killed(tmp_path, *map(str, range(20)))
    backup = shutil.copy(tmp_path / FILE, tmp_path / "backup")
    written_then_killed(tmp_path, *map(str, range(20, 40)))
    assert len(Database(tmp_path).rows("SELECT name FROM about")) == 40
    written_then_killed(tmp_path, "last")
    shutil.copy(backup, tmp_path / FILE)
    assert len(Database(tmp_path).rows("SELECT name FROM about")) == 20
    assert {path.name for path in tmp_path.iterdir()} == {FILE, "backup"}


def test_a_file_that_is_damaged_further_on_is_refused_in_a_sentence(tmp_path):
    written_then_killed(tmp_path, *map(str, range(200)))
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be used .*: restore it from a backup"):
        Database(tmp_path)


def test_a_full_disk_is_no_damage_of_the_ratings(tmp_path, monkeypatch):
    """SQLite calls it a disk I/O error there; who moves the file away loses the ratings."""
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    monkeypatch.setattr(faults, "has_no_room", lambda path: True)
    with pytest.raises(UserError, match="disk (of .* )?is full, or (its|a) quota"):
        Database(tmp_path)
