"""The audit: it passes true records, and fails on each planted leak and untruth."""

import json
import shutil
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from helpers.prompt_records import SPLITS, answer_of, of_task, read_jsonl, records_of
from helpers.storage_folders import step_three_stub, written_otherwise
from mimic_qlora.chart import columns, context, visibility
from mimic_qlora.clinical import content as clinical
from mimic_qlora.mimic.synthetic import hospital
from mimic_qlora.prompts import audit, audit_chart, records, truncation
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader


def test_every_statement_of_the_real_demo_is_a_cell_known_at_its_time(demo_prompts, capsys):
    found = audit.of_storage(demo_prompts.store)
    assert audit.report(found) == 0 and not any(found.faults.values()), found.faults
    assert (
        found.counts["records"] == len(demo_prompts.records) and found.counts["statements"] > 20_000
    )
    assert "       0  statements of the context not yet known at as_of" in capsys.readouterr().out


def audited(charts):
    """Yield the faults of records that are made anew from these charts, as (check, section)."""
    for record in charts.typed:
        raw = charts.raw[record["subject_id"]]
        for one in records_of(record, charts.labels):
            chart = audit_chart.Chart(raw, charts.labels, one.as_of)
            yield from audit.of_record(one, chart)[1]


ENDS = ("admissions", "dischtime", ["always"])


LEAKS = {
    "Known conditions": [
        ("diagnoses_icd_labeled", "*", ["always"]),
        ("admissions", "*", ["always"]),
        ENDS,
    ],
    "Past procedures": [("procedures_icd_labeled", "*", ["always"])],
    "Latest labs": [("labevents", "*", ["always"])],
    "Medicines ordered during this stay": [
        ("prescriptions", "*", ["starttime"])
    ],  # before the pharmacy entered it
    "Latest measurements": [("omr", "*", ["always"])],
    "Last stay": [ENDS],
}


@pytest.mark.parametrize("section", LEAKS)
def test_the_audit_fails_on_each_planted_leak(charts, monkeypatch, section):
    planted = {name: dict(by_column) for name, by_column in visibility.rules().items()}
    for table, column, known in LEAKS[section]:
        planted[table][column] = known
    monkeypatch.setattr(visibility, "rules", lambda: planted)
    assert any(where == section for _, where in audited(charts))


def test_the_audit_finds_no_fault_where_none_is_planted(charts):
    assert not [*audited(charts)]


def row(table, **cells):
    """A raw row of one patient's stay 1."""
    return table, {"hadm_id": 1} | cells


def small_chart(*rows):
    """A patient in stay 1, on the third day, with these rows."""
    tables = {"admissions": [{"hadm_id": 1, "admittime": "2150-01-01 00:00:00"}]}
    for table, cells in rows:
        tables.setdefault(table, []).append(cells)
    return audit_chart.Chart(tables, {50971: "Potassium"}, datetime(2150, 1, 3))


STOPPED = row(
    "prescriptions",
    drug="Heparin",
    route="IV",
    starttime="2150-01-01 00:00:00",
    stoptime="2150-01-02 00:00:00",
)
POTASSIUM = {"itemid": 50971, "charttime": "2150-01-02 00:00:00"}
NUMBER = row("labevents", valuenum="5.0", storetime="2150-01-02 00:00:00", **POTASSIUM)
LATER = row("labevents", itemid=50971, charttime="2150-01-03 00:00:00", storetime="2150-01-03")
TOO_HIGH = row(
    "labevents",
    itemid=50971,
    charttime="2150-01-03 00:00:00",
    storetime="2150-01-03",
    valuenum="999999",
)
CUFF = [
    row("chartevents", itemid=item, charttime=when, storetime=when, valuenum=value)
    for when, cuff, line in (
        ("2150-01-02 08:00:00", ("130", "80"), ("71", "50")),
        ("2150-01-02 09:00:00", ("136", "73"), ("68", "56")),
    )
    for item, value in zip((220179, 220180, 220050, 220051), (*cuff, *line), strict=True)
]
ORDERED = "Medicines ordered during this stay"
PRESSURE = "Latest measurements: blood pressure 136/73 (was {}), 1 day ago"


