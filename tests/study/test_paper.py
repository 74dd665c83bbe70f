"""--methods and --paper: what the manifests know, and the files of a paper."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from helpers.scripts import run_here
from mimic_qlora.display import csv_files
from mimic_qlora.prompts import audit
from mimic_qlora.step import files, storage
from mimic_qlora.study import paper
from mimic_qlora.validation import ledger, results
from mimic_qlora.validation.labelling import claims, remade
from mimic_qlora.validation.statistics import Difference

TABLE = [
    {"characteristic": "Patients", "overall": "241", "train": "194"},
    {"characteristic": "  F & M_1 {x}", "overall": "138 (57%)", "train": "<10"},
    {"characteristic": "Non-live days", "overall": "3.3 [2.3-4.6]", "train": "hidden"},
]
FITTED = {"landmark_hours": 24, "seeds": 5}
ASKED = {"tasks": ["guidance"], "pairs_per_subject": 2}
SOURCE = {"kind": "mimic", "version": "MIMIC-IV 2.2", "patients": 1000, "folder": "/x"}


@pytest.fixture
def store(tmp_path) -> Path:
    """A storage folder with what a paper takes of steps 1, 2 and 7."""
    store = tmp_path / "storage"
    store.mkdir(mode=0o700)
    with storage.step_output(store, "subjects", {"sample": 0.1, "seed": 5}, {}) as out:
        out.facts.update(
            {"source": SOURCE, "split": {"train": 800, "validation": 100, "test": 100}}
        )
    ids = {"subjects": storage.verified_manifest(store, "subjects")["id"]}
    with storage.step_output(store, "summary", {"min_cell": 10}, ids) as out:
        csv_files.write(out.path / "table1.csv", TABLE)
        stages = [{"patients": "in", "n": 9, "left_out": "<10", "because": "no stay"}]
        stages += [{"patients": "then", "n": 8, "left_out": "hidden", "because": "no code"}]
        stages += [{"patients": "left", "n": 8, "left_out": "", "because": ""}]
        csv_files.write(out.path / "flow.csv", stages)
    made = store / "validation" / "20260101-000000-a"
    made.mkdir(parents=True)
    asked = {
        "question_id": "q",
        "messages": [{"role": "user", "content": "q"}],
        "answer": "a",
        "split": "validation",
    }
    results.write(
        made,
        [
            results.Line(trial=n, kind="trial", arm=arm, subject_id=n, **asked)
            for n in (1, 2)
            for arm in ("base", "adapter")
        ],
    )
    found = Difference(0.1, 0.4, 0.3, 0.1, 0.5, 1.0, 0.01, 2, 1, 2)
    without = Difference(0.0, 0.0, 0.0, None, None, None, None, 2, 1, 2)
    rows = [
        {"metric": name, "higher_is_better": True, **difference._asdict(), "p_holm": None}
        for name, difference in (("rubric", found), ("harmful", found), ("red_flags", without))
    ]
    csv_files.write(made / "summary.csv", rows)
    return store


def status(store, *args):
    return run_here("run_files/status.py", *args, storage=store)


def test_the_files_of_a_paper_are_written_and_drawn_the_same_twice(store, tmp_path):
    done = status(store, "--paper", tmp_path / "paper")
    assert done.returncode == 0, done.stderr
    assert [Path(line).name for line in done.stdout.split()] == [
        "table1.csv",
        "table1.tex",
        "forest.svg",
        "forest.pdf",
        "methods.txt",
    ]
    table = (tmp_path / "paper" / "table1.tex").read_text()
    assert r"\quad F \& M\_1 \{x\} & 138 (57\%) & $<$10 \\" in table
    assert r"Non-live days & 3.3 [2.3--4.6] & hidden \\" in table
    assert (tmp_path / "paper" / "forest.pdf").read_bytes().startswith(b"%PDF")
    drawn = (tmp_path / "paper" / "forest.svg").read_bytes()
    assert b"<svg" in drawn
    status(store, "--paper", tmp_path / "again")
    assert (tmp_path / "again" / "forest.svg").read_bytes() == drawn


def test_other_files_of_these_names_are_kept(store, tmp_path, capsys):
    folder, names = tmp_path / "paper", ("table1.csv", "table1.tex", "forest.svg", "forest.pdf")
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"my {name}")
    paper.write(store, folder)
    said = capsys.readouterr().out
    for name in names:
        assert f"{name} was another one, which is kept as {name}.kept1" in said
        assert (folder / f"{name}.kept1").read_text() == f"my {name}"
    paper.write(store, folder)
    assert len(list(folder.glob("*.kept*"))) == len(names), "what is the same is not kept again"


def test_a_full_disk_leaves_no_half_of_a_file_and_what_was_there(store, tmp_path, monkeypatch):
    """A cut table had been left, and a plot that had been whole was gone."""
    folder, row = tmp_path / "paper", [{"metric": "rubric", "mean": 1}]
    paper.write(store, folder)
    csv_files.write(folder / "figures.csv", row)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    writes = [
        lambda: paper._write(folder / "new.svg", b"x"),
        lambda: csv_files.write(folder / "figures.csv", row * 9),
    ]
    for write in writes:
        with pytest.raises(OSError, match="No space left"):
            write()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_text_that_somebody_has_changed_is_kept(store, tmp_path):
    folder = tmp_path / "paper"
    folder.mkdir(mode=0o750)
    for n in (1, 2):
        paper.write(store, folder)
        (folder / "methods.txt").write_text(f"my version {n}")
    said = status(store, "--paper", folder).stdout
    assert "methods.txt was another one, which is kept as methods.txt.kept2" in said
    kept = sorted(path.read_text() for path in folder.glob("*.kept*"))
    assert kept == ["my version 1", "my version 2"] and folder.stat().st_mode & 0o777 == 0o750


def test_the_plot_has_the_metrics_with_an_interval_and_right_is_better(store):
    axes = paper.draw(*paper.forest_of(store)).axes[0]
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names[0] == "the rubric" and names[1].endswith("(less is better)") and len(names) == 2
    means = [line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() == "s"]
    assert means[0] > 50 > means[1]


@pytest.mark.parametrize("claims_something", [True, False])
def test_after_labels_the_plot_is_the_corrected_one_and_the_methods_say_so(store, claims_something):
    """It was the one of the patterns still, where people had found the adapter to do harm."""
    BASIS.write(results.newest(store))
    plot = paper.draw(*paper.forest_of(store)).axes[0]
    assert "as the run read them, not corrected by labels" in plot.get_xlabel()
    said = " ".join(status(store, "--methods").stdout.split())
    assert "read by patterns; no labels correct the differences" in said
    found = Difference(0.1, 0.4, -0.3, -0.5, -0.1, 1.0, 0.01, 2, 1, 2)
    row = {"metric": "rubric", "higher_is_better": True, **found._asdict()}
    row |= {"p_holm": 0.02 if claims_something else None}
    by = {"labelled_by": "clinician and layperson", "labelled": 60}
    csv_files.write(results.newest(store) / "labelled.csv", [row | by])
    plot = paper.draw(*paper.forest_of(store)).axes[0]
    (name,) = (tick.get_text() for tick in plot.get_yticklabels())
    (mean,) = (x.get_xdata()[0] for x in plot.get_lines() if x.get_marker() == "s")
    assert name == "the rubric, below 0 too" and mean < 50
    assert "corrected by labels" in plot.get_xlabel() and "not" not in plot.get_xlabel()
    said = " ".join(status(store, "--methods").stdout.split())
    assert "corrected by labels of 60 answers of each arm or more (clinician and layperson)" in said
    assert ("[Nothing is claimed by these labels" in said) != claims_something
    csv_files.write(results.newest(store) / "labelled.csv", [])  # of too few labels for figures
    assert "not corrected" in paper.draw(*paper.forest_of(store)).axes[0].get_xlabel()


def test_labels_of_earlier_results_are_told_where_the_newest_have_none(store, tmp_path):
    """Step 7 ran again after the answers were labelled: its plot is of what no labels correct."""
    folder, earlier = tmp_path / "paper", store / "validation" / "20251231-000000-b"
    shutil.copytree(results.newest(store), earlier)
    assert "note:" not in status(store, "--paper", folder).stderr
    by = {"labelled_by": "clinician", "labelled": 60, "p_holm": None}
    csv_files.write(earlier / "labelled.csv", [by])
    assert f"note: {earlier} has labels" in status(store, "--paper", folder).stderr
    said = " ".join(status(store, "--methods").stdout.split())
    assert f"[The earlier results {earlier.name} have labels, and these have none.]" in said
    shutil.copy(earlier / "labelled.csv", results.newest(store))
    assert remade.in_earlier(store) is None


def test_methods_tell_what_manifests_know_and_leave_the_rest_open(store):
    said = " ".join(status(store, "--methods").stdout.split())
    assert "We used MIMIC-IV 2.2: 1,000 patients, a 0.1 sample by seed 5" in said
    assert (
        "800 to train, 100 to validation" in said
        and "Left out: <10 with no stay, some with no code; 8" in said
    )
    assert "[`python train_qlora.py` has not been run]" in said
    assert "2 trials" in said and "of 2 validation patients and 1 questions" in said
    assert "without a plan" in said and "[Human labels" in said


def test_methods_tell_no_number_of_patients_that_step_2_hides(store):
    """Of 1,000 patients 997 have a code, which tells of the three that have none."""
    ids = {"subjects": storage.verified_manifest(store, "subjects")["id"]}
    with storage.step_output(store, "summary", {"min_cell": 10, "model": None}, ids) as out:
        stages = [{"patients": "with a stay", "n": 1000, "left_out": "<10", "because": "no code"}]
        stages += [{"patients": "coded", "n": "hidden", "left_out": "", "because": ""}]
        csv_files.write(out.path / "flow.csv", stages)
    with storage.step_output(store, "features", {**FITTED, "margin": 0.01}, ids) as out:
        out.facts.update({"targets": 20, "patients": 997, "columns": {"least": 2}})
    with storage.step_output(store, "prompts", {**ASKED, "token_budget": 700}, ids) as out:
        out.facts["counts"] = {"splits": {"train": 1994}}
    prompts = storage.verified_manifest(store, "prompts")["id"]
    checked = {"counts": {"records": 1994, "patients": 997}, "faults": {}, "content_id": prompts}
    (store / "prompts" / audit.FILE).write_text(json.dumps(checked))
    said = " ".join(status(store, "--methods").stdout.split())
    assert "<10 with no code; the others remained" in said
    assert "first coded stay, 5 per target" in said and "(1,994 records): 0 faults" in said
    assert "997" not in said and "hidden" not in said


def test_a_paper_takes_nothing_from_a_summary_that_shows_small_counts(store, tmp_path):
    """Step 2 with --min-cell 0 says to keep it on the machine; --paper copied it without a word."""
    ids = {"subjects": storage.verified_manifest(store, "subjects")["id"]}
    with storage.step_output(store, "summary", {"min_cell": 0}, ids) as out:
        csv_files.write(out.path / "table1.csv", TABLE)
        stages = [{"patients": "with a stay", "n": 1000, "left_out": 3, "because": "no code"}]
        stages += [{"patients": "coded", "n": 997, "left_out": "", "because": ""}]
        csv_files.write(out.path / "flow.csv", stages)
    done = status(tmp_path, "--storage", store, "--paper", tmp_path / "paper")
    assert done.returncode == 2 and not (tmp_path / "paper").exists()
    assert f"run `python summarize_jsonl.py --storage {store}` first" in done.stderr
    said = status(store, "--methods").stdout
    assert "without `--min-cell 0`" in said and "3 with no code" not in said and "997" not in said


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_plan_is_named_where_the_results_were_made_by_it(store, split):
    """One was frozen, and validation patients were asked, by no plan."""
    ledger.enter(store, "frozen", plan_sha256="a" * 64)
    ledger.enter(store, "frozen", plan_sha256="b" * 64)
    plan = {"plan_sha256": "a" * 64} if split == "test" else {}
    csv_files.write(results.newest(store) / "output.csv", [{"trial": 1, "split": split, **plan}])
    said = " ".join(status(store, "--methods").stdout.split())
    assert ("by a plan frozen before (SHA-256 aaaaaaaaaaaa)" in said) == (split == "test")
    assert ("without a plan" in said) == (split != "test")


def test_results_of_which_nothing_is_claimed_are_told_as_that(store):
    why = "the run was stopped after 4 of 12 trials"
    BASIS.model_copy(update={"described": why}).write(results.newest(store))
    assert f"[Nothing is claimed of them: {why}.]" in " ".join(
        status(store, "--methods").stdout.split()
    )


def test_what_the_ledger_said_of_the_opening_is_told(store):
    """A plan was named, and not that the patients had been opened before it."""
    why = "Test patients, by the plan aaa, but they had been opened before under another plan."
    BASIS.model_copy(update={"opened": why}).write(results.newest(store))
    assert f"[{why}]" in " ".join(status(store, "--methods").stdout.split())


def test_runs_of_several_recipes_are_not_told_as_seeds_of_one(store):
    for run, rank in (("first", 16), ("second", 64)):
        with storage.step_output(store, f"adapters/{run}", SETTINGS | {"rank": rank}, {}) as out:
            out.facts["results"] = LOSSES
    said = " ".join(status(store, "--methods").stdout.split())
    assert "of rank 16" in said and "[So first; the runs differ in rank: to be filled in.]" in said
    assert "Run first, seed 0: 1 steps" in said and "Run second, seed 0: 1 steps" in said


SETTINGS = dict.fromkeys(("alpha", "dropout", "lr", "epochs", "accumulate", "batch_tokens"), 1)
SETTINGS |= {"seed": 0, "rank": 8, "optimizer": "o", "base_model": {"name": "meta/L"}}
LOSSES = dict.fromkeys(("validation_loss_base", "validation_loss_adapter"), 1.0)
LOSSES |= dict.fromkeys(("steps", "train_prompts", "validation_prompts"), 1)


def trained(store: Path, run: str, inputs: dict[str, str]) -> None:
    """Make an adapter's folder, as far as the methods read it."""
    with storage.step_output(store, f"adapters/{run}", SETTINGS, inputs) as out:
        out.facts["results"] = LOSSES


