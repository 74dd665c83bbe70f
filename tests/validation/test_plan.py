"""The frozen plan and the ledger of the test patients' openings."""

import pytest

from helpers.step7 import read_csv, results, write_plan
from mimic_qlora.step import files
from mimic_qlora.validation import ledger


def test_test_patients_are_opened_by_a_frozen_plan_alone_and_it_is_written_down(run_validate):
    store = run_validate.store
    code, _, err = run_validate("--final")
    assert code == 2 and "needs a plan made before" in err and not (store / "validation").exists()

    code, out, _ = run_validate("--freeze", write_plan(store, n=5))
    sha256 = files.file_sha256(store / "validation" / "plan.yaml")
    assert code == 0 and sha256 in out
    code, _, err = run_validate("7", "--final")
    assert code == 2 and "the frozen plan says n 5, not 7" in err
    for _ in range(2):  # going on, or once more the same, opens nothing new
        code, out, err = run_validate("--final", "--no-knowledge")
        assert code == 0 and "not opened under another plan" in out, err
    rows = read_csv(results(out) / "output.csv")
    assert {row["plan_sha256"] for row in rows} == {sha256} and len(rows) == 5
    assert "Primary endpoint, cautions never trained on" in " ".join(out.split())
    assert [entry["event"] for entry in ledger.ledger(store)] == ["frozen", "opened"]

    run_validate("--freeze", write_plan(store, n=6))
    _, out, _ = run_validate("--final", "--no-knowledge")
    assert "had been opened before under another plan" in " ".join(
        out.split()
    ) and "read this as exploration" in " ".join(out.split())


def test_a_plan_or_a_ledger_that_was_edited_is_refused(run_validate):
    place = run_validate.store / "validation"
    run_validate("--freeze", write_plan(run_validate.store))
    (place / "plan.yaml").chmod(0o600)
    (place / "plan.yaml").write_text((place / "plan.yaml").read_text().replace("n: 320", "n: 6"))
    assert "was edited after it was frozen" in run_validate("--final")[2]
    run_validate("--freeze", write_plan(run_validate.store))
    first, *rest = (place / "ledger.jsonl").read_text().splitlines()
    (place / "ledger.jsonl").write_text(
        "\n".join([first.replace("frozen", "frozen "), *rest]) + "\n"
    )
    assert "ledger.jsonl was edited at line 2" in run_validate("--final")[2]


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"n": 0}, "n"), ({"arms": ["base", "x"]}, "arms"), ({"margins": {"rubric": -1}}, "margins")],
)
def test_a_plan_that_makes_no_sense_is_not_frozen(run_validate, changes, field):
    code, _, err = run_validate("--freeze", write_plan(run_validate.store, **changes))
    assert code == 2 and f"the field '{field}' is not as in" in err and err.count("\n") == 1
