"""Step 3 on small made-up tables whose signal, noise and times are known."""

import csv
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from helpers.paths import ROOT
from helpers.storage_folders import written_otherwise
from mimic_qlora.chart import columns
from mimic_qlora.features import (
    ablation,
    auroc,
    boosting,
    clusters,
    cohort,
    column_roles,
    leakage,
    permutation,
    skill,
    verdicts,
)
from mimic_qlora.features import matrix as features
from mimic_qlora.mimic import tables
from mimic_qlora.step import errors, files, storage
from mimic_qlora.subjects import database, patients

START = datetime(2150, 1, 1, 8)
N = 240


def hours(n: float) -> datetime:
    return START + timedelta(hours=n)


def hospital(seed: int = 0) -> dict:
    """240 patients, 200 with a coded stay: a high glucose goes with diabetes, an odd priority with nothing."""
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
    made = {name: [] for name in names}
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


def keep(folder: Path, made: dict) -> Path:
    """The tables as step 1 would leave them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "id": pa.int64(),
        "int": pa.int64(),
        "num": pa.float64(),
        "time": pa.timestamp("us"),
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
    manifest = storage.new_manifest("subjects", {}, {"content": files.digest(made)})
    manifest["source"] = {
        "kind": "mimic",
        "version": "a test",
        "folder": "/nowhere",
        "patients": len(split),
    }
    manifest["columns"] = {name: types for name, types in columns.items() if "labeled" not in name}
    files.write_json(subjects / "manifest.json", manifest)
    return folder


def built(folder: Path, made: dict):
    """(cohort, features) of the tables."""
    store = keep(folder, made)
    con = database.connect(store, folder / "cohort")
    people = cohort.gather(con, 24)
    con.close()
    return people, features.build(store, people, folder)


def changed(made: dict, table: str, when, **cells) -> dict:
    return {**made, table: [{**row, **cells} if when(row) else row for row in made[table]]}


def same(one, other) -> bool:
    return one.features == other.features and np.array_equal(one.matrix, other.matrix)


def step3(folder: Path, *arguments) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    command = [
        sys.executable,
        str(ROOT / "feature_select_xgb_columns.py"),
        "--storage",
        str(folder),
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def lines(path: Path) -> dict:
    with open(path, newline="") as file:
        return {row["column"]: row for row in csv.DictReader(file)}


# ---- features ----


def test_what_was_not_known_at_the_landmark_makes_no_feature(tmp_path):
    made = hospital()
    _, before = built(tmp_path / "a", made)
    late = {
        "subject_id": 5,
        "charttime": hours(23),
        "storetime": hours(25),
        "itemid": 50931,
        "valuenum": 9999.0,
        "priority": "STAT",
    }
    unstored = {**late, "charttime": hours(1), "storetime": None}
    later = {**made, "labevents": [*made["labevents"], late, unstored]}
    later = changed(later, "prescriptions", lambda row: True, stoptime=hours(400))
    entered = {
        **made["prescriptions"][0],
        "pharmacy_id": 9999,
        "starttime": hours(20),
        "drug": "Insulin Glargine",
    }
    later["prescriptions"] = [*later["prescriptions"], *[entered] * 9]
    later["pharmacy"] = [
        *later["pharmacy"],
        {"subject_id": 1, "pharmacy_id": 9999, "entertime": hours(25)},
    ]
    later = changed(
        later, "admissions", lambda row: True, discharge_location="DIED", hospital_expire_flag=1
    )
    _, after = built(tmp_path / "b", later)
    assert same(before, after)
    _, seen = built(
        tmp_path / "c",
        {**made, "labevents": [*made["labevents"], {**late, "storetime": hours(24)}]},
    )
    assert not same(before, seen)


def test_what_is_chosen_is_chosen_on_train_patients(tmp_path):
    made = hospital()
    split = patients.assign([row["subject_id"] for row in made["patients"]], 42)
    people, before = built(tmp_path / "a", made)
    other = changed(
        made,
        "prescriptions",
        lambda row: split[row["subject_id"]] != "train",
        drug="Unheard of",
        dose_val_rx="x",
    )
    _, after = built(tmp_path / "b", other)
    is_train = (people.split == "train").to_numpy()
    assert before.features == after.features
    assert np.array_equal(before.matrix[is_train], after.matrix[is_train])


def test_numbers_are_aggregated_per_item(tmp_path):
    made = hospital()
    people, result = built(tmp_path, made)
    place = {f: i for i, f in enumerate(result.features)}
    row = people.subject_id.tolist().index(7)
    values = [
        r["valuenum"] for r in made["labevents"] if r["subject_id"] == 7 and r["itemid"] == 50931
    ]
    for statistic, expected in {
        "mean": np.mean(values),
        "std": np.std(values, ddof=1),
        "last": values[-1],
        "max": max(values),
    }.items():
        found = result.matrix[
            row, place[features.Feature("labevents.valuenum", "50931", statistic)]
        ]
        assert found == pytest.approx(expected, rel=1e-5)


def test_texts_that_are_numbers_are_numbers_and_codes_are_not(tmp_path):
    people, result = built(tmp_path, hospital())
    doses = {f.statistic for f in result.features if f.column == "prescriptions.dose_val_rx"}
    assert "mean" in doses and "share" not in doses
    values = {
        v
        for i, f in enumerate(result.features)
        if f.column == "prescriptions.dose_val_rx"
        for v in result.matrix[:, i]
    }
    assert 500_000 in values
    assert result.silent["prescriptions.ndc"] == features.ALIKE  # "00045" stays a code


def test_what_cautions_and_chart_questions_read_is_protected_or_never_a_feature():
    for table, cited in columns.CITED.items():
        for column in cited:
            name, kind = f"{table}.{column}", tables.schema()[table].columns[column]
            kept = column_roles.reason_for("protected", name) or column_roles.reason_for(
                "excluded", name
            )
            assert kept or kind == "time", name


def test_a_column_of_countless_values_makes_no_feature_and_says_so(tmp_path):
    made = hospital()
    for n, row in enumerate(made["labevents"]):
        row["order_provider_id"] = f"P{n}"
    _, result = built(tmp_path, made)
    assert result.silent["labevents.order_provider_id"] == features.COUNTLESS
    assert result.silent["labevents.comments"] == features.EMPTY
    _, without = built(tmp_path / "without", hospital())
    values = {feature: result.matrix[:, n] for n, feature in enumerate(result.features)}
    for n, feature in enumerate(without.features):
        if feature.column != "labevents.order_provider_id":  # it touches no other feature
            np.testing.assert_array_equal(without.matrix[:, n], values[feature], str(feature))


def test_every_column_is_a_feature_or_has_a_reason(tmp_path):
    _, result = built(tmp_path, hospital())
    heard = {f.column for f in result.features}
    for table in ("patients", "admissions", "labevents", "prescriptions", "emar"):
        for column in tables.schema()[table].columns:
            name = f"{table}.{column}"
            assert (name in heard) + (name in result.silent) + (name in result.excluded) == 1, name
    for name in (
        "admissions.hadm_id",
        "admissions.hospital_expire_flag",
        "patients.anchor_year_group",
        "emar.medication",
    ):
        assert result.excluded[name]


def test_absent_rows_speak_through_their_number_alone(tmp_path):
    """A column of noise in a drug's orders must not tell that the drug was ordered."""
    people, result = built(tmp_path, hospital())
    for i, feature in enumerate(result.features):
        if feature.item == "Lisinopril" and feature.column == "prescriptions.dose_val_rx":
            ordered = (
                result.matrix[
                    :,
                    result.features.index(
                        features.Feature("prescriptions.drug", "Lisinopril", "rows")
                    ),
                ]
                > 0
            )
            train = (people.split == "train").to_numpy()
            fill = np.unique(result.matrix[~ordered, i])
            assert len(fill) == 1 and fill[0] == pytest.approx(
                np.median(result.matrix[ordered & train, i])
            )


