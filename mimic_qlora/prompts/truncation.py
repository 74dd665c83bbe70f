"""Truncation: no prompt may change when what was not known at its time is deleted or replaced.

Rows after a prompt's time are deleted, but not those of pharmacy: they tell that an order that has
begun was entered later. A cell that became known later, or never, gets another valid value, in rows
of an earlier time too. Then the prompt is built again and compared, byte by byte. On purpose the
times stand here once more, and are not read from visibility.csv.
"""

from collections.abc import Mapping
from datetime import datetime, time, timedelta
from typing import Any, NamedTuple

from mimic_qlora.chart import context, sections, visibility
from mimic_qlora.chart.facts import facts_of_view
from mimic_qlora.chart.prompt import join_prompt
from mimic_qlora.chart.rows import Record, Row
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.tasks.urgency import task as urgency

NEVER = datetime.max
DAY = timedelta(days=1)
# The column that places a row in time. A row of another table is placed by its stay.
STAMP = {
    "admissions": "admittime",
    "icustays": "intime",
    "services": "transfertime",
    "prescriptions": "starttime",
    "labevents": "charttime",
    "omr": "chartdate",
    "chartevents": "charttime",
    "vitalsign": "charttime",
    "medrecon": "charttime",
    "edstays": "intime",
}
STORED = ("labevents", "chartevents")  # known when they were stored
LATER = {  # cells that are known later than their row: by which column of it
    "admissions": {
        "dischtime": "dischtime",
        "discharge_location": "dischtime",
        "deathtime": "deathtime",
    },
    "prescriptions": {"stoptime": "stoptime"},
    "edstays": dict.fromkeys(
        ("hadm_id", "outtime", "disposition", "race", "arrival_transport"), "outtime"
    ),
}
AT_ARRIVAL = ("chiefcomplaint",)  # of triage; all else of it is never known
LINKS = ("hadm_id", "stay_id", "pharmacy_id", "subject_id")  # they say whose a row is
CODES = {9: ("4019", "25000"), 10: ("I10", "E119")}  # two of each version, to put in place of one
WORDS = {  # two values of a column with few
    "discharge_location": ("HOME", "REHAB"),
    "admission_type": ("URGENT", "ELECTIVE"),
    "marital_status": ("MARRIED", "WIDOWED"),
    "curr_service": ("MED", "SURG"),
    "gender": ("F", "M"),
    "disposition": ("HOME", "ADMITTED"),
    "race": ("WHITE", "ASIAN"),
    "drug": ("Warfarin", "Insulin"),
    "name": ("Warfarin", "Insulin"),
    "drug_type": ("MAIN", "BASE"),
    "route": ("PO", "SC"),
    "result_value": ("111", "99/66"),
}


class Times(NamedTuple):
    """What places rows in time beside their own cells."""

    as_of: datetime
    stays: Mapping[int, tuple[datetime, datetime]]  # hadm_id -> begin, end
    entered: Mapping[int | None, datetime]  # pharmacy_id -> when the order was entered
    visits: Mapping[int, datetime]  # stay_id -> arrival
    hidden: frozenset[int]  # ids of the visit that is asked about, and of the stay that is on

    @classmethod
    def of(cls, record: Record, prompt: PromptRecord) -> "Times":
        """Return the times of a record at a prompt's time."""
        stays = {
            stay["hadm_id"]: (
                stay["admittime"],
                max(stay["admittime"], stay.get("dischtime", NEVER)),
            )
            for stay in record["admissions"]
        }
        orders = [
            row for row in record.get("pharmacy", ()) if {"pharmacy_id", "entertime"} <= {*row}
        ]
        entered: dict[int | None, datetime] = {}
        for row in sorted(orders, key=lambda row: row["entertime"]):
            entered[row["pharmacy_id"]] = row["entertime"]
        hidden = set[int]()
        if prompt.task == "urgency":
            hidden = {number for number, (_, end) in stays.items() if end > prompt.as_of}
            icu = record.get("icustays", ())
            hidden |= {row["stay_id"] for row in icu if row.get("hadm_id") in hidden}
            hidden.add(urgency.stay_of(prompt.evidence))
        visits = {row["stay_id"]: row["intime"] for row in record.get("edstays", ())}
        return cls(prompt.as_of, stays, entered, visits, frozenset(hidden))

    def stamp(self, table: str, row: Row) -> datetime:
        """Return the time of a row, long ago where it has none."""
        if table == "triage":
            return self.visits.get(row.get("stay_id", 0), NEVER)
        if table.endswith("_labeled"):
            return self.stays.get(row["hadm_id"], (NEVER, NEVER))[0]
        found: datetime = row.get(STAMP.get(table, ""), datetime.min)
        return found

    def known(self, table: str, row: Row) -> datetime:
        """Return when a row as a whole was known."""
        if table != "edstays" and not self.hidden.isdisjoint(
            (row.get("stay_id"), row.get("hadm_id"))
        ):
            return NEVER if table != "triage" else self.stamp(table, row)
        if table in STAMP and STAMP[table] not in row:
            return NEVER
        if table in STORED:
            return max(row["charttime"], row.get("storetime", NEVER))
        if table == "pharmacy":
            return row.get("entertime", NEVER)
        if table == "omr":
            return _day_over(row["chartdate"])
        if table == "prescriptions":
            late = row["starttime"] + DAY
            return max(row["starttime"], self.entered.get(row.get("pharmacy_id"), late))
        if table.endswith("_labeled"):
            end = self.stays.get(row["hadm_id"], (NEVER, NEVER))[1]
            return max(end, _day_over(row["chartdate"])) if "chartdate" in row else end
        return self.stamp(table, row)

    def cell_known(self, table: str, column: str, row: Row, whole: datetime) -> datetime:
        """Return when one cell of a row was known, which as a whole was so at `whole`."""
        if table == "triage":
            return whole if column in AT_ARRIVAL else NEVER
        if table == "patients" and column == "dod":
            return _day_over(row["dod"])
        later = LATER.get(table, {}).get(column)
        return max(whole, row.get(later, NEVER)) if later else whole


