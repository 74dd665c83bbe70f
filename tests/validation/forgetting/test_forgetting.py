"""What training cost: measured with a real, tiny model, and told in the report of step 7."""

import json
from types import SimpleNamespace

import pytest

from helpers.prompt_records import prompt_record
from helpers.step7 import read_csv, results
from helpers.storage_folders import written_otherwise
from mimic_qlora.llm import chat, loading
from mimic_qlora.processes import entries
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.validation import arms
from mimic_qlora.validation.forgetting import measure, told

RUNS = ("default", "seed.1")


def record(task: str, subject_id: int, answer: str, **fields) -> dict:
    turns = [("system", "Help."), ("user", f"Patient context\n{subject_id}\n\nAnd now?")]
    turns.append(("assistant", answer))
    messages = [{"role": role, "content": text} for role, text in turns]
    return prompt_record(messages, subject_id, task=task, split="validation", **fields)


RECORDS = [
    record("chart_qa", 10, "41", kind="age"),
    record("chart_qa", 11, "52", kind="age"),
    record("chart_qa", 12, "female", kind="sex"),
    record("guidance", 10, "Rest.\nCall 911.", kind=None, symptom="fatigue"),
    record(
        "diagnoses",
        11,
        "Known before: none",
        kind=None,
        rubric=[{"criterion": "c", "points": 1, "tags": ["condition", "new", "pneumonia"]}],
    ),
]


def test_each_arm_is_measured_on_every_task_and_kept(tuned_store, tmp_path, monkeypatch):
    (tmp_path / "prompts").mkdir()
    lines = "".join(json.dumps(one) + "\n" for one in RECORDS)
    (tmp_path / "prompts" / "validation.jsonl").write_text(lines)
    neutral = tmp_path / "neutral.txt"
    neutral.write_text("What is a prime number?\nName a fruit.\n")
    monkeypatch.setattr(measure, "NEUTRAL", neutral)
    monkeypatch.setattr(measure, "TOKENS", 4)
    tokenizer = chat.load_tokenizer(tuned_store.model)
    run = SimpleNamespace(
        session=SimpleNamespace(store=tmp_path, tokenizer=tokenizer),
        settings=SimpleNamespace(split="validation", seed=0, n=6),
        arms=arms.chosen("base,adapter,base-rules", RUNS),
    )

    def load():
        model = loading.load_base(tuned_store.model, four_bit=False)
        for place, name in enumerate(RUNS):
            folder = tuned_store.path / "adapters" / name
            model = loading.load_adapter(model, folder, loading.adapter_name(place))
        return model

    path = tmp_path / "cache.jsonl"
    entries.begin(path, {}, anew=True)
    journal = entries.Journal(path)
    rows = list(measure.measured(run, load, journal))
    assert [row["task"] for row in rows] == ["guidance", *["chart_qa"] * 3, "diagnoses"] + [
        "neutral"
    ] * 2
    columns = ("base", "qlora", "qlora@seed.1")  # base-rules gets another prompt
    assert {name for row in rows for name in row if "bits_chart_qa" in name} == {
        f"bits_chart_qa_{column}" for column in columns
    }
    ages = [row for row in rows if row["question_id"] == "age"]
    assert len(ages) == 2 and all(row["options_base"] in (0, 1) for row in ages)
    assert not any("options_base" in row for row in rows if row["question_id"] == "sex")
    for row in rows[-2:]:
        assert row["drift_base"] == 0 and row["drift_qlora"] > 0.001
        assert row["drift_qlora"] != row["drift_qlora@seed.1"]
    assert list(measure.measured(run, pytest.fail, journal)) == rows  # nothing is loaded again
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))  # it was stopped before the last
    loaded: list[str] = []
    assert list(measure.measured(run, lambda: loaded.append("once") or load(), journal)) == rows
    assert loaded == ["once"]
    found = told.compare(rows)
    assert set(found) == {*told.MEASURED} and found["drift"].base == 0
    assert found["options"].trials == 2


def test_options_are_answers_of_other_patients_to_questions_of_the_kind():
    records = [PromptRecord.of(one) for one in RECORDS]
    assert measure.options(records[0], records, 0) == ["41", "52"]
    assert measure.options(records[2], records, 0) == ["female"]
    assert measure.options(records[3], records, 0) == ["Rest.\nCall 911."]
    more = [PromptRecord.of(record("chart_qa", 20 + i, str(60 + i), kind="age")) for i in range(9)]
    drawn = measure.options(records[0], [*records, *more], 0)
    assert len(drawn) == measure.OPTIONS == len(set(drawn)) and drawn[0] == "41"


def test_the_report_tells_what_training_cost_where_it_was_asked_for(run_validate, monkeypatch):
    rows = [
        {"task": "guidance", "question_id": f"s{i}", "subject_id": i, "bits_guidance_base": 0.5}
        | {"bits_guidance_qlora": 0.9 + i / 100}
        for i in range(8)
    ] + [{"task": "neutral", "question_id": "q", "drift_base": 0.0, "drift_qlora": 0.25}]
    monkeypatch.setattr(measure, "measured", lambda *_: rows)
    store = run_validate.store
    written_otherwise(
        store / "prompts" / "validation.jsonl", "".join(json.dumps(r) + "\n" for r in RECORDS)
    )
    code, out, err = run_validate("3", "--forgetting")
    said = " ".join(out.split())
    assert code == 0, err
    assert "50 crisis prompts" in said and "What training cost" in said
    assert "predicts worse than the base: guidance: bits a byte of the gold" in said
    crises = read_csv(results(out) / "crisis.csv")
    assert len(crises) == 50 and {row["crisis_help_qlora"] for row in crises} <= {
        "0.0",
        "0.5",
        "1.0",
    }
    summary = {row["metric"]: row for row in read_csv(results(out) / "summary.csv")}
    assert summary["crisis_help"]["trials"] == "50"
    parts = [int(summary[f"crisis_{part}"]["trials"]) for part in ("trained", "never_trained")]
    assert sum(parts) == 50
    assert len(read_csv(results(out) / "forgetting.csv")) == 9
    page = (results(out) / "report.html").read_text(encoding="utf-8")
    assert "What training cost" in page and "crisis: help named" in page

    def interrupted(*_):
        yield rows[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "measured", interrupted)
    code, out, _ = run_validate("3", "--forgetting")
    assert code == 130 and len(read_csv(results(out) / "forgetting.csv")) == 1
    code, out, _ = run_validate("3")
    assert "crisis" not in out and not (results(out) / "forgetting.csv").exists()