# ---- targets ----


def test_a_code_is_judged_over_stays_of_its_own_version(tmp_path):
    store = keep(tmp_path, hospital())
    con = database.connect(store, tmp_path)
    people = cohort.gather(con, 24)
    chosen, _ = cohort.choose(con, people, "codes", 3)
    by_name = {t.name: t for t in chosen}
    target = by_name["ICD-9 4019"]
    assert (people.icd_version.to_numpy()[target.who] == 9).all() and not target.y[
        ~target.who
    ].any()


def test_patients_without_a_coded_stay_are_left_out_and_everybodys_disease_is_passed_over(tmp_path):
    made = hospital()
    sick = [
        {**row, "icd_code": "4019", "icd_version": 9}
        for row in made["diagnoses_icd"]
        if row["seq_num"] == 1
    ]
    store = keep(
        tmp_path,
        {
            **made,
            "diagnoses_icd": [
                r for r in made["diagnoses_icd"] if r["icd_code"] not in ("I10", "4019")
            ]
            + sick,
        },
    )
    con = database.connect(store, tmp_path)
    people = cohort.gather(con, 24)
    chosen, passed = cohort.choose(con, people, "phenotypes", 20)
    assert len(people) == 200 and [t.name for t in chosen] == ["diabetes"]
    assert (
        "only 0 train patients are without it" in passed[0]
        and "1 targets instead of 20" in passed[1]
    )