def test_methods_do_not_tell_how_many_validation_patients_have_a_record(store):
    """Less the patients with a coded stay, which Table 1 tells or hides, that tells of few."""
    with storage.step_output(store, "adapters/counted", SETTINGS, {}) as out:
        out.facts["results"] = LOSSES | {"validation_patients": 4321, "validation_prompts": 987}
    said = " ".join(status(store, "--methods").stdout.split())
    assert "loss on 987 records of validation patients 1.000 (base)" in said
    assert "4,321" not in said


def test_a_run_trained_on_other_prompts_than_those_told_of_is_named(store):
    """Step 4 was run again: its new records stood beside the losses of an adapter on the old."""
    subjects = {"subjects": storage.verified_manifest(store, "subjects")["id"]}
    with storage.step_output(store, "prompts", {**ASKED, "token_budget": 700}, subjects) as out:
        out.facts["counts"] = {"splits": {"train": 10}}
    prompts = {"prompts": storage.verified_manifest(store, "prompts")["id"]}
    trained(store, "fresh", prompts)
    trained(store, "former", {"prompts": "0" * 16})
    said = " ".join(status(store, "--methods").stdout.split())
    note = "was made from another version of prompts than this tells of.]"
    assert f"[adapters/former {note}" in said and said.count(note) == 1