@pytest.mark.parametrize(
    ("rows", "true", "false"),
    [
        ([STOPPED], f"{ORDERED}: Heparin (IV, stopped 1 day ago)", f"{ORDERED}: Heparin (IV)"),
        (
            [STOPPED, row("prescriptions", **STOPPED[1] | {"stoptime": "2150-01-09 00:00:00"})],
            f"{ORDERED}: Heparin (IV)",
            f"{ORDERED}: Heparin (IV, stopped 1 day ago)",
        ),
        (
            [row("prescriptions", **STOPPED[1] | {"stoptime": "2149-12-31 00:00:00"})],
            f"{ORDERED}: none on record",
            f"{ORDERED}: Heparin (IV, stopped 3 days ago)",
        ),
        (
            [row("prescriptions", **STOPPED[1] | {"route": "PO, crushed"})],
            f"{ORDERED}: Heparin (po, crushed, stopped 1 day ago)",
            f"{ORDERED}: Heparin (po, stopped today)",
        ),
        (
            [
                row("prescriptions", **STOPPED[1] | {"route": "IV (slow)"}),
                row("prescriptions", **STOPPED[1] | {"route": "SC"}),
            ],
            f"{ORDERED}: Heparin (iv (slow), injection under the skin, stopped 1 day ago)",
            f"{ORDERED}: Heparin (iv (slow), by mouth, stopped 1 day ago)",
        ),
        (
            [row("prescriptions", drug="Vitamins (B1; B2)", starttime="2150-01-01 00:00:00")],
            f"{ORDERED}: Vitamins (B1, B2)",
            f"{ORDERED}: Vitamins (B1, B6)",
        ),
        ([NUMBER], "Latest labs: Potassium 5, 1 day ago", "Latest labs: Potassium 5, today"),
        (
            [NUMBER, LATER],
            "Latest labs: Potassium 5, 1 day ago, newer result without a number today",
            "Latest labs: Potassium 5, 1 day ago",
        ),
        (
            [NUMBER, TOO_HIGH],
            "Latest labs: Potassium 5, 1 day ago, newer result without a number today",
            "Latest labs: Potassium 999999, today",
        ),
        (CUFF, PRESSURE.format("130/80"), PRESSURE.format("68/56")),
        (CUFF, PRESSURE.format("130/80"), PRESSURE.format("71/50")),
    ],
)
def test_the_audit_works_out_what_stopped_what_is_newer_and_what_is_of_one_method(
    rows, true, false
):
    chart = small_chart(*rows)
    for line, wrong in ((true, []), (false, ["unfounded"])):
        name, _, said = line.partition(": ")
        support = {}
        for one in audit_chart.SECTIONS[name](chart):
            support.setdefault(one.statement, []).append(one)
        found = [audit._fault(text, support, chart) for text in audit._statements(name, said)]
        assert [fault for fault in found if fault] == wrong, line


def change(record, before, after, turn=1):
    changed = json.loads(json.dumps(record))
    assert before in changed["messages"][turn]["content"]
    changed["messages"][turn]["content"] = changed["messages"][turn]["content"].replace(
        before, after, 1
    )
    return changed


