"""Step 3 on planted truth: noise found free to go, and columns that matter thrown away.

    python benchmarks/columns.py --repeats 3

A made-up hospital of 3,000 patients whose five diseases follow from known columns: numbers,
categories, one column of a table of many rows, near-duplicates of two of them, one weak effect on
one disease. Beside them stand 28 columns of noise, with 2 to 800 values. All methods judge the same
features (Boruta needs `pip install Boruta`; without it that line is left out). Methods without a
limit of their own list as many columns as there is noise, a number that a user does not know.
"""

import argparse
import gzip
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mimic_qlora.features import boosting, cohort, matrix, selection
from mimic_qlora.features import permutation as importance
from mimic_qlora.features.cohort import Target
from mimic_qlora.features.matrix import Features
from mimic_qlora.features.settings import FeatureSettings
from mimic_qlora.mimic import tables
from mimic_qlora.subjects import database

ROOT = Path(__file__).resolve().parent.parent

DISEASES = {
    "I10": "hypertension",
    "E119": "diabetes",
    "E785": "lipids",
    "F329": "depression",
    "K219": "reflux",
}
LEVELS = (2, 3, 5, 10, 20, 50, 100, 800)


class Planted(NamedTuple):
    """The planted columns: those that matter, near-duplicates of such, and noise."""

    matter: set[str]
    twins: set[str]
    noise: set[str]


def hospital(folder: Path, n: int, seed: int) -> Planted:
    """Write the tables of n patients."""
    rng = np.random.default_rng(seed)
    ids = np.arange(10_000_001, 10_000_001 + n)
    num = rng.normal(size=(n, 3))
    cat5, cat20 = rng.integers(0, 5, n), rng.integers(0, 20, n)
    dose = rng.normal(size=n)  # of a patient; each order of theirs is around it
    admissions = {
        "sig_strong": num[:, 0].round(3),
        "sig_middle": num[:, 1].round(3),
        "sig_weak": num[:, 2].round(3),
        "sig_cat5": cat5,
        "sig_cat20": cat20,
        "twin_strong": (2 * num[:, 0] + rng.normal(0, 0.2, n)).round(3),
        "twin_cat5": np.where(rng.random(n) < 0.03, rng.integers(0, 5, n), (cat5 + 3) % 5),
    }
    admissions |= {
        name: [f"c{v}" for v in admissions[name]] for name in ("sig_cat5", "sig_cat20", "twin_cat5")
    }
    admissions |= {f"noise_cat{k}": [f"v{v}" for v in rng.integers(0, k, n)] for k in LEVELS}
    skewed = (rng.zipf(1.5, n) % 500, rng.zipf(1.3, n) % 900)
    admissions |= {f"noise_zipf{i}": [f"z{v}" for v in values] for i, values in enumerate(skewed)}
    admissions |= {
        "noise_normal": rng.normal(size=n).round(3),
        "noise_lognormal": rng.lognormal(size=n).round(3),
        "noise_uniform": rng.random(n).round(4),
        "noise_counts": rng.poisson(3, n),
        "noise_zeros": np.where(rng.random(n) < 0.9, 0, rng.exponential(5, n).round(2)),
        "noise_holes": np.where(rng.random(n) < 0.7, np.nan, rng.normal(size=n).round(3)),
        "noise_ties": rng.integers(0, 4, n),
        "noise_big": rng.integers(0, 10**6, n),
    }
    one = (
        1.6 * num[:, 0],
        0.8 * num[:, 1] + 0.9 * (cat5 == 2),
        1.2 * dose,
        1.1 * (cat20 < 5) + 0.5 * num[:, 0],
    )
    risk = [*one, 0.35 * num[:, 2] + 0.8 * (cat5 > 2)]
    has = [rng.random(n) < 1 / (1 + np.exp(1 - r)) for r in risk]
    stay = {"subject_id": ids, "hadm_id": ids + 10**7, "admittime": "2150-01-01 08:00:00"}
    stay |= {
        "dischtime": "2150-01-06 08:00:00",
        "deathtime": "",
        "admission_type": "URGENT",
        "hospital_expire_flag": 0,
    }
    owner = np.repeat(np.arange(n), rng.integers(1, 8, n))
    m = len(owner)
    minutes = rng.integers(0, 60 * 23, m)
    orders = {
        "subject_id": ids[owner],
        "hadm_id": ids[owner] + 10**7,
        "pharmacy_id": range(m),
        "starttime": [
            f"2150-01-01 {8 + t // 60 - 24 * (8 + t // 60 > 23):02d}:{t % 60:02d}:00"
            for t in minutes % 900
        ],
        "stoptime": "2150-01-05 08:00:00",
        "drug": [f"Drug {v}" for v in rng.integers(0, 8, m)],
        "sig_dose": (dose[owner] + rng.normal(0, 0.7, m)).round(3),
    }
    orders |= {
        f"noise_row_cat{k}": [f"r{v}" for v in rng.integers(0, k, m)] for k in (2, 5, 30, 200, 800)
    }
    orders |= {f"noise_row_num{i}": rng.normal(size=m).round(3) for i in range(3)}
    orders["noise_patient_num"] = rng.normal(size=n)[owner].round(
        3
    )  # noise that is the same in all of one's rows
    orders["noise_patient_cat"] = [f"p{v}" for v in rng.integers(0, 40, n)[owner]]
    entries = {key: orders[key] for key in ("subject_id", "hadm_id", "pharmacy_id", "starttime")}
    entries["entertime"] = orders["starttime"]
    codes = [(i, code) for code, y in zip(DISEASES, has, strict=True) for i in ids[y]] + [
        (i, "Z000") for i in ids
    ]
    diagnoses = pd.DataFrame(codes, columns=["subject_id", "icd_code"]).sort_values(
        ["subject_id", "icd_code"]
    )
    diagnoses = diagnoses.assign(hadm_id=diagnoses.subject_id + 10**7, seq_num=1, icd_version=10)
    people = {
        "subject_id": ids,
        "gender": rng.choice(["F", "M"], n),
        "anchor_age": rng.integers(20, 90, n),
    }
    people |= {"anchor_year": 2150, "anchor_year_group": "2011 - 2013", "dod": ""}
    made = {
        "patients": people,
        "admissions": stay | admissions,
        "prescriptions": orders,
        "pharmacy": entries,
    }
    made["diagnoses_icd"] = diagnoses
    made["d_icd_diagnoses"] = {
        "icd_code": list(DISEASES),
        "icd_version": 10,
        "long_title": list(DISEASES.values()),
    }
    (folder / "hosp").mkdir(parents=True)
    for name, table in made.items():
        with gzip.open(folder / "hosp" / f"{name}.csv.gz", "wt", compresslevel=1) as file:
            known = (
                dict.fromkeys(tables.schema()[name].columns, "") if name in tables.schema() else {}
            )
            pd.DataFrame(known | dict(table)).to_csv(file, index=False)
    planted = [f"admissions.{c}" for c in admissions] + [f"prescriptions.{c}" for c in orders]
    kinds = {
        kind: {c for c in planted if c.partition(".")[2].startswith(kind)}
        for kind in ("sig_", "twin_", "noise_")
    }
    return Planted(kinds["sig_"], kinds["twin_"], kinds["noise_"])


