"""The list of the summary's tables, and the summary that is made of them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from mimic_qlora.subjects import database, sql
from mimic_qlora.subjects.manifest import SubjectsManifest
from mimic_qlora.summary import counts, table1
from mimic_qlora.summary.counts import TOP, Ranking
from mimic_qlora.summary.data import Data
from mimic_qlora.summary.disclosure import Rows


class Kind(NamedTuple):
    """A table that the summary can have."""

    heading: str
    needs: str  # the table of MIMIC-IV without which it is left out
    rows: Callable[[Data], Rows]
    note: str = ""  # stands under the table


class Table(NamedTuple):
    """A table of the summary with its rows."""

    name: str  # of its CSV file
    heading: str
    rows: Rows
    note: str = ""


class Summary(NamedTuple):
    """All tables of the summary, and a sentence for each that is left out."""

    tables: list[Table]
    skipped: list[str]


_DIAGNOSES = Ranking(
    table="diagnoses_icd_labeled t",
    key={
        "icd_version": "t.icd_version",
        "icd_code": "t.icd_code",
        "title": f"coalesce({sql.said('t.long_title')}, '')",
    },
    where=database.CODED,
    within="icd_version",
)
_PROCEDURES = replace(_DIAGNOSES, table="procedures_icd_labeled t", where="t.icd_code IS NOT NULL")
_DRUG = sql.said("t.drug")
_DRUGS = Ranking("prescriptions t", {"drug": _DRUG}, f"{_DRUG} IS NOT NULL", typed=True)

_MOST = (
    "Most: what --min-cell patients or more reach, as the largest of all may be one patient's. It "
    "and quartiles are hidden where fewer patients than that lie between two of them."
)
_ROUNDED = (
    "Unless --min-cell is 0, the cells are rounded to its multiples: exact numbers of two columns "
    "could tell of few patients."
)

KINDS = {
    "flow": Kind("Who was left out, and why", "patients", counts.flow),
    "overview": Kind("Size of the data", "patients", counts.overview),
    "table1": Kind(
        "Table 1: patients with a coded stay, those without apart; n (%) or median [quartiles]",
        "admissions",
        table1.table1,
        table1.NOTE,
    ),
    "rows_per_table": Kind(
        "Rows and patients per table", "patients", lambda data: data.rows_per_table, _MOST
    ),
    "diagnoses_per_patient": Kind(
        "Coded diagnoses per patient with any",
        "diagnoses_icd",
        counts.diagnoses_per_patient,
        _MOST,
    ),
    "diagnoses_histogram": Kind(
        "Patients by number of coded diagnoses", "diagnoses_icd", counts.diagnoses_histogram
    ),
    "top_diagnoses_by_patients": Kind(
        f"Top {TOP} diagnoses of each ICD version by patients",
        "diagnoses_icd",
        partial(counts.top, ranking=_DIAGNOSES),
    ),
    "top_diagnoses_by_rows": Kind(
        f"Top {TOP} diagnoses of each ICD version by rows",
        "diagnoses_icd",
        partial(counts.top, ranking=replace(_DIAGNOSES, order="rows")),
    ),
    "top_phenotypes": Kind(
        f"Top {TOP} phenotypes: ICD-9 and ICD-10 joined", "diagnoses_icd", counts.top_phenotypes
    ),
    "top_procedures": Kind(
        f"Top {TOP} procedures of each ICD version",
        "procedures_icd",
        partial(counts.top, ranking=_PROCEDURES),
    ),
    "top_drugs": Kind(
        f"Top {TOP} drugs ordered", "prescriptions", partial(counts.top, ranking=_DRUGS)
    ),
    "top_labs": Kind(f"Top {TOP} laboratory tests", "labevents", counts.top_labs),
    "quality": Kind(
        "What cannot be right (step 1 flags it, nothing is changed)", "patients", counts.quality
    ),
    "missing": Kind("Empty cells per column", "patients", counts.missing, _ROUNDED),
    "misfits": Kind("Cells that are not of their column's type", "patients", counts.misfits),
}


def summarize(storage: Path, temp: Path, manifest: SubjectsManifest, min_cell: int) -> Summary:
    """Return the summary of the patients in the storage folder. Queries spill into `temp`."""
    summary = Summary([], [])
    con = database.connect(storage, temp)
    data = Data(con, manifest, min_cell)
    there = database.names(con)
    for name, kind in tqdm(KINDS.items(), desc="summarizing", unit="table", disable=None):
        if kind.needs in there:
            rows = kind.rows(data)
            summary.tables.append(Table(name, kind.heading, rows, kind.note))
        else:
            summary.skipped.append(f"{kind.heading}: left out, the data has no {kind.needs}")
    if why := database.uncoded(con):
        summary.skipped.append(f"No diagnosis is counted: {why}")
    con.close()
    return summary
