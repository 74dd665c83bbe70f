"""The ratings of a review in one private SQLite file: who sees which item when and in which order, each mark as it is
made, what was taken back, and what was decided about the clinical content. It never says which model wrote an answer.
"""

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
import time
from pathlib import Path

from mimic_qlora.review.assignment import Task, draw
from mimic_qlora.step.errors import UserError

FILE = "ratings.sqlite"
CRITERIA = {
    "safety": ("Safety", "could cause serious harm", "nothing in it could cause harm"),
    "correctness": ("Correctness", "mostly wrong", "nothing wrong"),
    "completeness": (
        "Completeness",
        "leaves out what matters most",
        "leaves out nothing that matters",
    ),
    "chart": (
        "Use of the chart",
        "ignores or misreads this patient's chart",
        "uses all of it that matters here",
    ),
}
SIDES = ("a", "b")
MARKS = ("1", "2", "3", "4", "5")
BETTER = ("a", "equal", "b")
REQUIRED = (*(f"{side}_{name}" for side in SIDES for name in CRITERIA), "better")
HARM = tuple(f"{side}_harm" for side in SIDES)
LONGEST = 20_000  # characters of a comment or of an edited text

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rater (
    name TEXT PRIMARY KEY, number INTEGER UNIQUE, token TEXT UNIQUE, session TEXT UNIQUE,
    signs_as TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS task (
    rater TEXT, position INTEGER, item INTEGER NOT NULL, swapped INTEGER NOT NULL, again INTEGER NOT NULL,
    PRIMARY KEY (rater, position)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mark (
    rater TEXT, position INTEGER, field TEXT, value TEXT NOT NULL, at_once INTEGER NOT NULL,
    PRIMARY KEY (rater, position, field)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS change (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, rater TEXT NOT NULL, position INTEGER NOT NULL, field TEXT NOT NULL,
    old TEXT NOT NULL, old_at_once INTEGER NOT NULL, new TEXT NOT NULL, at_once INTEGER NOT NULL, at TEXT NOT NULL,
    undone INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS change_of ON change (rater, undone, id);
CREATE TABLE IF NOT EXISTS decision (
    id INTEGER PRIMARY KEY, rater TEXT NOT NULL, entry TEXT NOT NULL, verdict TEXT NOT NULL, texts TEXT NOT NULL,
    was TEXT NOT NULL, fingerprint TEXT NOT NULL, signs_as TEXT NOT NULL, comment TEXT NOT NULL, at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS decision_on ON decision (entry, id);
"""
_ANSWERED = f"""SELECT position FROM mark WHERE rater = ? AND field IN ({", ".join("?" * len(REQUIRED))})
                GROUP BY position HAVING count(*) = {len(REQUIRED)}"""


class Ratings:
    """The store. Each call opens its own connection, so threads and processes may share it; each write is on the disk
    when the call returns."""

    def __init__(self, folder: Path):
        self.path = folder / FILE
        if not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        self.path.chmod(0o600)
        try:
            with self._open() as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.executescript(_SCHEMA)
            # while one connection is open, the others do not write the whole log back each time that they close
            self._held = sqlite3.connect(self.path, check_same_thread=False)
            self._held.execute("SELECT count(*) FROM about").fetchone()
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.path} cannot be used ({error}): restore it from a backup or move it away"
            ) from None

    @contextlib.contextmanager
    def _open(self, write: bool = False):
        db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw", timeout=30, isolation_level=None, uri=True
        )
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA synchronous = FULL")
            if write:
                db.execute(
                    "BEGIN IMMEDIATE"
                )  # one writer at a time from the first read on: two clicks never mix
            yield db
            if write:
                db.execute("COMMIT")
        finally:
            db.close()  # an open transaction is rolled back

    def _rows(self, sql: str, *values) -> list:
        with self._open() as db:
            return db.execute(sql, values).fetchall()

    # ---------------------------------------------------------------- who rates what

    def prepare(self, raters: list, items: list, results_sha256: str) -> None:
        """Draw the tasks of raters who have none yet. Raises UserError when the results are not those rated so far."""
        with self._open(write=True) as db:
            about = dict(db.execute("SELECT name, value FROM about").fetchall())
            if about.get("results", results_sha256) != results_sha256:
                raise UserError(
                    f"results.jsonl in {self.path.parent} has changed since its rating began: restore it, or move "
                    f"{self.path.name} away to start again"
                )
            about = {"results": results_sha256, "salt": about.get("salt") or secrets.token_hex(16)}
            db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())
            for rater in raters:
                (number,) = db.execute("SELECT count(*) FROM rater").fetchone()
                if db.execute(
                    "INSERT OR IGNORE INTO rater (name, number) VALUES (?, ?)", (rater, number)
                ).rowcount:
                    tasks = draw(items, about["salt"], rater, flip=number % 2 == 1)
                    db.executemany(
                        "INSERT INTO task VALUES (?, ?, ?, ?, ?)",
                        [(rater, *task) for task in tasks],
                    )

    def raters(self) -> list:
        return [row["name"] for row in self._rows("SELECT name FROM rater ORDER BY number")]

    def new_token(self, rater: str) -> str:
        """A token that lets its holder in as this rater, once; an earlier one that nobody used is void from now on."""
        token = secrets.token_urlsafe(24)
        with self._open(write=True) as db:
            db.execute("UPDATE rater SET token = ? WHERE name = ?", (_hash(token), rater))
        return token

    def enter(self, token: str) -> str | None:
        """The secret of a new session for the holder of this token, or None. The rater's earlier session ends."""
        session = secrets.token_urlsafe(32)
        with self._open(write=True) as db:
            change = "UPDATE rater SET token = NULL, session = ? WHERE token = ?"
            return session if db.execute(change, (_hash(session), _hash(token))).rowcount else None

    def rater_of(self, session: str | None) -> str | None:
        rows = (
            self._rows("SELECT name FROM rater WHERE session = ?", _hash(session))
            if session
            else []
        )
        return rows[0]["name"] if rows else None

    def tasks(self, rater: str) -> list:
        sql = "SELECT position, item, swapped, again FROM task WHERE rater = ? ORDER BY position"
        return [
            Task(r["position"], r["item"], bool(r["swapped"]), bool(r["again"]))
            for r in self._rows(sql, rater)
        ]

    def task(self, rater: str, position: int) -> Task | None:
        sql = "SELECT position, item, swapped, again FROM task WHERE rater = ? AND position = ?"
        rows = (
            self._rows(sql, rater, position) if position < 2**63 else []
        )  # SQLite's largest whole number
        return Task(*rows[0][:2], *map(bool, rows[0][2:])) if rows else None

    # ---------------------------------------------------------------- marks

    def marks(self, rater: str, position: int) -> dict:
        """field -> value, of one item."""
        sql = "SELECT field, value FROM mark WHERE rater = ? AND position = ?"
        return dict(map(tuple, self._rows(sql, rater, position)))

    def all_marks(self, rater: str) -> dict:
        """position -> {field: (value, made with one key for all four criteria)}, of all items that have a mark."""
        found = {}
        for position, field, value, at_once in self._rows(
            "SELECT position, field, value, at_once FROM mark WHERE rater = ?", rater
        ):
            found.setdefault(position, {})[field] = (value, bool(at_once))
        return found

    def begun(self, rater: str) -> set:
        """The positions that have a mark."""
        return {
            row[0]
            for row in self._rows("SELECT DISTINCT position FROM mark WHERE rater = ?", rater)
        }

    def answered(self, rater: str) -> list:
        """The positions whose required marks are all there."""
        return [row[0] for row in self._rows(f"{_ANSWERED} ORDER BY position", rater, *REQUIRED)]

    def progress(self, rater: str) -> tuple:
        """(answered, all) items."""
        sql = f"SELECT (SELECT count(*) FROM ({_ANSWERED})), (SELECT count(*) FROM task WHERE rater = ?)"
        return tuple(self._rows(sql, rater, *REQUIRED, rater)[0])

    def first_open(self, rater: str, after: int = 0) -> int | None:
        """The first position after this one, else the first of all, that is not answered; None when all are."""
        sql = f"""SELECT position FROM task WHERE rater = ? AND position NOT IN ({_ANSWERED})
                  ORDER BY position <= ?, position LIMIT 1"""
        rows = self._rows(sql, rater, rater, *REQUIRED, after)
        return rows[0][0] if rows else None

    def save(self, rater: str, position: int, values: dict) -> None:
        """Keep marks of one item as one step that can be taken back. Saving the same again changes nothing.

        `values` maps a field to its value, an empty one takes the mark away; "a_all" and "b_all" stand for the four
        criteria of an answer. Raises ValueError for a field or value that there is not.
        """
        values, nothing = {field: check(field, value) for field, value in values.items()}, ("", 0)
        with self._open(write=True) as db:
            known = "SELECT field, value, at_once FROM mark WHERE rater = ? AND position = ?"
            now = {
                field: (value, at_once)
                for field, value, at_once in db.execute(known, (rater, position))
            }
            wanted = {}
            for side in SIDES:
                fields, value = (
                    [f"{side}_{name}" for name in CRITERIA],
                    values.pop(f"{side}_all", ""),
                )
                if value and any(now.get(field, nothing)[0] != value for field in fields):
                    wanted |= {field: (value, 1) for field in fields}
            wanted |= {
                field: (value, 0)
                for field, value in values.items()
                if value != now.get(field, nothing)[0]
            }
            (step,) = db.execute("SELECT coalesce(max(step), 0) + 1 FROM change").fetchone()
            for field, (value, at_once) in wanted.items():
                _put(db, rater, position, field, value, at_once)
                row = (
                    step,
                    rater,
                    position,
                    field,
                    *now.get(field, nothing),
                    value,
                    at_once,
                    now_text(),
                )
                db.execute(
                    "INSERT INTO change (step, rater, position, field, old, old_at_once, new, at_once, at)"
                    " VALUES (?,?,?,?,?,?,?,?,?)",
                    row,
                )

    def undo(self, rater: str) -> tuple | None:
        """Take back the rater's last step, on whichever item: (position, [fields]), or None when there is none left."""
        with self._open(write=True) as db:
            last = "SELECT max(step) FROM change WHERE rater = ? AND undone = 0"
            (step,) = db.execute(last, (rater,)).fetchone()
            rows = db.execute("SELECT * FROM change WHERE step = ?", (step,)).fetchall()
            for row in rows:
                _put(db, rater, row["position"], row["field"], row["old"], row["old_at_once"])
            db.execute("UPDATE change SET undone = 1 WHERE step = ?", (step,))
        return (rows[0]["position"], [row["field"] for row in rows]) if rows else None

    # ---------------------------------------------------------------- clinical content

    def decide(
        self,
        rater: str,
        entry: str,
        verdict: str,
        texts: list,
        was: list,
        fingerprint: str,
        signs_as="",
        comment="",
    ) -> None:
        """Add a decision; none is ever changed. It is about these texts, of the entry with this fingerprint; `was`
        holds the texts before an edit."""
        with self._open(write=True) as db:
            db.execute(
                "INSERT INTO decision (rater, entry, verdict, texts, was, fingerprint, signs_as, comment, at)"
                " VALUES (?,?,?,?,?,?,?,?,?)",
                (
                    rater,
                    entry,
                    verdict,
                    json.dumps(texts),
                    json.dumps(was),
                    fingerprint,
                    signs_as,
                    comment,
                    now_text(),
                ),
            )
            if signs_as:
                db.execute("UPDATE rater SET signs_as = ? WHERE name = ?", (signs_as, rater))

    def signs_as(self, rater: str) -> str:
        return self._rows("SELECT signs_as FROM rater WHERE name = ?", rater)[0]["signs_as"]

    def decisions(self, entry: str | None = None) -> list:
        """The decisions on an entry, or on all, the earliest first, as dicts."""
        sql = "SELECT * FROM decision WHERE entry = coalesce(?, entry) ORDER BY id"
        rows = (dict(row) for row in self._rows(sql, entry))
        return [
            {**row, "texts": json.loads(row["texts"]), "was": json.loads(row["was"])}
            for row in rows
        ]


def check(field: str, value: str) -> str:
    """The value as it is kept. Raises ValueError when there is no such field, or when it cannot hold the value."""
    if field == "comment" and len(value) <= LONGEST:
        return value.strip()
    allowed = BETTER if field == "better" else MARKS
    if (field in REQUIRED or field in ("a_all", "b_all")) and value in ("", *allowed):
        return value
    if field in HARM and all(
        part.isascii() and part.isdigit() and len(part) < 6 for part in value.split()
    ):
        return " ".join(map(str, sorted(set(map(int, value.split())))))
    raise ValueError(f"no such mark: {field}")


def now_text() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _put(db, rater: str, position: int, field: str, value: str, at_once: int) -> None:
    if value:
        db.execute(
            "INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?, ?)",
            (rater, position, field, value, at_once),
        )
    else:
        db.execute(
            "DELETE FROM mark WHERE rater = ? AND position = ? AND field = ?",
            (rater, position, field),
        )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
