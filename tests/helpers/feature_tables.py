"""Small made-up tables for step 3, whose signal, noise and times are known."""

import csv
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from helpers.storage_folders import SUBJECTS_FACTS, write_bare_manifest
from mimic_qlora.features import boosting, cohort, matrix
from mimic_qlora.features.matrix import Feature, Features
from mimic_qlora.mimic import tables
from mimic_qlora.step import files
from mimic_qlora.subjects import database, patients

Tables = dict[str, list[dict[str, Any]]]

START = datetime(2150, 1, 1, 8)
N = 240


def hours(n: float) -> datetime:
    return START + timedelta(hours=n)


def hospital(seed: int = 0) -> Tables:
    """Return the tables of N patients, 200 of them with a coded stay.

    A high glucose goes with diabetes, a drug with high blood pressure, all else with nothing.
    """
    rng = np.random.default_rng(seed)
    names = (
        "patients",
        "admissions",
        "diagnoses_icd",
        "labevents",
        "prescriptions",
        "pharmacy",
        "emar",
    )
    made: Tables = {name: [] for name in names}
    for i in range(1, N + 1):
        is_diabetic, has_pressure = (rng.random(2) < (0.35, 0.5)).tolist()
        made["patients"].append(
            {
                "subject_id": i,
                "gender": "FM"[i % 2],
                "anchor_age": int(rng.integers(30, 90)),
                "anchor_year": 2150,
            }
        )
        stay = {
            "subject_id": i,
            "hadm_id": 1000 + i,
            "admittime": START,
            "dischtime": hours(96),
            "hospital_expire_flag": 0,
        }
        made["admissions"].append(
            {**stay, "marital_status": "ABC"[rng.integers(3)], "discharge_location": "HOME"}
        )
        version = 9 if i % 3 else 10
        codes = [("Z000", "V700")[version == 9]] + [("E119", "25000")[version == 9]] * is_diabetic
        codes += [("I10", "4019")[version == 9]] * has_pressure
        for n, code in enumerate(codes if i <= 200 else [], 1):
            row = {
                "subject_id": i,
                "hadm_id": 1000 + i,
                "seq_num": n,
                "icd_code": code,
                "icd_version": version,
            }
            made["diagnoses_icd"].append(row)
        for n in range(rng.integers(2, 6)):
            lab = {
                "subject_id": i,
                "hadm_id": 1000 + i,
                "charttime": hours(n),
                "storetime": hours(n + 1),
                "order_provider_id": f"P{rng.integers(9)}",
            }
            lab["priority"] = ("ROUTINE", "STAT")[rng.integers(2)]
            made["labevents"].append(
                {
                    **lab,
                    "itemid": 50931,
                    "valuenum": 100 + 60 * is_diabetic + rng.normal(0, 25),
                    "valueuom": "mg/dL",
                }
            )
            made["labevents"].append(
                {**lab, "itemid": 50912, "valuenum": rng.normal(1, 0.2), "valueuom": "mg/dL"}
            )
        order = {
            "subject_id": i,
            "hadm_id": 1000 + i,
            "pharmacy_id": i,
            "starttime": hours(2),
            "stoptime": hours(9),
            "drug": "Lisinopril" if has_pressure else "Senna",
        }
        made["prescriptions"].append(
            {**order, "dose_val_rx": ("500,000", "50-100", ".1")[rng.integers(3)], "ndc": "00045"}
        )
        made["pharmacy"].append({"subject_id": i, "pharmacy_id": i, "entertime": hours(2)})
        made["emar"].append(
            {
                "subject_id": i,
                "emar_id": f"{i}-1",
                "charttime": hours(3),
                "storetime": hours(3),
                "medication": "Senna",
            }
        )
    return made


def keep(folder: Path, made: Tables) -> Path:
    """Write the tables as step 1 would leave them; return the storage folder."""
    types = {
        "id": pa.int64(),
        "int": pa.int64(),
        "num": pa.float64(),
        "time": pa.timestamp("us"),
        "code": pa.large_string(),
        "text": pa.large_string(),
    }
    subjects = folder / "subjects"
    (subjects / "dictionaries").mkdir(parents=True)
    made = {
        **made,
        "diagnoses_icd_labeled": [
            {**row, "long_title": row["icd_code"]} for row in made.get("diagnoses_icd", [])
        ],
    }
    columns = {}
    for name, rows in made.items():
        known = tables.schema()[name.removesuffix("_labeled")].columns | (
            {"long_title": "text"} if "labeled" in name else {}
        )
        own = {column for row in rows for column in row} - known.keys()
        known = {**known, **dict.fromkeys(sorted(own), "int")}
        columns[name] = known
        arrays = [pa.array([row.get(c) for row in rows], types[t]) for c, t in known.items()]
        (subjects / "tables" / name).mkdir(parents=True)
        pq.write_table(
            pa.table(arrays, names=list(known)), subjects / "tables" / name / "part-00000.parquet"
        )
    split = patients.assign([row["subject_id"] for row in made["patients"]], 42)
    (subjects / "split.csv").write_text(
        "subject_id,split\n" + "".join(f"{s},{name}\n" for s, name in split.items())
    )
    n = len(split)
    source = {"kind": "mimic", "version": "a test", "folder": "/nowhere", "patients": n}
    own = {name: types for name, types in columns.items() if "labeled" not in name}
    rows = {
        name: {"in": len(made[name]), "unsampled": 0, "rejected": 0, "columnar": len(made[name])}
        for name in own
    }
    facts = {**SUBJECTS_FACTS, "source": source, "columns": own, "rows": rows}
    facts["cells_not_of_their_type"] = {}
    facts["files"] = {
        path.relative_to(subjects).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": files.file_sha256(path),
        }
        for path in subjects.glob("tables/*/*.parquet")
    }
    write_bare_manifest(subjects, "subjects", {}, {"content": files.digest(made)}, **facts)
    return folder


def built(folder: Path, made: Tables) -> tuple[pd.DataFrame, Features]:
    """Return the cohort and the features of the tables."""
    store = keep(folder, made)
    con = database.connect(store, folder / "cohort")
    people = cohort.gather(con, 24)
    con.close()
    return people, matrix.build(store, people, folder)


def changed(made: Tables, table: str, when: Callable[[dict[str, Any]], bool], **cells) -> Tables:
    """Return the tables with other cells in some rows of one table."""
    return {**made, table: [{**row, **cells} if when(row) else row for row in made[table]]}


def lines(path: Path) -> dict[str, dict[str, str]]:
    """Return column -> row of a list of columns."""
    with open(path, newline="") as file:
        return {row["column"]: row for row in csv.DictReader(file)}


def made_up(n: int, n_folds: int = 3, seed: int = 0) -> tuple[boosting.Study, cohort.Target]:
    """Return n patients with three columns: x predicts the target, y is noise, z is x's twin."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 3)).astype(np.float32)
    values[:, 2] = values[:, 0] + rng.normal(0, 0.05, n)
    y = rng.random(n) < 1 / (1 + np.exp(-2 * values[:, 0]))
    named = [Feature(f"admissions.{c}", "", "mean") for c in "xyz"]
    split = rng.choice(["train", "validation", "test"], n, p=(0.8, 0.1, 0.1))
    people = pd.DataFrame({"subject_id": np.arange(n), "split": split})
    features = Features(values, named, {}, {}, {})
    study = boosting.Study(features, people, boosting.folds(people, n_folds), "cpu")
    return study, cohort.Target("t", "a target", y, np.ones(n, bool))