def test_a_damaged_ledger_is_not_told_as_no_look_at_all(store):
    """Its head stays behind where the folder is copied without hidden files."""
    ledger.enter(store, "frozen", plan_sha256="a" * 64)
    (store / ".ledger-head.json").unlink()
    said = " ".join(status(store, "--methods").stdout.split())
    assert "Looks at validation patients" not in said and "has lost its head" in said


def test_steps_of_several_versions_are_not_told_as_of_the_last(store):
    for run in ("former", "last"):
        trained(store, run, {"prompts": ""})
    assert "[Which step" not in status(store, "--methods").stdout
    path = store / "adapters" / "former" / "manifest.json"
    kept = json.loads(path.read_text())
    kept["versions"]["transformers"], kept["software"] = "4.51.0", "0.0.9"
    path.write_text(json.dumps(kept))
    said = " ".join(status(store, "--methods").stdout.split())
    assert " and 4.51.0" in said and " and 0.0.9; " in said
    assert "[Which step ran with which version: to be filled in.]" in said


BASIS = claims.Basis(reader="patterns", primary="rubric", claimed=("rubric",), margins={})


@pytest.mark.parametrize("other", ["patients", "adapter", "none", "unreadable"])
def test_results_of_other_patients_or_adapters_are_no_part_of_a_paper(store, tmp_path, other):
    """Table 1 told of some, and the plot of others."""
    ids = {"prompts": None}
    with storage.step_output(store, "adapters/default", {}, ids) as out:
        (out.path / "adapter_model.safetensors").write_text("weights")
    weights = files.file_sha256(store / "adapters/default/adapter_model.safetensors")
    subjects = storage.verified_manifest(store, "subjects")["id"]
    was = {"subjects": subjects, "adapters": {"default": weights}}
    was |= {"patients": {"subjects": "x"}, "adapter": {"adapters": {"default": "x"}}}.get(other, {})
    BASIS.model_copy(update=was).write(results.newest(store))
    if other == "unreadable":
        path = results.newest(store) / results.READER
        path.write_text(path.read_text()[:-9])
    done = status(store, "--paper", tmp_path / "paper")
    said = " ".join(status(store, "--methods").stdout.split())
    if other == "none":
        assert done.returncode == 0 and "These are results of" not in said
        return
    assert done.returncode == 2 and not (tmp_path / "paper").exists()
    named = {"patients": "other patients", "adapter": "another adapter default"}
    assert f"holds results of {named.get(other, 'unknown adapters')}" in done.stderr
    assert other == "unreadable" or "[These are results of" in said and "again since" in said


def test_without_results_one_sentence_says_what_to_run(store, tmp_path):
    for path in (store / "validation").glob("*/results.jsonl"):
        path.unlink()
    done = status(store, "--paper", tmp_path / "paper")
    assert done.returncode == 2 and "run step 7 first" in done.stderr
    assert not (tmp_path / "paper").exists()