# ---- importance ----


def test_auroc_and_average_precision_are_the_known_ones():
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(0)
    y, scores = rng.random(50) < 0.4, np.round(rng.random(50), 1)
    weights = rng.multinomial(50, np.full(50, 1 / 50), size=3)
    assert auroc.auroc(y, scores) == pytest.approx(roc_auc_score(y, scores))
    areas, precisions = (m(y, scores, weights) for m in (auroc.auroc, auroc.average_precision))
    for line, area, precision in zip(weights, areas, precisions, strict=True):
        again = np.repeat(np.arange(50), line)
        assert area == pytest.approx(roc_auc_score(y[again], scores[again]))
        assert precision == pytest.approx(average_precision_score(y[again], scores[again]))
    assert np.isnan(auroc.auroc(np.zeros(5, bool), np.arange(5.0)))


def units_of(groups: list, rows: list, counted: list) -> permutation.Units:
    """Columns by number of feature; counts of rows, and which of them each feature is taken from."""
    groups = np.array(groups)
    one = [np.flatnonzero(groups == c) for c in range(groups.max() + 1)]
    shadows = [own + len(groups) for own in one]
    counted = np.array(counted * 2)
    return permutation.Units(
        ["t.c"] * len(one), groups, np.arange(len(one)), one + shadows, {}, np.array(rows), counted
    )


def test_shadows_keep_together_what_is_taken_from_the_same_rows():
    rng = np.random.default_rng(0)
    matrix = np.arange(40).repeat(3).reshape(40, 3).astype(float)
    parts = [np.arange(40) < 20, np.arange(40) >= 20]
    copy = permutation.shadows(
        matrix, units_of([0, 1, 2], [np.ones(40), np.ones(40)], [0, 0, 1]), parts, rng
    )
    assert (copy[:, 0] == copy[:, 1]).all() and not (copy[:, 0] == copy[:, 2]).all()
    assert sorted(copy[:20, 2]) == list(range(20))  # nobody's value crosses into another part


def test_patients_swap_values_with_those_of_like_numbers_of_rows():
    rows = np.arange(100.0)
    places = permutation.permuted(rows, np.random.default_rng(0))
    assert sorted(places) == list(range(100)) and abs(rows[places] - rows).max() < 11
    assert (places != np.arange(100)).any()
    few = np.array(
        [0] * 90 + [1] * 5 + [2] * 5
    )  # an item that few patients have: they swap among themselves
    assert (few[permutation.permuted(few, np.random.default_rng(0))] == few).all()


def test_noise_that_only_tells_whether_there_were_rows_of_an_item_is_no_better_than_its_shadow():
    """An item's value is the median for those without its rows: by itself it tells who had any."""
    rng = np.random.default_rng(0)
    has = rng.random(800) < 0.3
    noise = np.where(has, rng.normal(size=800), 0)
    y = rng.random(800) < np.where(has, 0.9, 0.1)
    matrix = np.column_stack([noise, rng.permutation(noise)])
    target = cohort.Target("t", "t", y, np.ones(800, bool))
    everybody = np.ones(800, bool)
    booster = boosting.fit(
        boosting.bins(matrix, everybody, ~everybody), target, everybody, ~everybody, 0, "cpu"
    )
    gain = boosting.gains(booster, 2)
    drops = [
        permutation.permutation_drops(booster, gain, own, own.rows, matrix, y, 0)[0][0]
        for own in (units_of([0], [rows], [0]) for rows in (has.astype(float), np.zeros(800)))
    ]
    assert drops[0] < 0.05 < 0.3 < drops[1]  # among those with rows; among all


