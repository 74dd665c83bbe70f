"""The frozen plan and the ledger of the test patients' openings."""

import hashlib
import re
from pathlib import Path

import pytest

from helpers.step7 import QUESTIONS, read_csv, results, write_plan
from mimic_qlora.clinical import content
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import ledger
from mimic_qlora.validation import plan as plans


def test_test_patients_are_opened_by_a_frozen_plan_alone_and_it_is_written_down(
    run_validate, monkeypatch
):
    store = run_validate.store
    code, _, err = run_validate("--final")
    assert code == 2 and "needs a plan made before" in err and not (store / "validation").exists()

    code, out, _ = run_validate("--freeze", write_plan(store, n=5))
    sha256 = files.file_sha256(store / "validation" / "plan.yaml")
    assert code == 0 and sha256 in out
    code, _, err = run_validate("7", "--final")
    assert code == 2 and "the frozen plan says n 5, not 7" in err
    with monkeypatch.context() as edited:
        edited.setattr(content, "asked_sha256", lambda questions: "of others")
        code, _, err = run_validate("--final")
    assert code == 2 and "questions or rules were edited since" in err
    assert not (store / "lm_eval_test").exists()
    for _ in range(2):  # going on, or once more the same, opens nothing new
        code, out, err = run_validate("--final", "--no-knowledge")
        assert code == 0 and "not opened under another plan" in out, err
    rows = read_csv(results(out) / "output.csv")
    assert {row["plan_sha256"] for row in rows} == {sha256} and len(rows) == 5
    assert "Primary endpoint, cautions never trained on" in " ".join(out.split())
    assert [entry["event"] for entry in ledger.ledger(store)] == ["frozen", "opened"]
    assert (store / "lm_eval_test" / "manifest.json").is_file()

    for n in (5, 6):  # that plan once more is no other one
        _, out, _ = run_validate("--freeze", write_plan(store, n=n))
        note = "test patients were opened before under another plan, or with other questions"
        assert (note in " ".join(out.split())) == (n == 6)
    _, out, _ = run_validate("--final", "--no-knowledge")
    assert "had been opened before under another plan" in " ".join(
        out.split()
    ) and "read this as exploration" in " ".join(out.split())


def test_a_plan_or_a_ledger_that_was_edited_is_refused(run_validate):
    place = run_validate.store / "validation"
    run_validate("--freeze", write_plan(run_validate.store))
    (place / "plan.yaml").chmod(0o600)
    (place / "plan.yaml").write_text((place / "plan.yaml").read_text().replace("n: 800", "n: 6"))
    assert "is not the plan that was frozen last" in run_validate("--final")[2]
    run_validate("--freeze", write_plan(run_validate.store))
    first, *rest = (place / "ledger.jsonl").read_text().splitlines()
    (place / "ledger.jsonl").write_text(
        "\n".join([first.replace("frozen", "frozen "), *rest]) + "\n"
    )
    assert "ledger.jsonl was edited at line 2" in run_validate("--final")[2]
    _, out, err = run_validate("3")
    assert "ledger.jsonl was edited at line 2" in err and "Answering" not in out


def test_a_kill_while_a_plan_is_frozen_leaves_none_that_looks_edited(run_validate, monkeypatch):
    """The ledger has its line first; an earlier plan is no longer the one that was frozen last."""

    def killed(*_, **__):
        raise KeyboardInterrupt

    def freeze_and_die():
        with monkeypatch.context() as patch:
            patch.setattr(plans.files, "atomic_write", killed)
            assert run_validate("--freeze", write_plan(run_validate.store, n=5))[0] == 130

    freeze_and_die()
    assert "needs a plan made before" in run_validate("--final")[2]
    run_validate("--freeze", write_plan(run_validate.store, n=6))
    freeze_and_die()
    assert "or its freezing was stopped): freeze it anew" in run_validate("--final")[2]
    run_validate("--freeze", write_plan(run_validate.store, n=5))
    assert run_validate("--final", "--no-knowledge")[0] == 0


def test_each_look_at_validation_patients_is_counted_and_the_same_again_is_not_new(run_validate):
    for options, look in (((), 1), ((), 1), (("--seed", "1"), 2), (("--run", "seed.1"), 3)):
        _, out, _ = run_validate("3", "--no-knowledge", *options)
        assert f"look {look} at validation patients" in " ".join(out.split())
    events = [entry["event"] for entry in ledger.ledger(run_validate.store)]
    assert events == ["looked"] * 3


def test_a_plan_of_fewer_than_three_training_seeds_is_not_frozen(run_validate):
    plan = write_plan(run_validate.store, runs=["default", "seed.1"])
    code, _, err = run_validate("--freeze", plan)
    assert code == 2 and "names default, seed.1" in err and "--seeds 0,1,2" in err


@pytest.mark.parametrize("useful", [0.25, 0.6])  # the larger one takes fewer than 60 answers
def test_a_plan_that_could_not_show_a_useful_difference_names_the_n_that_could(useful):
    plan = plans.load(plans.TEMPLATE).model_copy(update={"useful": useful})
    plans.check_runs(plans.TEMPLATE, plan)
    plans.check_power(plans.TEMPLATE, plan, QUESTIONS)
    with pytest.raises(UserError) as refused:
        plans.check_power(plans.TEMPLATE, plan.model_copy(update={"n": 50}), QUESTIONS)
    n, read = re.search(r"80% take n ([\d,]+) with (\d+) answers", str(refused.value)).groups()
    advised = plan.model_dump() | {"n": int(n.replace(",", "")), "read": int(read)}
    plans.check_power(plans.TEMPLATE, plans.ValidationPlan(**advised), QUESTIONS)
    assert plans.power.counted(advised["n"]) >= advised["read"]
    deaf = plans.Reader(sensitivity=0.1, false_alarm=0.1)
    hopeless = plan.model_copy(update={"reader": deaf, "useful": 0.02})
    with pytest.raises(UserError, match="No number of trials has a power of 80%"):
        plans.check_power(plans.TEMPLATE, hopeless, QUESTIONS)


def test_a_field_that_is_misspelt_is_named_and_not_the_one_that_is_missing(tmp_path):
    text = plans.TEMPLATE.read_text(encoding="utf-8")
    (tmp_path / "plan.yaml").write_text(text.replace("\nn:", "\nm:"), encoding="utf-8")
    with pytest.raises(UserError, match="the field 'm' is not as in"):
        plans.load(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"n": 0}, "n"), ({"arms": ["base", "x"]}, "arms"), ({"margins": {"rubric": -1}}, "margins")],
)
def test_a_plan_that_makes_no_sense_is_not_frozen(run_validate, changes, field):
    code, _, err = run_validate("--freeze", write_plan(run_validate.store, **changes))
    assert code == 2 and f"the field '{field}' is not as in" in err and err.count("\n") == 1


def test_a_plan_that_was_frozen_before_stays_beside_the_new_one(run_validate):
    folder = run_validate.store / "validation"
    texts = []
    for n in (5, 6, 6):
        plan = Path(write_plan(run_validate.store, n=n))
        assert run_validate("--freeze", str(plan))[0] == 0
        texts.append(plan.read_bytes())
    first = hashlib.sha256(texts[0]).hexdigest()
    assert first in (folder / "ledger.jsonl").read_text()
    (former,) = folder.glob("plan-*.yaml")
    assert former.name == f"plan-{first[:12]}.yaml" and former.read_bytes() == texts[0]
    assert (folder / "plan.yaml").read_bytes() == texts[-1]
