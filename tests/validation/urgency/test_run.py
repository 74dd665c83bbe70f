"""A run of step 7 on urgency visits: validation patients first, then test patients by the plan."""

import csv
import re
import shutil
import zlib
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from helpers.scripts import run_here
from helpers.step7 import write_plan
from mimic_qlora.llm import generation, loading
from mimic_qlora.validation import plan
from mimic_qlora.validation.urgency import claims, endpoint, options, report

SCRIPT = "run_files/validate.py"
ASKED = ("--tasks", "urgency")


def folder_of(run: CompletedProcess) -> Path:
    return Path(re.search(r"Results: \S+ \(copy: (\S+)\)", run.stdout).group(1))


def table(run: CompletedProcess, name: str) -> list[dict[str, str]]:
    with open(folder_of(run) / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def risks(model, tokenizer, rows, who, of) -> list[list[float]]:
    """Find the planted truth as the adapter, and nothing as the base.

    Stands in for the model, which takes a minute; test_options.py has a real one.
    """
    found = []
    for row, name in zip(rows, who, strict=True):
        text = tokenizer.decode(row).rpartition("Patient context")[2].casefold()
        signs = ("chest pain" in text) + ("heart failure" in text)
        noise = zlib.crc32(text.encode()) / 2**32
        risk = noise if name == "base" else 0.05 + 0.4 * signs + 0.1 * noise
        found.append([risk, *[(1 - risk) * share for share in (0.5, 0.3, 0.2)]])
    return found


def answers(model, tokenizer, turns, who, *_) -> list[generation.Answer]:
    """Answer with a condition of the store and with one that nobody has."""
    text = "Emergency\nOn record: heart failure; gout"
    return [generation.Answer(text, 9, True)] * len(turns)


@pytest.fixture(scope="module")
def runs(urgency_store, tmp_path_factory):
    """Two runs: of validation patients, and of test patients by a frozen plan."""
    folder = tmp_path_factory.mktemp("runs")
    store = folder / "storage"
    shutil.copytree(urgency_store.path, store)
    planned = write_plan(folder, runs=["default"], n=20, max_new_tokens=512)
    model = ("--model", str(urgency_store.model))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_base", lambda *_: None)
        patch.setattr(loading, "unpacked", lambda model: model)
        patch.setattr(loading, "load_adapter", lambda *_: None)
        patch.setattr(options, "of_rows", risks)
        patch.setattr(generation, "generate", answers)
        patch.setattr(endpoint, "DRAWS", 100)
        patch.setattr(claims, "FEWEST", 5)
        # plans of tests are too small to show anything; test_plan.py has the real checks
        patch.setattr(plan, "check_power", lambda *_: None)
        patch.setattr(plan, "check_runs", lambda *_: None)
        found.append(run_here(SCRIPT, "20", *ASKED, *model, storage=store))
        frozen = run_here(SCRIPT, "--freeze", planned, storage=store)
        assert frozen.returncode == 0, frozen.stderr

        def answers_as_step_5_ends(*arguments) -> list[generation.Answer]:
            with open(store / "adapters/default/adapter_model.safetensors", "ab") as file:
                file.write(b"another")
            return answers(*arguments)

        patch.setattr(generation, "generate", answers_as_step_5_ends)
        found.append(run_here(SCRIPT, "--final", *ASKED, *model, storage=store))
    for run in found:
        assert run.returncode == 0, run.stderr
    yield found
    for run in found:
        for place in re.findall(r"Results: (\S+) \(copy", run.stdout):
            shutil.rmtree(place, ignore_errors=True)


def test_an_adapter_that_was_replaced_meanwhile_is_told(runs):
    said = [(folder_of(run) / "summary.txt").read_text() for run in runs]
    assert ["The adapter default was replaced" in text for text in said] == [False, True]


def test_a_run_leaves_its_tables_and_one_page(runs):
    names = {path.name for path in folder_of(runs[0]).iterdir()}
    made = "performance claims secondary undertriage analyses calibration controls sex_swapped"
    made += " groups temporal stard output"
    assert {f"{name}.csv" for name in made.split()} <= names
    page = (folder_of(runs[0]) / report.PAGE).read_text(encoding="utf-8")
    summary = (folder_of(runs[0]) / "summary.txt").read_text(encoding="utf-8")
    for text in (page, summary, runs[0].stdout):
        told = " ".join(text.split())
        assert "who saw the patient and the vital signs" in told and report.NEED in told
        assert "Claims are made of test patients" in told


def test_both_sides_and_every_arm_are_there(runs):
    of = {row[""]: row for row in table(runs[0], "performance")}
    assert list(of) == ["adapter", "base", "logistic regression", "XGBoost", "nurse"]
    rows = table(runs[0], "output")
    n = sum(row["level"] == "A" for row in rows)
    assert n and of["nurse"]["found"].endswith(f" of {n}")
    called = [row["called_adapter"] == "True" for row in rows if row["level"] == "A"]
    assert of["adapter"]["found"] == f"{sum(called)} of {n}"
    assert all(0 <= float(row["risk_base"]) <= 1 and float(row["weight"]) == 1 for row in rows)


@pytest.mark.parametrize("name", ["adapter", "logistic regression", "XGBoost"])
def test_planted_truth_is_lost_by_what_is_taken_away(runs, name):
    areas = {row["prompt"]: float(row["AUROC"]) for row in table(runs[0], "controls")}
    whole = areas[f"{name}: as asked"]
    assert whole > 0.75
    for part in ("complaint alone", "chart alone", "complaint, another patient's chart"):
        assert areas[f"{name}: {part}"] < whole


def test_what_is_better_is_seen_and_not_claimed_of_validation_patients(runs):
    made = {row["the adapter finds more than"]: row for row in table(runs[0], "claims")}
    assert list(made)[1:] == ["base", "nurse"]
    outcomes = [row["outcome"] for row in made.values()]
    assert "claimed" not in outcomes and set(outcomes) <= {
        "seen, not claimed",
        "not shown",
        "not tested",
    }
    assert outcomes[0] != "not tested", runs[0].stdout
    base = float(made["base"]["difference in points (95%)"].split(" ")[0].lstrip("'"))
    assert base > 20


def test_reasons_are_counted_where_the_chart_shows_them(runs):
    (said,) = re.findall(
        r"Adapter, over (\d+) answers written out: (\d+) of (\d+)", " ".join(runs[0].stdout.split())
    )
    answers, there, named = map(int, said)
    assert named == 2 * answers and 0 < there < answers
    assert "Nothing is claimed of reasons." in " ".join(runs[0].stdout.split())


def test_small_cells_are_hidden(runs):
    rows = table(runs[0], "groups")
    assert {row["by"] for row in rows} == {"sex", "race", "age", "language", "insurance"}
    for row in rows:
        for side, what in (("emergencies", "sensitivity"), ("others", "specificity")):
            shown = row[side].isdigit()
            assert not shown or int(row[side]) == 0 or int(row[side]) >= 10
            assert shown or row[f"{what}, adapter"] == row[f"{what}, nurse"] == "hidden"
    assert any(row["emergencies"] == "<10" for row in rows)


def test_test_patients_are_held_to_the_threshold_of_validation_patients(runs):
    validation, test = (table(run, "output") for run in (runs[0], runs[1]))
    assert {row["split"] for row in test} == {"test"}
    others = [row for row in validation if row["level"] != "A"]
    spared = np.mean([int(row["acuity"]) > 2 for row in others])
    for arm in ("adapter", "XGBoost"):
        risks = sorted(float(row[f"risk_{arm}"]) for row in others)
        limit = risks[int(np.ceil(spared * len(risks) - 1e-9)) - 1]
        for row in test:
            assert (row[f"called_{arm}"] == "True") == (float(row[f"risk_{arm}"]) > limit)
    ledger = (folder_of(runs[1]).parent / "ledger.jsonl").read_text(encoding="utf-8")
    assert '"event": "opened"' in ledger
    stard = " ".join(row["in this run"] for row in table(runs[1], "stard"))
    assert "from all validation patients, unchanged" in stard and "{" not in stard


def test_what_urgency_does_not_read_is_refused(urgency_store, tmp_path):
    model = ("--model", str(urgency_store.model))
    run = run_here(SCRIPT, "20", *ASKED, "--twins", "3", *model, storage=urgency_store.path)
    assert run.returncode == 2 and "--twins" in run.stderr and run.stderr.count("\n") == 1


def test_what_cannot_be_asked_opens_no_test_patients(tuned_store, tmp_path, monkeypatch):
    """Prompts without urgency: the adapter that is trained on others would count as a second one.

    Such an opening would make the study exploration.
    """
    monkeypatch.setattr(plan, "check_power", lambda *_: None)
    model = ("--model", str(tuned_store.model))
    store = shutil.copytree(tuned_store.path, tmp_path / "storage")
    frozen = run_here(SCRIPT, "--freeze", write_plan(tmp_path, n=20), storage=store)
    assert frozen.returncode == 0, frozen.stderr
    for asked in (["20"], ["--final"]):
        run = run_here(SCRIPT, *asked, *ASKED, *model, storage=store)
        assert run.returncode == 2 and "--tasks urgency" in run.stderr
    assert '"opened"' not in (store / "validation" / "ledger.jsonl").read_text(encoding="utf-8")
    assert not (store / "validation" / "answers").exists()