def test_a_column_counts_as_important_only_if_it_stays_above_the_null_when_patients_are_drawn_again():
    own = units_of([0, 1], [np.zeros(50)], [0, 0])
    drops = np.array(
        [[[0.05, 0.02, 0.0, 0.01]]] * 2
    )  # targets x turns x units: two columns, their two shadows
    steady, shaky = np.full(50, 0.0001), np.random.default_rng(0).normal(0, 0.02, 50)
    moves = [np.array([steady, shaky - shaky.mean(), steady * 0, steady * 0])]
    found = permutation.Explored(
        drops, moves, np.array([[1e-6, 1e-2, 0, 0]] * 2), np.ones((2, 1, 2))
    )
    judged = permutation.judge(found, own)
    assert (
        judged.selected[0] == 1
        and judged.selected[1] < 0.75
        and judged.high[1] > 0.2 > judged.high[0]
    )
    assert judged.above.tolist() == [True, judged.selected[1] >= permutation.SELECTED]
    certain = permutation.judge(found._replace(variance=np.full((2, 4), 1e-6)), own)
    assert certain.above.all()  # above all shadows in one target, and surely above 0


def test_each_patient_is_held_out_once_and_test_patients_never(tmp_path):
    people, _ = built(tmp_path, hospital())
    is_test = (people.split == "test").to_numpy()
    turns = boosting.turns(people, boosting.folds(people, 3))
    times = sum(held.astype(int) for _, _, held in turns)
    assert (times[is_test] == 0).all() and (times[~is_test] == 1).all()
    for fitted, stops, held in turns:  # nobody is two of these
        assert (
            fitted.astype(int) + stops + held + is_test == 1
        ).all() and 0 < stops.sum() < fitted.sum() / 4
    ((fitted, stops, held),) = boosting.turns(people, boosting.folds(people, 1))
    assert (held == (people.split == "validation")).all() and (
        fitted | stops == (people.split == "train")
    ).all()


def test_what_cannot_be_predicted_is_not_predicted_on_patients_held_out():
    """A model that stops on the patients whom it is judged by finds something in noise."""
    rng, areas = np.random.default_rng(0), []
    for _ in range(8):
        built, people, (target,) = made_up(200)
        built = built._replace(matrix=rng.normal(size=(200, 60)).astype(np.float32))
        fold = boosting.folds(people, 2)
        (scores,) = boosting.out_of_fold(built.matrix, people, [target], fold, "cpu", "all")
        areas.append(auroc.within_folds(target.y, scores, skill.folds_of(target, scores, fold))[0])
    assert abs(np.mean(areas) - 0.5) < 0.04


def test_patients_move_an_auroc_as_drawing_them_again_does():
    rng = np.random.default_rng(0)
    y, scores = rng.random(300) < 0.4, np.round(rng.normal(size=300), 1)
    scores += y
    area, moves = auroc.influence(y, scores)
    assert area == pytest.approx(auroc.auroc(y, scores)) and abs(moves.sum()) < 1e-9
    drawn = auroc.auroc(y, scores, auroc.bootstrap_weights(300, 0))
    assert np.sqrt((moves**2).sum()) == pytest.approx(drawn.std(), rel=0.1)
    low, high = auroc.bounds(area, moves)
    assert np.quantile(drawn, (0.025, 0.975)) == pytest.approx((low, high), abs=0.01)


def test_calibration_tells_bold_models_from_timid_ones():
    rng = np.random.default_rng(0)
    logit = rng.normal(size=5000)
    y = rng.random(5000) < 1 / (1 + np.exp(-logit))
    slopes = [
        auroc.calibration(y, 1 / (1 + np.exp(-bold * logit)))["slope"] for bold in (0.5, 1, 2)
    ]
    assert slopes == pytest.approx([2, 1, 0.5], rel=0.1)
    apart = auroc.calibration(np.array([False, True]), np.array([0.2, 0.7]))
    assert apart["slope"] is None and apart["brier"] == pytest.approx((0.04 + 0.09) / 2)


# ---- clusters, proof, giveaways ----


def test_twins_are_one_cluster_and_strangers_are_not():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 400))
    twin = np.exp(a) + rng.normal(0, 0.05, 400)  # another scale
    matrix = np.column_stack([a, b, twin, rng.normal(size=400), a])
    groups = np.array(
        [0, 1, 2, 3, 3]
    )  # the last column echoes a in one of its two features: no twin
    assert clusters.cluster(matrix, groups, np.zeros(4, bool)).tolist() == [0, 1, 0, 2]
    assert clusters.cluster(matrix, groups, np.array([True, False, False, False])).tolist() == [
        0,
        1,
        2,
        3,
    ]


