"""Trials: distinct, balanced, of held-out patients only."""

import re
from collections import Counter
from types import SimpleNamespace

import pytest
from pydantic import TypeAdapter

from helpers.charts import Chart
from helpers.paths import ROOT
from helpers.step7 import QUESTIONS, read_csv, results, write_plan
from mimic_qlora.clinical import content
from mimic_qlora.clinical.conditions import Condition
from mimic_qlora.validation import power, trials


@pytest.mark.parametrize(
    ("patients", "questions"), [(1, 1), (6, 8), (8, 8), (20, 8), (7, 3), (3, 7), (12, 9)]
)
def test_trials_are_distinct_and_balanced_at_every_n(patients, questions):
    whole = list(trials.pairs(10**30, range(patients), range(questions)))
    assert len({(p, q) for _, p, q in whole}) == len(whole) == patients * questions
    for n in range(1, len(whole) + 1):
        drawn = list(trials.pairs(n, range(patients), range(questions)))
        assert drawn == whole[:n] and [number for number, *_ in drawn] == list(range(1, n + 1))
        for place, size in ((1, patients), (2, questions)):
            counts = Counter(trial[place] for trial in drawn)
            assert max(counts.values()) - min(counts.get(i, 0) for i in range(size)) <= 1


def test_a_pair_that_does_not_fit_is_left_out_and_the_numbers_go_on():
    """Question 2 needs an even patient."""

    def fits(patient, question):
        return question != 2 or patient % 2 == 0

    whole = list(trials.pairs(100, range(6), range(4), fits))
    assert len(whole) == 6 * 4 - 3 and [number for number, *_ in whole] == list(range(1, 22))
    assert {p for _, p, q in whole if q == 2} == {0, 2, 4}
    assert list(trials.pairs(5, range(6), range(4), fits)) == whole[:5]


def test_a_question_is_asked_of_those_who_fit_it_alone():
    (question, *_) = content.load_questions(ROOT / "run_files")
    asked = question.model_copy(update={"question": "My inhaler is empty. What now?"})
    needy = TypeAdapter(Condition).validate_python({"phenotype": "stoma"})

    def may_ask(question, **found):
        patient = (1, None, SimpleNamespace(facts=Chart(**found)))
        return trials._may_ask(patient, question)

    assert may_ask(question) and not may_ask(asked) and may_ask(asked, phenotypes={"copd"})
    needs = question.model_copy(update={"needs": needy})
    assert not may_ask(needs) and may_ask(needs, phenotypes={"stoma"})


def test_trials_are_of_held_out_patients_only_and_the_same_each_time(run_validate):
    from mimic_qlora.subjects import reader

    split = reader.split_of(run_validate.store)
    drawn = {}
    run_validate("--freeze", write_plan(run_validate.store, n=6))
    for options in ((), ("--final",), ("--seed", "1")):
        _, out, _ = run_validate("6", "--no-knowledge", *options)
        drawn[options] = [
            (int(r["subject_id"]), r["question_id"]) for r in read_csv(results(out) / "output.csv")
        ]
        assert len(set(drawn[options])) == 6
        assert {split[s] for s, _ in drawn[options]} == {
            "test" if "--final" in options else "validation"
        }
    _, again, _ = run_validate("6", "--no-knowledge")
    assert [
        (int(r["subject_id"]), r["question_id"]) for r in read_csv(results(again) / "output.csv")
    ] == drawn[()]
    assert drawn[()] != drawn[("--seed", "1")]


def test_the_population_of_the_primary_endpoint_has_one_trial_a_patient(run_validate):
    _, out, _ = run_validate("12", "--no-knowledge")
    rows = read_csv(results(out) / "output.csv")
    drawn = [row for row in rows if row["of_population"] == "True"]
    inside = [row for row in drawn if row["rule_tested"]]
    assert 1 <= len(inside) <= len(drawn) <= power.of_trials(12) and len(rows) == 12
    assert len({row["subject_id"] for row in drawn}) == len(drawn)
    for row in rows:
        assert (row["cautions_held_out_base"] != "") or row not in inside
        if row["rule_tested"]:
            assert row["unseen"] == "True"
            assert row["rule_tested"] in row["cautions_called_for_held_out"].split()
    assert f"Primary endpoint: {len(inside)} of them count for it" in " ".join(out.split())
    summary = {row["metric"]: row for row in read_csv(results(out) / "summary.csv")}
    assert int(summary["cautions_held_out"]["trials"]) == len(inside)
    assert int(summary["rubric"]["trials"]) == 12


def test_more_trials_than_pairs_says_so_and_uses_all(run_validate):
    code, out, _ = run_validate("100000", "--no-knowledge")
    used = re.search(
        r"Trials: (\d+) pairs of a validation patient and a question \(100,000 were asked for", out
    )
    rows = read_csv(results(out) / "output.csv")
    assert code == 0 and len(rows) == int(used.group(1)) == len(
        {(r["subject_id"], r["question_id"]) for r in rows}
    )
    page = (results(out) / "report.html").read_text(encoding="utf-8")
    for heading, column in (("sex", "sex"), ("age", "age_band"), ("race", "race")):
        groups = {row[column] for row in rows}
        assert "" not in groups and f"<td>{heading}</td>" in page, column
        for group in groups - {"F", "M"}:
            assert f"<td>{group}</td>" in page
    asked_of_all = [question for question in QUESTIONS if question.needs is None]
    patients = len({r["subject_id"] for r in rows})
    assert len(asked_of_all) * patients <= len(rows) <= len(QUESTIONS) * patients


def test_a_knowledge_prompt_is_the_bare_question():
    (prompt, *_) = content.load_knowledge(ROOT / "run_files")
    (trial,) = trials.without_patient([prompt])
    assert trial.messages == [{"role": "user", "content": prompt.question}]
    assert trial.subject_id is None
