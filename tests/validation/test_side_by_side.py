"""Several adapters in one run of step 7: seeds are pooled, recipes stand side by side."""

import json
import shutil

import pytest

from helpers.step7 import read_csv, results, write_plan
from helpers.storage_folders import write_bare_manifest
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import arms, side_by_side

RUNS = "default,seed.1,seed.2"


def trained_otherwise(store, run: str, **settings) -> None:
    """Say in an adapter's manifest that it was trained with other settings."""
    path = store / "adapters" / run / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"settings": settings}))


def test_seeds_of_one_recipe_are_pooled_and_shown_beside_each_other(run_validate):
    code, out, err = run_validate("6", "--no-knowledge", "--run", RUNS)
    said = " ".join(out.split())
    assert code == 0, err
    assert "figures are means over 3 trained adapters" in said
    assert f"Runs side by side ({RUNS.replace(',', ', ')}: seeds of one recipe)" in said
    rows = read_csv(results(out) / "runs.csv")
    pairs = {(row["run"], row["against"]) for row in rows}
    assert pairs == {
        *((run, "base") for run in RUNS.split(",")),
        *(("seed.1", "default"), ("seed.2", "default")),
    }
    # all adapters give the same answers here
    assert {row["mean"] for row in rows if row["against"] == "default"} == {"0.0"}
    assert len(read_csv(results(out) / "label_draw.csv")) == 4 * 6  # base and three adapters
    assert "Runs side by side" in (results(out) / "report.html").read_text(encoding="utf-8")


def test_recipes_are_not_pooled_and_never_reach_the_test_patients(run_validate):
    store = run_validate.store
    plan = write_plan(store, n=5)
    assert run_validate("--freeze", plan)[0] == 0
    trained_otherwise(store, "seed.1", lr=0.1, seed=1)
    code, out, err = run_validate("6", "--no-knowledge", "--run", "default,seed.1")
    said = " ".join(out.split())
    assert code == 0, err
    assert "The adapter is default alone: the runs differ in lr" in said
    assert len(read_csv(results(out) / "label_draw.csv")) == 2 * 6  # base and the first
    assert "only the one that a frozen plan names goes to the test patients" in said
    code, _, err = run_validate("--final", "--no-knowledge")
    assert code == 2 and "differ in lr" in err and not (store / "lm_eval_test").exists()
    assert "differ in lr" in run_validate("--freeze", plan)[2]


def test_adapters_of_other_numbers_of_processes_are_of_other_recipes(tuned_store, tmp_path):
    """Each process takes rows of its own to a step, so that four have a quarter of the steps."""
    store = shutil.copytree(tuned_store.path, tmp_path / "storage")
    path = store / "adapters" / "seed.1" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processes": 4}))
    assert side_by_side.differ_in(store, ["default", "seed.1"]) == ["processes"]
    assert not side_by_side.differ_in(store, ["default", "seed.2"])


def test_one_run_is_shown_as_before(run_validate):
    _, out, _ = run_validate("3", "--no-knowledge")
    assert "side by side" not in out and not (results(out) / "runs.csv").exists()


def test_all_comparisons_are_corrected_together():
    """Twelve questions; one run is better than the base at all of them, the other at none."""
    chosen = arms.chosen("base,adapter", ["first", "other"])
    rows = [
        {
            "question_id": i,
            "subject_id": i,
            "rubric_base": 0.1 * (i % 3),
            "rubric_qlora": 0.1 * (i % 3),
            "rubric_qlora@other": 0.5 + 0.1 * (i % 2),
        }
        for i in range(12)
    ]
    found = side_by_side.compare(rows, ["first", "other"], chosen, ["rubric"])
    told = {(one.run, one.against): one for one in found}
    better = told["other", "base"]
    assert better.difference.mean == pytest.approx(0.45)
    assert better.p == pytest.approx(3 * better.difference.p)  # of three
    assert told["first", "base"].difference.mean == 0
    assert told["other", "first"].difference.adapter == pytest.approx(0.55)


def test_what_differs_is_named_and_a_seed_is_no_recipe(tmp_path):
    for run, settings in {"a": {"lr": 1, "seed": 1}, "b": {"lr": 1}, "c": {"lr": 2}}.items():
        folder = tmp_path / "adapters" / run
        folder.mkdir(parents=True)
        write_bare_manifest(folder, f"adapters/{run}", settings, {"prompts": "p"})
    assert side_by_side.differ_in(tmp_path, ["a", "b"]) == []
    assert side_by_side.differ_in(tmp_path, ["a", "c", "gone"]) == ["lr"]
    with pytest.raises(UserError, match="differ in lr"):
        side_by_side.check_one_recipe(tmp_path, ["b", "c"])


def test_an_adapter_trained_once_more_with_one_seed_is_no_second_training_seed(run_validate):
    """On a GPU its weights are others."""
    trained_otherwise(run_validate.store, "seed.1", seed=1)
    trained_otherwise(run_validate.store, "seed.2", seed=1)
    code, _, err = run_validate("3", "--run", "default,seed.1,seed.2")
    assert code == 2 and "seed.1 and seed.2 are of one recipe and one seed" in err


def test_a_copy_of_an_adapter_is_no_second_training_seed(run_validate):
    store = run_validate.store
    for name in ("seed.1", "seed.2"):
        shutil.rmtree(store / "adapters" / name)
        shutil.copytree(store / "adapters" / "default", store / "adapters" / name)
    for how in (("3", "--run", "default,seed.1"), ("--freeze", write_plan(store, n=5))):
        code, _, err = run_validate(*how)
        assert code == 2 and "default and seed.1 are the same, weight by weight" in err
    assert not (store / "validation").exists()