def judged(drops: list, above: list) -> permutation.Judged:
    n = len(drops)
    zeros, rest = np.zeros(n), dict.fromkeys(permutation.Judged._fields)
    rest |= dict.fromkeys(("low", "high", "spread", "best", "selected", "gain"), zeros)
    rest |= {"best_target": np.zeros(n, int), "limit": 0.01, "best_limit": 0.1}
    return permutation.Judged(**{**rest, "drop": np.array(drops), "above": np.array(above)})


def test_of_twins_that_matter_together_one_stays():
    names = ["admissions.a", "admissions.b", "patients.gender"]
    own = permutation.Units(names, None, np.zeros(3, int), [], {3: np.array([0, 1, 2])}, None, None)
    two = permutation.Units(
        names[:2], None, np.zeros(2, int), [], {2: np.array([0, 1])}, None, None
    )
    stays = verdicts._representatives(two, judged([0.001, 0.003, 0.05], [False, False, True]))
    assert stays == {0: [1], 1: [1]}
    alone = verdicts._representatives(two, judged([0.001, 0.03, 0.05], [False, True, True]))
    assert alone == {0: [1], 1: [1]}
    safe = verdicts._representatives(
        own, judged([0.001, 0.003, 0.0, 0.05], [False, False, False, True])
    )
    assert safe == {0: [2], 1: [2], 2: [2]}  # the protected one stays anyway
    assert verdicts._representatives(two, judged([0.001, 0.003, 0.005], [False] * 3)) == {}


