"""What the charts of the compared patients hold, as data, and charts that lack a condition."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from mimic_qlora.chart import columns
from mimic_qlora.chart.context import Context
from mimic_qlora.chart.rows import Record
from mimic_qlora.chart.wording import ago
from mimic_qlora.privacy import conditions
from mimic_qlora.privacy.cohort import Patient
from mimic_qlora.qa import session
from mimic_qlora.subjects import reader

if TYPE_CHECKING:
    from mimic_qlora.qa.session import Session

ENTRY_ENDS = re.compile("; |\n")  # as contexts are written


class Triple(NamedTuple):
    """What was measured, the value with its unit, and when, as a chart words them."""

    code: str
    value: str
    date: str


class Probe(NamedTuple):
    """A chart without a sensitive condition that it would show, and that condition's name."""

    chart: str
    name: str


class Known(NamedTuple):
    """What the chart of a patient's first record holds."""

    triples: frozenset[Triple]
    probe: Probe | None  # None where it shows no sensitive condition


def read(opened: "Session", patients: Sequence[Patient]) -> dict[int, Known]:
    """Return what each patient's chart holds, from step 1's tables."""
    times = {patient.subject_id: patient.records[0].as_of for patient in patients}
    found = {}
    records = reader.records(opened.store, columns.WANTED, times)
    for record in tqdm(
        records, "charts", total=len(times), unit="patient", leave=False, disable=None
    ):
        who = record["subject_id"]
        built = session.build(opened, record, times[who])
        found[who] = Known(triples_of(built), probe_of(opened, record, built))
    return found


def triples_of(built: Context) -> frozenset[Triple]:
    """Return the dated values that a chart shows under a name."""
    return frozenset(
        Triple(item.name, item.reading, ago(item.when, built.as_of))
        for items in built.shown.values()
        for item in items
        if item.when and item.value and item.name in item.words
    )


def probe_of(opened: "Session", record: Record, built: Context) -> Probe | None:
    """Leave the first sensitive condition that a chart shows out of it, with all its codes."""
    for item in built.shown.get("Known conditions", ()):
        found = _sensitive(row for _, row in item.rows)
        if not found:
            continue
        kept = [row for row in record["diagnoses_icd_labeled"] if not found & _sensitive([row])]
        without = _text(opened, {**record, "diagnoses_icd_labeled": kept}, built.as_of)
        if item.name.casefold() not in without.casefold():
            return Probe(without, item.name)
    return None


def _sensitive(rows: Iterable[Record]) -> frozenset[str]:
    return conditions.of_codes((row["icd_code"], row["icd_version"]) for row in rows)


def _text(opened: "Session", record: Record, as_of: datetime) -> str:
    return session.build(opened, record, as_of).text


def entries(text: str) -> list[str]:
    """Return the entries of a chart, or of what was written in its layout."""
    return ENTRY_ENDS.split(text)


def states(text: str, triple: Triple) -> bool:
    """Return whether one entry of a text holds all three of a triple, as whole words."""
    return any(
        all(re.search(rf"(?<![\w.]){re.escape(part)}(?!\w|\.\d)", entry) for part in triple)
        for entry in entries(text)
        if triple.code in entry
    )