def test_the_audit_fails_on_each_planted_untruth(demo_prompts):
    labels = context.lab_labels(demo_prompts.store)

    def faults(row):
        record = PromptRecord.of(row)
        raw = reader.raw_record(demo_prompts.store, record.subject_id)
        chart = audit_chart.Chart(raw, labels, record.as_of)
        return {check for check, _ in audit.of_record(record, chart)[1]}

    content = clinical.load()
    held_out = next(s for s in content.symptoms.values() if s.held_out)
    one = next(
        r
        for r in of_task(demo_prompts, "guidance")
        if r["cautions"] and "(was " in str(r["messages"][1])
    )
    age = one["messages"][1]["content"].split("- Age: ")[1].split("\n")[0]
    assert faults(one) == set()
    assert faults(change(one, f"Age: {age}", "Age: 17")) == {"unfounded"}
    assert faults(change(one, "(by mouth)", "(in the nose)")) == {"unfounded"}
    assert faults(change(one, "- Known conditions: ", "- Known conditions: gout attack; ")) == {
        "unfounded"
    }
    assert faults(change(one, "(was ", "(was 99")) == {"unfounded"}
    assert "ahead" in faults(
        one | {"as_of": str(datetime.fromisoformat(one["as_of"]) - timedelta(days=60))}
    )
    assert faults(one | {"symptom": held_out.id}) >= {"held_out"}
    kept = next(x for x in content.symptoms[one["symptom"]].track if x.held_out and not x.tells)
    for split, found in (("train", {"held_out"}), ("validation", set())):
        told = change(one, "\n- ", f"\n- {kept.say}\n- ", turn=2) | {"split": split}
        assert faults(told) == found
    assert faults(change(one, "\n- ", "\n- Take 800 mg of ibuprofen.\n- ", turn=2)) == {"gold"}
    assert faults(one | {"evidence": []}) == {"gold"}
    wrong_cell = {**one["evidence"][0], "cells": ["hadm_id=1"]}
    assert faults(one | {"evidence": [wrong_cell, *one["evidence"]]}) == {"gold"}

    coded = next(
        r for r in of_task(demo_prompts, "guidance") if "heart_failure_fluid_limit" in r["cautions"]
    )
    assert "gold" in faults(
        change(coded, "heart failure", "diabetes")
    )  # the reason for a caution is not shown

    value = next(r for r in of_task(demo_prompts, "chart_qa") if r["kind"] == "lab value")
    assert faults(change(value, answer_of(value), "77.77 mg/dL", turn=2)) == {"gold"}
    stay = next(r for r in of_task(demo_prompts, "diagnoses"))
    assert faults(change(stay, "or acute: ", "or acute: gout attack; ", turn=2)) == {"gold"}
    ends = next(
        a
        for a in reader.raw_record(demo_prompts.store, stay["subject_id"])["admissions"]
        if a["hadm_id"] == stay["hadm_id"]
    )
    assert "target" in faults(stay | {"as_of": ends["dischtime"]})


def test_the_audit_finds_patients_in_two_splits(demo_prompts, tmp_path):
    for step in ("subjects", "features"):
        (tmp_path / step).symlink_to(demo_prompts.store / step)
    shutil.copytree(demo_prompts.store / "prompts", tmp_path / "prompts")
    first = (demo_prompts.store / "prompts/train.jsonl").read_text().splitlines()[0] + "\n"
    for name, text in zip(SPLITS, (first, first, ""), strict=True):
        written_otherwise(tmp_path / "prompts" / f"{name}.jsonl", text)
    assert len(audit.of_storage(tmp_path).faults["split"]) == 1


@pytest.mark.parametrize("kind", ["symptoms", "cautions"])
def test_records_of_an_entry_that_the_content_has_no_more_are_told(demo_prompts, monkeypatch, kind):
    """After an id was corrected, --audit ended in a traceback: KeyError."""
    loaded = clinical.load()
    monkeypatch.setattr(clinical, "load", lambda: loaded._replace(**{kind: {}}))
    with pytest.raises(UserError, match="the clinical content has no more: make the records again"):
        audit.of_storage(demo_prompts.store)


