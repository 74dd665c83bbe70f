"""The cohort of step 3: patients with a coded stay, their prediction times, and the targets."""

from collections.abc import Iterator
from typing import NamedTuple

import duckdb
import numpy as np
import pandas as pd

from mimic_qlora.clinical import content
from mimic_qlora.features.matrix import MIN_PATIENTS, in_split
from mimic_qlora.step import seeded
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import database


def gather(con: duckdb.DuckDBPyConnection, hours: float, most: int | None = None) -> pd.DataFrame:
    """Return the patients with a coded stay, ordered by subject_id; creates the table `cohort`.

    If they are more than `most`, it holds so many, drawn by a hash of their subject_id.

    Columns: subject_id, hadm_id, icd_version, split, admittime, as_of. The index stay is the first
    coded one: codes of earlier stays would leak a chronic disease, and one stay per patient keeps
    patients from counting twice. `as_of` is the prediction time, `hours` after admission, or one
    second before discharge where that came first. Raises UserError without a coded stay.
    """
    if "diagnoses_icd" not in database.names(con):
        raise UserError("the data has no diagnoses_icd: there is nothing to predict")
    con.execute(f"""
        CREATE TABLE cohort AS
        WITH coded AS (
                SELECT subject_id, hadm_id, max(icd_version) AS icd_version
                FROM diagnoses_icd WHERE {database.CODED} GROUP BY subject_id, hadm_id),
             stays AS (
                SELECT a.subject_id, hadm_id, a.admittime, a.dischtime, c.icd_version,
                       row_number() OVER (
                    PARTITION BY a.subject_id ORDER BY a.admittime, hadm_id) AS place
                FROM {database.STAYS} a JOIN coded c USING (subject_id, hadm_id)
                WHERE coalesce(a.admittime <= a.dischtime, true))
        SELECT subject_id, hadm_id, icd_version, split, admittime,
               least(admittime + INTERVAL 1 SECOND * {hours * 3600:.0f},
                     dischtime - INTERVAL 1 SECOND) AS as_of
        FROM stays JOIN split USING (subject_id) WHERE place = 1 ORDER BY subject_id""")
    people = con.execute("SELECT * FROM cohort ORDER BY subject_id").df()
    if people.empty:
        why = database.uncoded(con) or "no patient has a stay with coded diagnoses"
        raise UserError(f"{why}: there is nothing to predict")
    if most is None or len(people) <= most:
        return people
    drawn = seeded.order(people["subject_id"].tolist(), "features", 0)[:most]
    people = people[people["subject_id"].isin(drawn)].reset_index(drop=True)
    con.register("drawn", people[["subject_id"]])
    con.execute("DELETE FROM cohort WHERE subject_id NOT IN (SELECT subject_id FROM drawn)")
    con.unregister("drawn")
    return people


class Target(NamedTuple):
    """One diagnosis to predict.

    y: bool [patients], coded for the index stay.
    who: bool [patients], at risk of the code: for an ICD code, the stay is coded in its version.
    """

    name: str
    label: str
    y: np.ndarray
    who: np.ndarray


class Coded(NamedTuple):
    """A phenotype or an ICD code, and the patients whose index stay has it.

    version: 9 or 10 for an ICD code, None for a phenotype.
    """

    name: str
    label: str
    version: int | None
    subject_ids: list[int]


def choose(
    con: duckdb.DuckDBPyConnection, people: pd.DataFrame, kind: str, n: int
) -> tuple[list[Target], list[str]]:
    """Return the `n` most frequent targets on train patients, and sentences on those left out.

    kind: "phenotypes" (ICD-9 and ICD-10 joined) or "codes" (each over stays of its own version).
    A target needs MIN_PATIENTS train patients with it and as many without. Raises UserError when
    there is none.
    """
    coded = _phenotypes(con) if kind == "phenotypes" else _codes(con)
    candidates = list(_targets(coded, people))
    is_train = in_split(people, "train")
    chosen: list[Target] = []
    passed = []
    for target in sorted(candidates, key=lambda t: (-t.y[is_train].sum(), t.name)):
        with_it, at_risk = target.y[is_train].sum(), target.who[is_train].sum()
        if len(chosen) == n or with_it < MIN_PATIENTS:
            break
        if at_risk - with_it < MIN_PATIENTS:
            passed.append(
                f"{target.label}: left out, only {at_risk - with_it} train patients are without it"
            )
        else:
            chosen.append(target)
    if not chosen:
        raise UserError(
            f"of {len(candidates)} {kind} none is coded for {MIN_PATIENTS} train patients and "
            f"missing in as many: convert more patients with step 1"
        )
    if len(chosen) < n:
        few = f"no other has {MIN_PATIENTS} train patients with it and {MIN_PATIENTS} without"
        passed.append(f"{len(chosen)} targets instead of {n}: {few}")
    return chosen, passed


def _targets(coded: list[Coded], people: pd.DataFrame) -> Iterator[Target]:
    """Yield each code as a target over the cohort."""
    place = {subject_id: i for i, subject_id in enumerate(people["subject_id"].tolist())}
    version = people["icd_version"].to_numpy()
    for code in coded:
        y = np.zeros(len(people), bool)
        y[[place[subject_id] for subject_id in code.subject_ids]] = True
        who = np.ones(len(people), bool) if code.version is None else version == code.version
        yield Target(code.name, code.label, y & who, who)


def _phenotypes(con: duckdb.DuckDBPyConnection) -> list[Coded]:
    """Return the phenotypes of the index stays."""
    database.add_phenotypes(con)
    rows = con.execute("""
        SELECT DISTINCT p.phenotype, c.subject_id
        FROM cohort c JOIN diagnoses_icd d USING (subject_id, hadm_id)
        JOIN code_phenotype p ON p.icd_code = d.icd_code AND p.icd_version = d.icd_version
        ORDER BY ALL""").fetchall()
    labels = content.load().phenotypes
    found: dict[str, Coded] = {}
    for name, subject_id in rows:
        found.setdefault(name, Coded(name, labels[name].name, None, []))
        found[name].subject_ids.append(subject_id)
    return list(found.values())


def _codes(con: duckdb.DuckDBPyConnection) -> list[Coded]:
    """Return the ICD codes of the index stays, with their titles."""
    rows = con.execute("""
        SELECT DISTINCT d.icd_version, d.icd_code, coalesce(d.long_title, ''), c.subject_id
        FROM cohort c JOIN diagnoses_icd_labeled d
            ON d.subject_id = c.subject_id AND d.hadm_id = c.hadm_id
            AND d.icd_version = c.icd_version
        WHERE d.icd_code IS NOT NULL ORDER BY ALL""").fetchall()
    found: dict[tuple[int, str, str], Coded] = {}
    for version, code, title, subject_id in rows:
        name = f"ICD-{version} {code}"
        label = f"{name} {title}".strip()
        found.setdefault((version, code, title), Coded(name, label, version, []))
        found[version, code, title].subject_ids.append(subject_id)
    return list(found.values())