def _day_over(day: datetime) -> datetime:
    return datetime.combine(day + DAY, time.min)


def truncated(record: Record, prompt: PromptRecord) -> Record:
    """Return a record without the rows after a prompt's time, and with other values for what was
    not known by then."""
    times = Times.of(record, prompt)
    found: Record = {"subject_id": record["subject_id"]}
    for table, rows in record.items():
        if table != "subject_id":
            found[table] = [
                _as_known(times, table, row)
                for row in rows
                if times.stamp(table, row) <= times.as_of
            ]
    return found


def _as_known(times: Times, table: str, row: Row) -> Row:
    """Return a row with other valid values in the cells that were not known."""
    whole, later = times.known(table, row), LATER.get(table, {})
    if whole <= times.as_of and not later and table not in ("patients", "triage"):
        return row  # no cell of it was known later than all of it
    return {
        column: cell
        if (column in LINKS and column not in later)
        or times.cell_known(table, column, row, whole) <= times.as_of
        else other(row, column, times.as_of)
        for column, cell in row.items()
    }


def other(row: Row, column: str, as_of: datetime) -> Any:
    """Return another valid value; one of a time that lies on the same side of `as_of`.

    This is as late as can be: an order that the pharmacy never entered is known a day after it
    begins.
    """
    value = row[column]
    if isinstance(value, datetime):
        earlier = as_of if value < as_of else value - timedelta(hours=1)
        return value + DAY if value > as_of else earlier
    if isinstance(value, (int, float)):
        return value if column == "icd_version" else value + 1
    if column == "icd_code":
        pair = CODES[10 if row.get("icd_version") == 10 else 9]
    else:
        pair = WORDS.get(column, (f"{value} B", f"{value} A"))
    return pair[0] if value != pair[0] else pair[1]


def rebuilt(
    record: Record, prompt: PromptRecord, dropped: frozenset[str], labels: dict[int, str]
) -> str:
    """Return the user turn of a prompt, built again from a record.

    As many items of a section are left out as the prompt says.
    """
    as_of, chart, question = prompt.as_of, record, prompt.question
    if prompt.task == "urgency":
        stay_id = urgency.stay_of(prompt.evidence)
        chart, question = urgency.before_arrival(record, stay_id), urgency.question(record, stay_id)
    view = visibility.visible(chart, as_of, dropped)
    quota = context.QUOTA["Latest labs"]
    parts = sections.sections_of_view(view, as_of, facts_of_view(view, as_of), labels, quota)
    cut = _cut(prompt.context)
    shown = {name: items[: len(items) - cut.get(name, 0)] for name, items in parts.items() if items}
    return join_prompt(context.text_of(shown, cut), question)


def _cut(text: str) -> dict[str, int]:
    """Return section -> how many items a context says that it left out."""
    found = {}
    for line in text.splitlines()[1:]:
        name, _, said = line.removeprefix("- ").partition(": ")
        last = said.rpartition("; ")[2] or said
        words = last.split()
        if len(words) == 3 and words[0] == "and" and words[2] == "more" and words[1].isdigit():
            found[name] = int(words[1])
    return found


def changes(
    record: Record, prompt: PromptRecord, dropped: frozenset[str], labels: dict[int, str]
) -> bool:
    """Return whether a prompt is another one without what was not known at its time."""
    again = rebuilt(truncated(record, prompt), prompt, dropped, labels)
    return again != prompt.messages[1]["content"]
