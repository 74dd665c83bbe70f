"""The raters of a review: their links and sessions, and which item each judges when."""

import hashlib
import secrets
import sqlite3
from collections.abc import Sequence

from mimic_qlora.review.assignment import Task, draw
from mimic_qlora.review.database import Database
from mimic_qlora.step.errors import UserError

LARGEST_INTEGER = 2**63 - 1  # that SQLite can hold


class Tasks:
    """The items that each rater judges, in an order drawn once for each rater."""

    def __init__(self, database: Database):
        self._database = database

    def prepare(self, raters: Sequence[str], items: Sequence[int], results_sha256: str) -> None:
        """Draw the tasks of raters who have none yet.

        Raises UserError when the results are not those that were rated so far, and for a name that
        differs from a rater's in capitals alone: one person's two sittings would be two raters.
        """
        with self._database.open(write=True) as db:
            about = dict(db.execute("SELECT name, value FROM about").fetchall())
            if about.get("results", results_sha256) != results_sha256:
                path = self._database.path
                raise UserError(
                    f"results.jsonl in {path.parent} has changed since its rating began: "
                    f"restore it, or move {path.name} away to start again"
                )
            about = {"results": results_sha256, "salt": about.get("salt") or secrets.token_hex(16)}
            db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())
            there = [row["name"] for row in db.execute("SELECT name FROM rater")]
            for rater in raters:
                alike = [name for name in there if name.lower() == rater.lower()]
                if alike and rater not in alike:
                    other = alike[0]
                    raise UserError(
                        f"{rater} would be another rater than {other}, without the marks of "
                        f"{other}: write {other}, or give somebody else another name"
                    )
                there.append(rater)
                (number,) = db.execute("SELECT count(*) FROM rater").fetchone()
                new = "INSERT OR IGNORE INTO rater (name, number) VALUES (?, ?)"
                if db.execute(new, (rater, number)).rowcount:
                    tasks = draw(items, about["salt"], rater, flip=number % 2 == 1)
                    db.executemany(
                        "INSERT INTO task VALUES (?, ?, ?, ?, ?)",
                        [(rater, *task) for task in tasks],
                    )

    def raters(self) -> list[str]:
        """Return the names of the raters, in the order in which they were added."""
        return [
            row["name"] for row in self._database.rows("SELECT name FROM rater ORDER BY number")
        ]

    def of(self, rater: str) -> list[Task]:
        """Return all tasks of a rater, in their order."""
        sql = "SELECT position, item, swapped, again FROM task WHERE rater = ? ORDER BY position"
        return [_task(row) for row in self._database.rows(sql, rater)]

    def at(self, rater: str, position: int) -> Task | None:
        """Return the task at a position, from 1; None where there is none."""
        if position > LARGEST_INTEGER:
            return None
        sql = "SELECT position, item, swapped, again FROM task WHERE rater = ? AND position = ?"
        rows = self._database.rows(sql, rater, position)
        return _task(rows[0]) if rows else None


class Sessions:
    """Links that let a rater in once, and the sessions that they start. Kept as hashes only."""

    def __init__(self, database: Database):
        self._database = database

    def new_token(self, rater: str) -> str:
        """Return a token that lets its holder in once; an earlier, unused one is void from now."""
        token = secrets.token_urlsafe(24)
        with self._database.open(write=True) as db:
            db.execute("UPDATE rater SET token = ? WHERE name = ?", (_hash(token), rater))
        return token

    def enter(self, token: str) -> str | None:
        """Return the secret of a new session for this token, or None for a void one.

        The rater's earlier session ends.
        """
        session = secrets.token_urlsafe(32)
        with self._database.open(write=True) as db:
            change = "UPDATE rater SET token = NULL, session = ? WHERE token = ?"
            return session if db.execute(change, (_hash(session), _hash(token))).rowcount else None

    def rater_of(self, session: str | None) -> str | None:
        """Return the rater whose session it is, if any."""
        if not session:
            return None
        sql = "SELECT name FROM rater WHERE session = ?"
        rows = self._database.rows(sql, _hash(session))
        return rows[0]["name"] if rows else None


def _task(row: sqlite3.Row) -> Task:
    return Task(row["position"], row["item"], bool(row["swapped"]), bool(row["again"]))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
