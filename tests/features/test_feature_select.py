"""Step 3 as a command, on tables whose signal and noise are known."""

import json

import pytest

from helpers.feature_tables import N, hospital, keep, lines
from helpers.scripts import run_here, run_script
from helpers.storage_folders import written_otherwise
from mimic_qlora.features import column_roles

OPTIONS = ("--seeds", 3, "--margin", 0.03)


def step3(folder, *options):
    return run_here("feature_select_xgb_columns.py", *options, storage=folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = keep(tmp_path_factory.mktemp("step3"), hospital())
    # in another process than the reruns, whose hashes are others
    result = run_script("feature_select_xgb_columns.py", *OPTIONS, storage=folder)
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
    told = " ".join(shown.split())
    # step 2 counts those whose only coded stay ends before it begins too
    assert "Cohort: 200 of 240 patients have a coded stay that does not end before it" in told
    assert "carry no result" in told and "small counts before any of this leaves" in told
    assert "NaN" not in (folder / "features" / "metrics.json").read_text()
    assert max(len(line) for line in shown.splitlines() if "/" not in line) <= 100


def test_the_same_input_gives_the_same_bytes(done):
    folder, _ = done
    first = {
        p.name: p.read_bytes() for p in (folder / "features").iterdir() if p.name != "manifest.json"
    }
    assert step3(folder, *OPTIONS, "--force").returncode == 0
    assert first == {
        p.name: p.read_bytes() for p in (folder / "features").iterdir() if p.name != "manifest.json"
    }
    assert "up to date" in step3(folder, *OPTIONS).stdout


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
    result = step3(folder, "--seeds", 1)
    assert result.returncode == 0, result.stderr
    assert (
        "validation 0, test 0" in result.stdout
        and "2 of 2 targets have no AUROC on the 0 test patients" in result.stdout
    )