def test_synthetic_charts_with_bedside_vitals_pass_the_audit(
    tmp_path, embedded_model, run, run_here, capsys, monkeypatch
):
    hospital.write(tmp_path / "mimic", 20, seed=1, progress=False)
    store = tmp_path / "storage"
    assert run("convert_to_jsonl.py", "--mimic-dir", tmp_path / "mimic").returncode == 0
    step_three_stub(store, "admissions.language")
    run_here("--model", embedded_model, store=store)
    texts = [one["messages"][1]["content"] for one in read_jsonl(store / "prompts/train.jsonl")]
    assert any("heart rate" in text and "temperature" in text for text in texts)
    assert "left out: no coded stay" in capsys.readouterr().out
    assert audit.kept(store) is None
    assert run_here("--audit", store=store) == 0
    kept = audit.kept(store)
    assert kept == audit.of_storage(store) and kept.counts["statements"] > 100
    assert "note:" not in capsys.readouterr().out
    monkeypatch.setattr(audit, "of_storage", lambda store: kept)
    monkeypatch.setattr(records, "content_sha256", lambda prompt: "other")
    assert run_here("--audit", store=store) == 0
    assert "note: the clinical content has changed" in capsys.readouterr().out
    (store / "prompts" / audit.FILE).write_text('{"counts": 3}')
    assert audit.kept(store) is None


@pytest.mark.parametrize(
    ("column", "right", "wrong"),
    [
        ("labevent_id", "118171367", "118171374"),
        ("labevent_id", "118171367", "118171360"),
        ("hadm_id", "29079034", "29079041"),
        ("hadm_id", "29079034", "2.9079e+07"),
        ("itemid", "50912", "50912.0"),
        ("valuenum", "1.2", "1.2000001"),
        ("charttime", "2150-01-01 10:00:00", "2150-01-01 10:00:01"),
    ],
)
def test_a_citation_names_a_row_by_every_digit_of_its_ids(column, right, wrong):
    row = {
        "hadm_id": 29079034,
        "labevent_id": 118171367,
        "itemid": 50912,
        "charttime": "2150-01-01 10:00:00",
        "valuenum": "1.20",
    }
    chart = audit_chart.Chart({"labevents": [row]}, {}, datetime(2151, 1, 1))
    for told, found in ((right, row), (wrong, None)):
        assert (
            audit._found(columns.Citation("x", "labevents", [f"{column}={told}"]), chart) == found
        )


def test_an_order_without_a_number_is_not_the_pharmacys_number_0():
    as_of = datetime(2150, 1, 3)
    order = {"hadm_id": 2, "starttime": datetime(2150, 1, 1), "drug": "Warfarin"}
    record = {
        "subject_id": 1,
        "admissions": [{"hadm_id": 2, "admittime": order["starttime"]}],
        "prescriptions": [order],
        "pharmacy": [{"pharmacy_id": 0, "entertime": datetime(2150, 1, 9)}],
    }
    cut = truncation.truncated(record, SimpleNamespace(as_of=as_of, task="guidance"))
    assert visibility.visible(record, as_of)["prescriptions"] == cut["prescriptions"] == [order]


HALF_AN_HOUR = timedelta(minutes=30)


@pytest.mark.parametrize("entered", [[1], [3], [1, 3], [3, 4], []])
def test_an_order_that_is_entered_late_knows_no_future(entered):
    def day(number):
        return datetime(2150, 1, number)

    record = {
        "subject_id": 1,
        "admissions": [{"hadm_id": 2, "admittime": day(1), "dischtime": day(9)}],
        "prescriptions": [
            {"hadm_id": 2, "pharmacy_id": 5, "starttime": day(1), "drug": "Warfarin"},
            {"hadm_id": 2, "pharmacy_id": 6, "starttime": day(3), "drug": "Insulin"},
        ],
        "pharmacy": [{"pharmacy_id": 5, "entertime": day(n)} for n in entered],
    }
    # without an entry it is known a day after it begins: half an hour before that it is not
    for as_of, at_once in ((day(2) + timedelta(hours=12), True), (day(2) - HALF_AN_HOUR, False)):
        cut = truncation.truncated(record, SimpleNamespace(as_of=as_of, task="guidance"))
        shown = [visibility.visible(one, as_of)["prescriptions"] for one in (record, cut)]
        known = max(entered) == 1 if entered else at_once
        assert shown[0] == shown[1] and len(shown[0]) == known
        if not shown[0]:  # kept, with another drug: a prompt that told it would change
            assert cut["prescriptions"][0]["drug"] != "Warfarin"
