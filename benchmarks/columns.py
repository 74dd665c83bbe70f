"""Step 3 on planted truth: how many columns of noise are found free to go, how many that matter are thrown away.

    python benchmarks/columns.py --repeats 3

A made-up hospital of 3,000 patients whose five diseases follow from known columns: numbers, categories, one column of a
table of many rows, twins of two of them, one weak effect on one disease. Beside them stand 28 columns of noise, with 2
to 800 values. All methods judge the same features (Boruta needs `pip install Boruta`; without it that line is left
out). The lists of those without a limit of their own hold as many columns as noise has, unknown to a user.
"""

import argparse
import gzip
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from mimic_qlora.features import boosting, cohort, selection
from mimic_qlora.features import matrix as features
from mimic_qlora.features import permutation as importance
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


def hospital(folder: Path, n: int, seed: int) -> tuple:
    """Write the tables. Returns (columns that matter, twins of such, columns of noise)."""
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
    return tuple(
        {c for c in planted if c.partition(".")[2].startswith(kind)}
        for kind in ("sig_", "twin_", "noise_")
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patients", type=int, default=3000)
    parser.add_argument(
        "--repeats", type=int, default=1, help="hospitals, each with a seed of its own"
    )
    parser.add_argument(
        "--first",
        type=int,
        default=3,
        help="seed of the first (0 to 2 were used to build the step)",
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    args = parser.parse_args()
    print(
        "| hospital | method | on its list | noise on it | columns that matter on it | both twins on it | CPU s |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for seed in range(args.first, args.first + args.repeats):
        with tempfile.TemporaryDirectory() as work:
            work = Path(work)
            matter, twins, noise = hospital(work / "mimic", args.patients, seed)
            command = [sys.executable, ROOT / "convert_to_jsonl.py", "--mimic-dir", work / "mimic"]
            subprocess.run(
                [*command, "--storage", work / "storage"], check=True, capture_output=True
            )
            con = database.connect(work / "storage", work)
            people = cohort.gather(con, 24)
            chosen, _ = cohort.choose(con, people, "phenotypes", len(DISEASES))
            con.close()
            built = features.build(work / "storage", people, work)
            assert len(chosen) == len(DISEASES) and noise <= {
                f.column for f in built.features
            } | set(built.silent)
            for name in args.methods:
                began = time.process_time()
                found = METHODS[name](built, people, chosen, len(noise))
                if found is None:
                    continue
                lost = sum({c, c.replace(".twin_", ".sig_")} <= found for c in twins)
                lonely = {c for c in found & matter if c.replace(".sig_", ".twin_") not in twins}
                cells = [
                    seed,
                    name,
                    len(found),
                    f"{len(found & noise)} of {len(noise)}",
                    ", ".join(sorted(lonely)) or 0,
                ]
                print(
                    "|",
                    " | ".join(map(str, [*cells, lost, round(time.process_time() - began)])),
                    "|",
                    flush=True,
                )


def ours(built, people, chosen, n: int) -> set:
    found = selection.select(built, people, chosen, 5, 0.01, "cpu")
    return {row["column"] for row in found.lists["least"]}


def lowest(score: dict, n: int) -> set:
    return set(sorted(score, key=lambda column: (score[column], column))[:n])


def parts(people) -> list:
    return [(people.split == name).to_numpy() for name in ("train", "validation")]


def gain(built, people, chosen, n: int) -> set:
    """The first version of this pipeline: 400 deep trees, one seed; a column that no tree used has no entry."""
    import xgboost

    total, train = {}, parts(people)[0]
    for target in chosen:
        model = xgboost.XGBClassifier(
            n_estimators=400, max_depth=8, learning_rate=0.06, tree_method="hist", n_jobs=1
        )
        model.fit(built.matrix[train], target.y[train])
        for name, value in model.get_booster().get_score(importance_type="gain").items():
            column = built.features[int(name[1:])].column
            total[column] = total.get(column, 0) + value / len(chosen)
    return lowest({c: v for c, v in total.items() if not c.endswith(".*")}, n)


def models(built, people, chosen):
    train, validation = parts(people)
    binned = boosting.bins(built.matrix, train, validation)
    return [
        (target, boosting.fit(binned, target, train, validation, 0, "cpu")) for target in chosen
    ]


def permutation(built, people, chosen, n: int) -> set:
    """The mean drop of five permutations on the validation patients, one seed, no null: what is not above 0 goes."""
    own = importance.units(built, people)
    validation, total = parts(people)[1], np.zeros(len(own.columns))
    matrix, anyone = built.matrix[validation], np.zeros((len(own.rows), validation.sum()))
    own = own._replace(features=own.features[: len(own.columns)])
    for target, booster in models(built, people, chosen):
        used = boosting.gains(booster, matrix.shape[1])
        total += importance.permutation_drops(
            booster, used, own, anyone, matrix, target.y[validation], 0
        )[0]
    return {
        c for c, drop in zip(own.columns, total, strict=True) if drop <= 0 and not c.endswith(".*")
    }


def shap(built, people, chosen, n: int) -> set:
    """Mean absolute SHAP values (xgboost's own TreeSHAP) on the train patients, summed to columns."""
    import xgboost

    train, total = (
        parts(people)[0],
        {f.column: 0.0 for f in built.features if not f.column.endswith(".*")},
    )
    for _, booster in models(built, people, chosen):
        values = np.abs(
            booster.predict(xgboost.DMatrix(built.matrix[train]), pred_contribs=True)
        ).mean(axis=0)
        for feature, value in zip(built.features, values[:-1], strict=True):
            if feature.column in total:
                total[feature.column] += float(value)
    return lowest(total, n)


def boruta(built, people, chosen, n: int) -> set | None:
    """boruta_py with a random forest, per target; a column goes when all its features are rejected for all targets."""
    try:
        from boruta import BorutaPy
    except ImportError:
        return None
    from sklearn.ensemble import RandomForestClassifier

    train, kept = parts(people)[0], np.zeros(len(built.features), bool)
    for target in chosen:
        forest = RandomForestClassifier(
            n_jobs=1, max_depth=5, class_weight="balanced", random_state=0
        )
        found = BorutaPy(forest, n_estimators="auto", max_iter=50, random_state=0)
        found.fit(built.matrix[train], target.y[train])
        kept |= found.support_ | found.support_weak_
    stay = {f.column for f, keep in zip(built.features, kept, strict=True) if keep}
    return (
        {f.column for f in built.features}
        - stay
        - {c for c in {f.column for f in built.features} if c.endswith(".*")}
    )


METHODS = {
    "step 3": ours,
    "gain alone, zeros left out": gain,
    "permutation alone": permutation,
    "SHAP alone": shap,
    "Boruta": boruta,
}

if __name__ == "__main__":
    main()
