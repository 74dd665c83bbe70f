"""What is known of each patient beside the model: for the blind baseline, and for groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mimic_qlora.privacy import conditions
from mimic_qlora.privacy.cohort import Patient
from mimic_qlora.privacy.reading import ANSWER, CHART, Readings
from mimic_qlora.privacy.separation import Floats
from mimic_qlora.subjects import reader

TASKS = ("guidance", "chart_qa", "diagnoses")
FOLDS = 5
WANTED = {
    "patients": ("gender", "anchor_age"),
    "diagnoses_icd_labeled": ("icd_code", "icd_version"),
}


@dataclass(frozen=True)
class Person:
    """A patient's sex, age in years (-1 where unknown), codes, and sensitive conditions."""

    is_female: bool
    age: int
    n_codes: int
    sensitive: frozenset[str]


def read(store: Path, patients: Sequence[Patient]) -> list[Person]:
    """Return the person behind each patient, from step 1's tables."""
    ids = [patient.subject_id for patient in patients]
    rows = {record["subject_id"]: record for record in reader.records(store, WANTED, ids)}
    found = []
    for subject_id in ids:
        record = rows.get(subject_id, {})
        who: dict[str, Any] = next(iter(record.get("patients", [])), {})
        codes = [
            (str(row["icd_code"]), int(row["icd_version"]))
            for row in record.get("diagnoses_icd_labeled", [])
            if "icd_code" in row and "icd_version" in row
        ]
        age = who.get("anchor_age")
        found.append(
            Person(
                who.get("gender") == "F",
                -1 if age is None else int(age),
                len(codes),
                conditions.of_codes(codes),
            )
        )
    return found


def blind_features(
    patients: Sequence[Patient], people: Sequence[Person], readings: Sequence[Sequence[Readings]]
) -> Floats:
    """Return what is known without the model [patients, features]: lengths, age, sex, tasks."""
    table = []
    for patient, person, found in zip(patients, people, readings, strict=True):
        tasks = [record.task for record in patient.records]
        table.append(
            [
                float(np.mean([one[CHART].n for one in found])),
                float(np.mean([one[ANSWER].n for one in found])),
                len(found),
                person.age,
                person.is_female,
                person.n_codes,
                *(tasks.count(task) / len(tasks) for task in TASKS),
            ]
        )
    return np.array(table, float)


def blind_scores(features: Floats, is_member: np.ndarray) -> Floats:
    """Return how like a member each patient looks without the model.

    By logistic regression, each fold of patients by the others.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    found = cross_val_predict(model, features, is_member, cv=folds, method="decision_function")
    return np.asarray(found, float)
