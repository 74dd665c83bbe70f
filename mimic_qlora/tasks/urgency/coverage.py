"""Whether what levels rest on is there, tables and columns, and covers each group of years.

A table that is absent for some years makes a visit of these look as if nothing had been done.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from mimic_qlora.chart.rows import Record, Row
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader
from mimic_qlora.subjects.manifest import subjects_manifest
from mimic_qlora.tasks.urgency import label

# A table covers a group of years where the share of its visits with a row is at least this part of
# the share over all years. Fewer visits than LEAST tell nothing.
PART, LEAST = 0.1, 20
# Cells of a row may be empty; a column that is not there makes the level of all visits another one.
NEEDED = {
    **{table: columns for table, columns in label.WANTED.items() if table != "edstays"},
    "edstays": tuple(name for name in label.WANTED["edstays"] if name != "race"),
    "triage": ("stay_id", "acuity", "chiefcomplaint"),
}
JUDGED = ("labevents", "radiology", "pyxis", "emar")
FOLLOWED = timedelta(days=8)  # after a patient's last arrival, beyond all hours of label.yaml


def check_tables(store: Path, rules: label.Rules) -> None:
    """Raise UserError unless every table that the task reads has rows, and the columns it needs.

    Without a disposition nobody has left unseen, without a hadm_id nobody was admitted.
    """
    level = label.tables(rules)
    for table in ("edstays", "triage", *level):
        if not reader.table_files(store, table):
            why = f"level {level[table]} rests on it" if table in level else "it holds the visits"
            raise UserError(
                f"the urgency task needs the table {table}, which {store / 'subjects'} does not "
                f"have ({why}): convert MIMIC-IV with its folders ed/ and note/ by step 1"
            )
    there = subjects_manifest(store)["columns"]
    for table, columns in NEEDED.items():
        if absent := [name for name in columns if name not in there.get(table, columns)]:
            raise UserError(
                f"the urgency task needs the column {absent[0]} of {table}, which "
                f"{store / 'subjects'} does not have: convert MIMIC-IV-ED 2.2 by step 1, whose "
                "tables have it"
            )


def spans(store: Path) -> dict[int, tuple[datetime, datetime]]:
    """Return subject_id -> from the first arrival until all that labels read is over."""
    found: dict[int, tuple[datetime, datetime]] = {}
    for record in reader.records(store, {"edstays": ("stay_id", "intime")}):
        times = [visit["intime"] for visit in record["edstays"]]
        if times:
            found[record["subject_id"]] = (min(times), max(times) + FOLLOWED)
    return found


class Coverage:
    """The visits by group of years, and how many of them have a row in each table."""

    def __init__(self, rules: label.Rules) -> None:
        """Count in the tables that the rules read."""
        self.tables = [table for table in JUDGED if table in label.tables(rules)]
        self.visits: dict[str, Counter[str]] = {table: Counter() for table in self.tables}
        self.found: dict[str, Counter[str]] = {table: Counter() for table in self.tables}

    def add(self, record: Record, visits: Sequence[Row]) -> None:
        """Count the visits of a patient. Drugs of the ward are looked for in admissions alone."""
        years = next((p.get("anchor_year_group", "") for p in record["patients"]), "")
        for visit in visits:
            for table in self.tables:
                if table != "emar" or "hadm_id" in visit:
                    course = label.Course(visit, record, ())
                    self.visits[table][years] += 1
                    self.found[table][years] += any(course.within(table, 24))

    def check(self, rules: label.Rules) -> None:
        """Raise UserError where a table does not cover a group of years."""
        for table in self.tables:
            visits, found = self.visits[table], self.found[table]
            share = found.total() / max(visits.total(), 1)
            for years, n in sorted(visits.items()):
                if n >= LEAST and found[years] < PART * share * n or not found.total():
                    raise UserError(
                        f"the urgency task needs the table {table} for all years, and it does not "
                        f"cover {years or 'any'}, so that level {label.tables(rules)[table]} is "
                        "undefined there: convert patients of other years by step 1's "
                        "--subjects-file, or a release that covers them"
                    )
