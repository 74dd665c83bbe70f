"""Who step 3 studies: the patients with a coded stay, and when what is known of them counts."""

from typing import NamedTuple

from mimic_qlora.clinical import content
from mimic_qlora.features.matrix import MIN_PATIENTS
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import database


def gather(con, hours: float):
    """The patients with a coded stay, as a table `cohort` of `con` and as a data frame in the order of subject_id.

    The index stay is the first coded one: what was coded earlier would give a chronic disease away, and one stay per
    patient keeps patients from counting twice. `as_of` is the landmark: `hours` after admission, or just before
    discharge where that came first. Raises UserError when there is no coded stay.
    """
    if "diagnoses_icd" not in database.names(con):
        raise UserError("the data has no diagnoses_icd: there is nothing to predict")
    con.execute(f"""
        CREATE TABLE cohort AS
        WITH coded AS (SELECT hadm_id, max(icd_version) AS icd_version FROM diagnoses_icd GROUP BY hadm_id),
             stays AS (SELECT a.*, c.icd_version,
                              row_number() OVER (PARTITION BY subject_id ORDER BY admittime, hadm_id) AS place
                       FROM admissions a JOIN coded c USING (hadm_id) WHERE a.admittime IS NOT NULL)
        SELECT subject_id, hadm_id, icd_version, split, admittime,
               least(admittime + INTERVAL 1 SECOND * {hours * 3600:.0f}, dischtime - INTERVAL 1 SECOND) AS as_of
        FROM stays JOIN split USING (subject_id) WHERE place = 1 ORDER BY subject_id""")
    people = con.execute("SELECT * FROM cohort ORDER BY subject_id").df()
    if people.empty:
        raise UserError("no patient has a stay with coded diagnoses: there is nothing to predict")
    return people


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
            passed.append(
                f"{target.label}: left out, only {judged - with_it} train patients are without it"
            )
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
        found.setdefault((name, content.load().phenotypes[name]["name"], None), []).append(
            subject_id
        )
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
