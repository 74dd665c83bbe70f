"""The SQLite file of a review: its tables and its connections."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from mimic_qlora.step import faults, locks
from mimic_qlora.step.errors import UserError

FILE = "ratings.sqlite"
TIMEOUT = 30.0  # seconds to wait for another writer
_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rater (
    name TEXT PRIMARY KEY, number INTEGER UNIQUE, token TEXT UNIQUE, session TEXT UNIQUE,
    signs_as TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS task (
    rater TEXT, position INTEGER, item INTEGER NOT NULL, swapped INTEGER NOT NULL,
    again INTEGER NOT NULL, PRIMARY KEY (rater, position)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mark (
    rater TEXT, position INTEGER, field TEXT, value TEXT NOT NULL, at_once INTEGER NOT NULL,
    PRIMARY KEY (rater, position, field)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS change (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, rater TEXT NOT NULL, position INTEGER NOT NULL,
    field TEXT NOT NULL, old TEXT NOT NULL, old_at_once INTEGER NOT NULL, new TEXT NOT NULL,
    at_once INTEGER NOT NULL, at TEXT NOT NULL, undone INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS change_of ON change (rater, undone, id);
CREATE TABLE IF NOT EXISTS decision (
    id INTEGER PRIMARY KEY, rater TEXT NOT NULL, entry TEXT NOT NULL, verdict TEXT NOT NULL,
    texts TEXT NOT NULL, was TEXT NOT NULL, fingerprint TEXT NOT NULL, signs_as TEXT NOT NULL,
    comment TEXT NOT NULL, at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS decision_on ON decision (entry, id);
"""


class Database:
    """One private SQLite file. Each call opens its own connection, so threads and processes may
    share it; each write is on the disk when the call returns.
    """

    def __init__(self, folder: Path):
        """Open `folder`/ratings.sqlite, made if it is missing. Raises UserError if damaged."""
        self.path = folder / FILE
        made = not os.path.lexists(self.path)
        if made:
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        if not self.path.is_file():  # also a link to a disk that is not there
            raise UserError(
                f"{self.path} is no file: bring back the one that it stood for, or move it away"
            )
        if not (os.access(self.path, os.R_OK | os.W_OK) and os.access(folder, os.W_OK)):
            raise UserError(
                f"{self.path} is read-only for you: make it and its folder writable, or give "
                "--results a copy of the folder"
            )
        self.path.chmod(0o600)
        # where the file system has no locks, SQLite puts a file `<name>.lock` in their place
        way = "" if locks.are_there(self.path) else "&vfs=unix-dotfile"
        self._uri = f"{self.path.absolute().as_uri()}?mode=rw{way}"
        try:
            with self.open() as db:
                there = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
                if there and "about" not in there:
                    raise sqlite3.DatabaseError("it holds something else than a review")
                # a log beside the file (WAL) outlives a killed page, and would be written into a
                # backup that is put back; and a backup of the file alone would lack what it holds
                db.execute("PRAGMA journal_mode = DELETE")
                db.executescript(_SCHEMA)
                if (said := db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                    raise sqlite3.DatabaseError(said)
        except sqlite3.DatabaseError as error:
            full = faults.has_no_room(self.path)  # SQLite may call that a disk I/O error
            if made:
                self.path.unlink(missing_ok=True)
            if faults.of_the_machine(error):
                raise
            if full:
                raise UserError(faults.full_disk(error)) from None
            left = self.path.with_name(f"{FILE}.lock")
            remedy = (
                f"remove {left} if no review is running"
                if "locked" in str(error) and left.exists()
                else "restore it from a backup or move it away"
            )
            raise UserError(f"{self.path} cannot be used ({error}): {remedy}") from None

    @contextlib.contextmanager
    def open(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        """Yield a connection; with `write`, in a transaction that is committed at the end.

        An exception rolls the transaction back.
        """
        db = sqlite3.connect(self._uri, timeout=TIMEOUT, isolation_level=None, uri=True)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA synchronous = FULL")
            if write:  # one writer at a time from the first read on, so that clicks never mix
                db.execute("BEGIN IMMEDIATE")
            yield db
            if write:
                db.execute("COMMIT")
        finally:
            db.close()  # an open transaction is rolled back

    def rows(self, sql: str, *values: str | int | None) -> list[sqlite3.Row]:
        """Return the rows of a query."""
        with self.open() as db:
            return db.execute(sql, values).fetchall()


def now_text() -> str:
    """Return the local time with its offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