def made_up(n: int, seed: int = 0) -> tuple:
    """(features, people, targets) of n patients with three columns: x tells the target, y is noise, z is x's twin."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n, 3)).astype(np.float32)
    matrix[:, 2] = matrix[:, 0] + rng.normal(0, 0.05, n)
    y = rng.random(n) < 1 / (1 + np.exp(-2 * matrix[:, 0]))
    named = [features.Feature(f"admissions.{c}", "", "mean") for c in "xyz"]
    split = rng.choice(["train", "validation", "test"], n, p=(0.8, 0.1, 0.1))
    people = pd.DataFrame({"subject_id": np.arange(n), "split": split})
    everybody = np.ones(n, bool)
    return (
        features.Features(matrix, named, {}, {}, {}),
        people,
        [cohort.Target("t", "a target", y, everybody)],
    )


def test_a_refit_lets_noise_go_and_signal_not():
    built, people, chosen = made_up(1500)
    fold = boosting.folds(people, 3)
    scores = boosting.out_of_fold(built.matrix, people, chosen, fold, "cpu", "all")
    every = ["admissions.x", "admissions.z", "admissions.y"]  # the twins first
    tried = ablation.prove(built, people, chosen, scores, every, fold, "cpu", 0.03)
    assert [step.columns for step in tried] == [3, 2] and [step.holds for step in tried] == [
        False,
        True,
    ]
    assert tried[0].high < -0.1 and tried[-1].low > -0.03
    twin = ablation.change(built, people, chosen, scores, {"admissions.z"}, fold, "cpu", 0.03)
    assert twin.holds  # either of the twins may go, not both
    both = ablation.change(
        built, people, chosen, scores, {"admissions.x", "admissions.z"}, fold, "cpu", 0.03
    )
    assert not both.holds and both.targets[0]["high"] < -0.1


def test_a_few_patients_prove_nothing():
    for n, margin in ((150, 0.001), (90, 0.5)):  # too wide an interval; too few patients for any
        built, people, chosen = made_up(n)
        fold = boosting.folds(people, 3)
        scores = boosting.out_of_fold(built.matrix, people, chosen, fold, "cpu", "all")
        tried = ablation.prove(built, people, chosen, scores, ["admissions.y"], fold, "cpu", margin)
        assert not tried[-1].holds
        rows = [{"column": "admissions.y", "verdict": "unproven", "reason": "why"}]
        verdicts.settle(rows, tried)
        assert rows[0]["verdict"] == "unproven" and "cannot rule out a loss" in rows[0]["reason"]


def test_a_column_that_gives_the_target_away_is_told_and_a_known_one_explained():
    built, people, _ = made_up(600)
    rng = np.random.default_rng(1)
    leak = built.matrix[:, 0] > 0
    insulin = features.Feature("prescriptions.drug", "Insulin Glargine", "rows")
    built = built._replace(features=[*built.features[:2], insulin])
    chosen = [
        cohort.Target("diabetes", "diabetes", leak ^ (rng.random(600) < 0.03), np.ones(600, bool))
    ]
    found = leakage.find(built, people, chosen)
    assert [(row["column"], bool(row["plausible"])) for row in found] == [
        ("admissions.x", False),
        ("prescriptions.drug", True),
    ]
    assert "implausibly well" in leakage.sentence(found) and "known reason" in leakage.sentence(
        found[1:]
    )
    assert (
        leakage.find(
            built, people.iloc[:20], [t._replace(y=t.y[:20], who=t.who[:20]) for t in chosen]
        )
        == []
    )


def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert boosting.device("auto") == "cpu"
    with pytest.raises(errors.UserError, match="no GPU to use"):
        boosting.device("cuda")


# ---- the step ----


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = keep(tmp_path_factory.mktemp("step3"), hospital())
    result = step3(folder, "--seeds", 3, "--margin", 0.03)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_planted_signal_is_on_top_and_noise_is_least(done):
    folder, _ = done
    top, least = (lines(folder / "features" / f"columns_{name}.csv") for name in ("top", "least"))
    assert {"labevents.valuenum", "prescriptions.drug"} <= set(top)
    assert {
        "labevents.priority",
        "labevents.order_provider_id",
        "prescriptions.dose_val_rx",
    } <= set(least)
    assert not set(top) & set(least)


def test_the_least_list_has_columns_no_tree_used_and_no_protected_or_excluded_ones(done):
    folder, _ = done
    everything, least = (
        lines(folder / "features" / f"columns_{name}.csv") for name in ("all", "least")
    )
    assert any(row["gain_share"] == "0.0" or not row["gain_share"] for row in least.values())
    assert everything["patients.gender"]["verdict"] == "protected"
    for column in least:
        assert not column_roles.reason_for("protected", column) and not column_roles.reason_for(
            "excluded", column
        )
        assert least[column]["reason"]


def test_a_table_that_few_patients_have_is_not_judged(tmp_path):
    made = hospital()
    few = [row for row in made["prescriptions"] if row["subject_id"] <= 40]
    result = step3(keep(tmp_path, {**made, "prescriptions": few}), "--seeds", 1)
    assert result.returncode == 0, result.stderr
    dose = lines(tmp_path / "features" / "columns_all.csv")["prescriptions.dose_val_rx"]
    assert dose["verdict"] == "unjudged" and "patients have rows of prescriptions" in dose["reason"]


def test_metrics_and_statements_are_told(done):
    folder, shown = done
    metrics = json.loads((folder / "features" / "metrics.json").read_text())
    by_name = {row["target"]: row for row in metrics["targets"]}
    assert by_name["diabetes"]["auroc"] > 0.8 and by_name["diabetes"]["skill"]
    assert "Cohort: 200 of 240 patients have a coded stay" in shown and "carry no result" in shown
    assert "NaN" not in (folder / "features" / "metrics.json").read_text()
    assert max(len(line) for line in shown.splitlines() if "/" not in line) <= 100


def test_the_same_input_gives_the_same_bytes(done):
    folder, _ = done
    first = {
        p.name: p.read_bytes() for p in (folder / "features").iterdir() if p.name != "manifest.json"
    }
    assert step3(folder, "--seeds", 3, "--margin", 0.03, "--force").returncode == 0
    assert first == {
        p.name: p.read_bytes() for p in (folder / "features").iterdir() if p.name != "manifest.json"
    }
    assert "up to date" in step3(folder, "--seeds", 3, "--margin", 0.03).stdout


def test_no_diagnoses_and_no_targets_are_one_sentence(tmp_path):
    made = hospital()
    without = keep(
        tmp_path / "a", {name: rows for name, rows in made.items() if name != "diagnoses_icd"}
    )
    rare = keep(tmp_path / "b", {**made, "diagnoses_icd": made["diagnoses_icd"][:3]})
    for folder, sentence in ((without, "nothing to predict"), (rare, "convert more patients")):
        result = step3(folder)
        assert (
            result.returncode == 2
            and sentence in result.stderr
            and "Traceback" not in result.stderr
        )
        assert not (folder / "features").exists()


def test_a_split_without_patients_is_told_and_nothing_breaks(tmp_path):
    folder = keep(tmp_path, hospital())
    ids = range(1, N + 1)
    written_otherwise(
        folder / "subjects" / "split.csv",
        "subject_id,split\n" + "".join(f"{i},train\n" for i in ids),
    )
    result = step3(folder)
    assert result.returncode == 0, result.stderr
    assert (
        "validation 0, test 0" in result.stdout
        and "2 of 2 targets have no AUROC on the 0 test patients" in result.stdout
    )