class Task(NamedTuple):
    """What each method judges, and the number of columns that it may list (of noise)."""

    built: Features
    people: pd.DataFrame
    targets: list[Target]
    n_noise: int


def gather(folder: Path, n: int, seed: int) -> tuple[Task, Planted]:
    """Make a hospital, convert it with step 1, and build the features."""
    planted = hospital(folder / "mimic", n, seed)
    command = [sys.executable, ROOT / "convert_to_jsonl.py", "--mimic-dir", folder / "mimic"]
    subprocess.run([*command, "--storage", folder / "storage"], check=True, capture_output=True)
    con = database.connect(folder / "storage", folder)
    people = cohort.gather(con, 24)
    chosen, _ = cohort.choose(con, people, "phenotypes", len(DISEASES))
    con.close()
    built = matrix.build(folder / "storage", people, folder)
    assert len(chosen) == len(DISEASES)
    assert planted.noise <= {f.column for f in built.features} | set(built.silent)
    return Task(built, people, chosen, len(planted.noise)), planted


def line(seed: int, name: str, found: set[str], planted: Planted, seconds: float) -> str:
    """Return the row of the table for one method."""
    matter, twins, noise = planted
    both = sum({c, c.replace(".twin_", ".sig_")} <= found for c in twins)
    lonely = {c for c in found & matter if c.replace(".sig_", ".twin_") not in twins}
    on_list = f"{len(found & noise)} of {len(noise)}"
    lost = ", ".join(sorted(lonely)) or 0
    cells = [seed, name, len(found), on_list, lost, both, round(seconds)]
    return f"| {' | '.join(map(str, cells))} |"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--patients", type=int, default=3000)
    add("--repeats", type=int, default=1, help="hospitals, each with a seed of its own")
    first = "seed of the first (0 to 2 were used to build the step)"
    add("--first", type=int, default=3, help=first)
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    args = parser.parse_args()
    print(
        "| hospital | method | on its list | noise on it | columns that matter on it "
        "| both twins on it | CPU s |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for seed in range(args.first, args.first + args.repeats):
        with tempfile.TemporaryDirectory() as work:
            task, planted = gather(Path(work), args.patients, seed)
            for name in args.methods:
                began = time.process_time()
                found = METHODS[name](task)
                if found is not None:
                    seconds = time.process_time() - began
                    print(line(seed, name, found, planted, seconds), flush=True)


def ours(task: Task) -> set[str]:
    """Step 3 with its defaults."""
    found = selection.select(task.built, task.people, task.targets, FeatureSettings(), "cpu")
    return {row.column for row in found.with_verdict("least")}


def lowest(score: dict[str, float], n: int) -> set[str]:
    return set(sorted(score, key=lambda column: (score[column], column))[:n])


def gain(task: Task) -> set[str]:
    """The first version of this pipeline: 400 deep trees, one seed.

    A column that no tree used has no entry.
    """
    import xgboost

    total: dict[str, float] = {}
    train = matrix.in_split(task.people, "train")
    for target in task.targets:
        model = xgboost.XGBClassifier(
            n_estimators=400, max_depth=8, learning_rate=0.06, tree_method="hist", n_jobs=1
        )
        model.fit(task.built.matrix[train], target.y[train])
        for name, value in model.get_booster().get_score(importance_type="gain").items():
            column = task.built.features[int(name[1:])].column
            total[column] = total.get(column, 0) + value / len(task.targets)
    return lowest({c: v for c, v in total.items() if not c.endswith(".*")}, task.n_noise)


def models(task: Task):
    """Yield each target with its model, fitted on train and stopped on validation."""
    train, validation = (
        matrix.in_split(task.people, "train"),
        matrix.in_split(task.people, "validation"),
    )
    binned = boosting.bins(task.built.matrix, train, validation)
    for target in task.targets:
        yield target, boosting.fit(binned, target, train, validation, 0, "cpu")


def permutation(task: Task) -> set[str]:
    """The mean drop of five permutations on the validation patients, one seed, no null.

    Columns whose drop is not above 0 go.
    """
    own = importance.units(task.built, task.people)
    validation, total = matrix.in_split(task.people, "validation"), np.zeros(len(own.columns))
    values = task.built.matrix[validation]
    nobody = np.zeros((len(own.rows), len(values)))
    own = own._replace(features=own.features[: len(own.columns)])
    for target, booster in models(task):
        used = boosting.gains(booster, values.shape[1])
        sample = importance.Sample(values, nobody, target.y[validation])
        total += importance.permutation_drops(booster, used, own, sample, 0).drops
    drops = zip(own.columns, total, strict=True)
    return {c for c, drop in drops if drop <= 0 and not c.endswith(".*")}


def shap(task: Task) -> set[str]:
    """Mean absolute SHAP values (xgboost's own TreeSHAP) on the train patients, summed."""
    import xgboost

    values = task.built.matrix[matrix.in_split(task.people, "train")]
    total = {f.column: 0.0 for f in task.built.features if not f.column.endswith(".*")}
    for _, booster in models(task):
        contributions = booster.predict(xgboost.DMatrix(values), pred_contribs=True)
        means = np.abs(contributions).mean(axis=0)[:-1]
        for feature, value in zip(task.built.features, means, strict=True):
            if feature.column in total:
                total[feature.column] += float(value)
    return lowest(total, task.n_noise)


def boruta(task: Task) -> set[str] | None:
    """boruta_py with a random forest, per target.

    A column goes when all its features are rejected for all targets.
    """
    try:
        from boruta import BorutaPy
    except ImportError:
        return None
    from sklearn.ensemble import RandomForestClassifier

    built, train = task.built, matrix.in_split(task.people, "train")
    kept = np.zeros(len(built.features), bool)
    for target in task.targets:
        forest = RandomForestClassifier(
            n_jobs=1, max_depth=5, class_weight="balanced", random_state=0
        )
        found = BorutaPy(forest, n_estimators="auto", max_iter=50, random_state=0)
        found.fit(built.matrix[train], target.y[train])
        kept |= found.support_ | found.support_weak_
    stay = {f.column for f, keep in zip(built.features, kept, strict=True) if keep}
    return {f.column for f in built.features if not f.column.endswith(".*")} - stay


METHODS = {
    "step 3": ours,
    "gain alone, zeros left out": gain,
    "permutation alone": permutation,
    "SHAP alone": shap,
    "Boruta": boruta,
}

if __name__ == "__main__":
    main()
