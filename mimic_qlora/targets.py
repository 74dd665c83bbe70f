"""What step 3 predicts: the diagnoses that were coded for a patient's index stay."""

from typing import NamedTuple

from mimic_qlora import clinical, database
from mimic_qlora.features import MIN_PATIENTS
from mimic_qlora.storage import UserError


class Target(NamedTuple):
    name: str
    label: str
    y: object  # bool per patient of the cohort: coded for the index stay
    who: object  # bool per patient: could have been coded (for an ICD code: the stay is coded in its version)


def choose(con, people, kind: str, n: int) -> tuple:
    """The `n` targets that the most train patients have, and sentences on those that were passed over.

    kind: "phenotypes" (ICD-9 and ICD-10 joined) or "codes" (each over the stays of its own version). A target needs
    MIN_PATIENTS train patients with it and as many without. Raises UserError when there is none.
    """
    import numpy as np

    found = (_phenotypes if kind == "phenotypes" else _codes)(con)
    place = {subject_id: i for i, subject_id in enumerate(people.subject_id.tolist())}
    version, is_train = people.icd_version.to_numpy(), (people.split == "train").to_numpy()
    chosen, passed = [], []
    candidates = []
    for (name, label, of_version), subject_ids in found.items():
        y = np.zeros(len(people), bool)
        y[[place[s] for s in subject_ids]] = True
        who = np.ones(len(people), bool) if of_version is None else version == of_version
        candidates.append(Target(name, label, y & who, who))
    for target in sorted(candidates, key=lambda t: (-t.y[is_train].sum(), t.name)):
        with_it, judged = target.y[is_train].sum(), target.who[is_train].sum()
        if len(chosen) == n or with_it < MIN_PATIENTS:
            break
        if judged - with_it < MIN_PATIENTS:
            passed.append(f"{target.label}: left out, only {judged - with_it} train patients are without it")
        else:
            chosen.append(target)
    if not chosen:
        raise UserError(
            f"of {len(candidates)} {kind} none is coded for {MIN_PATIENTS} train patients and missing in as many: "
            f"convert more patients with step 1"
        )
    if len(chosen) < n:
        few = f"no other has {MIN_PATIENTS} train patients with it and {MIN_PATIENTS} without"
        passed.append(f"{len(chosen)} targets instead of {n}: {few}")
    return chosen, passed


def _phenotypes(con) -> dict:
    """(name, label, None) -> subject_ids"""
    database.add_phenotypes(con)
    rows = con.execute("""
        SELECT DISTINCT p.phenotype, c.subject_id FROM cohort c JOIN diagnoses_icd d USING (hadm_id)
        JOIN code_phenotype p ON p.icd_code = d.icd_code AND p.icd_version = d.icd_version ORDER BY ALL""").fetchall()
    found = {}
    for name, subject_id in rows:
        found.setdefault((name, clinical.load().phenotypes[name]["name"], None), []).append(subject_id)
    return found


def _codes(con) -> dict:
    """("ICD-9 4019", label, 9) -> subject_ids"""
    rows = con.execute("""
        SELECT DISTINCT d.icd_version, d.icd_code, coalesce(d.long_title, ''), c.subject_id
        FROM cohort c JOIN diagnoses_icd_labeled d ON d.hadm_id = c.hadm_id AND d.icd_version = c.icd_version
        WHERE d.icd_code IS NOT NULL ORDER BY ALL""").fetchall()
    found = {}
    for version, code, title, subject_id in rows:
        name = f"ICD-{version} {code}"
        found.setdefault((name, f"{name} {title}".strip(), version), []).append(subject_id)
    return found
