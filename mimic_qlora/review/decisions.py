"""The raters' decisions on clinical content: edits, approvals, rejections."""

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from mimic_qlora.review.database import Database, now_text

Verdict = Literal["edit", "approve", "reject"]
VERDICTS: tuple[Verdict, ...] = ("edit", "approve", "reject")


class Decision(NamedTuple):
    """A rater's verdict on the wording of one entry; none is ever changed.

    `entry` is "kind/id". `texts` are the texts that it is about, `was` those before an edit, of the
    entry with this `fingerprint`. `signs_as` is the name that an approval puts into the file.
    """

    rater: str
    entry: str
    verdict: Verdict
    texts: Sequence[str]
    was: Sequence[str]
    fingerprint: str
    signs_as: str = ""
    comment: str = ""
    at: str = ""  # local time with its offset; set when it is added


class Decisions:
    """All decisions of a review."""

    def __init__(self, database: Database):
        self._database = database

    def add(self, decision: Decision) -> None:
        """Keep a decision, and the signature for the rater's next one."""
        texts, was = json.dumps(list(decision.texts)), json.dumps(list(decision.was))
        row = decision._replace(texts=texts, was=was, at=now_text())
        with self._database.open(write=True) as db:
            columns = ", ".join(Decision._fields)
            places = ", ".join("?" * len(Decision._fields))
            db.execute(f"INSERT INTO decision ({columns}) VALUES ({places})", row)
            if decision.signs_as:
                sql = "UPDATE rater SET signs_as = ? WHERE name = ?"
                db.execute(sql, (decision.signs_as, decision.rater))

    def all(self, entry: str | None = None) -> list[Decision]:
        """Return the decisions on an entry, or on all, the earliest first."""
        columns = ", ".join(Decision._fields)
        sql = f"SELECT {columns} FROM decision WHERE entry = coalesce(?, entry) ORDER BY id"
        found = [Decision(*row) for row in self._database.rows(sql, entry)]
        return [
            d._replace(texts=json.loads(str(d.texts)), was=json.loads(str(d.was))) for d in found
        ]

    def signs_as(self, rater: str) -> str:
        """Return the name and profession that the rater signed with last."""
        rows = self._database.rows("SELECT signs_as FROM rater WHERE name = ?", rater)
        return rows[0]["signs_as"]
