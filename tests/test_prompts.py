"""Step 4: records that are true to the chart, apart by patient, and free of what is held out."""

import json
from datetime import datetime

import pytest
from conftest import folder_bytes, step_three_stub

from mimic_qlora import clinical, context, facts, guidance, models, subjects, trials
from mimic_qlora.storage import UserError

FACTS = {
    "phenotypes": {},
    "drug_classes": {},
    "labs": {},
    "lab_rows": {},
    "procedures": [],
    "procedure_rows": [],
    "age": 50,
    "sex": "M",
}


@pytest.fixture(scope="module")
def prompts(demo_dir, embedded_model, tmp_path_factory):
    """Step 4's output on the real demo: (storage folder, records by split, what it printed)."""
    from conftest import run_script

    storage = tmp_path_factory.mktemp("prompts")
    assert run_script("convert_to_jsonl.py", "--mimic-dir", demo_dir, storage=storage).returncode == 0
    step_three_stub(storage, "admissions.language")
    done = run_script("make_symptom_prompts_ctx_dxpx.py", "--model", embedded_model, storage=storage)
    assert done.returncode == 0, done.stderr
    splits = ("train", "validation", "test")
    return storage, {s: read(storage / "prompts" / f"{s}.jsonl") for s in splits}, done.stdout


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def every(prompts):
    return [made for records in prompts[1].values() for made in records]


def test_no_patient_is_in_two_splits_and_each_is_where_step_1_put_it(prompts):
    storage, records, _ = prompts
    split = subjects.split_of(storage)
    assert all(records.values())
    assert all(split[made["subject_id"]] == name == made["split"] for name, found in records.items() for made in found)


def test_held_out_symptoms_and_rules_are_in_no_record(prompts):
    content = clinical.load()
    for made in every(prompts):
        assert not content.symptoms[made["symptom"]]["held_out"]
        assert not any(content.cautions[c]["held_out"] for c in made["cautions"])
        answer = made["messages"][2]["content"]
        assert not any(rule["say"] in answer for rule in content.cautions.values() if rule["held_out"])


def test_every_answer_has_the_three_sections_the_words_and_the_cautions_of_its_chart(prompts):
    content = clinical.load()
    for made in every(prompts):
        answer = made["messages"][2]["content"]
        assert [line for line in answer.splitlines() if line in clinical.SECTIONS.values()] == list(
            clinical.SECTIONS.values()
        )
        assert 120 <= guidance.words(answer) <= 180
        assert len(made["cautions"]) <= 3
        for caution in map(content.cautions.get, made["cautions"]):
            assert clinical.said(caution, answer) and not clinical.forbidden(caution, answer)


def test_an_answer_rests_on_rows_that_the_patient_has(prompts):
    storage, seen = prompts[0], 0
    for made in every(prompts):
        record = subjects.record(storage, made["subject_id"], facts.WANTED)
        for row in made["evidence"]:
            table, cells = row.pop("table"), {k: str(v) for k, v in row.items() if k not in ("caution", "age", "sex")}
            name = f"{table}_labeled" if table.endswith("_icd") else table
            found = [{k: str(v) for k, v in r.items()} for r in record[name]]
            assert any(cells.items() <= r.items() for r in found), (table, sorted(cells))
            seen += 1
    assert seen > 50


def test_the_context_is_the_one_that_later_steps_build(prompts, embedded_model):
    storage, records, _ = prompts
    settings, labels = context.load_settings(storage), context.lab_labels(storage)
    tokenizer = models.load_tokenizer(embedded_model)

    def count(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    assert settings["dropped_columns"] == ["admissions.language"]
    for made in records["validation"]:
        record = subjects.record(storage, made["subject_id"], facts.WANTED)
        built = context.build(record, datetime.fromisoformat(made["as_of"]), settings, labels, count)
        system, user, _ = made["messages"]
        assert user["content"].startswith(built.text + "\n\nQuestion\n") and count(built.text) <= 700
        assert system["content"] == settings["system_prompt"] and "speaks" not in built.text


def test_who_is_left_out_is_counted(prompts):
    counts = json.loads((prompts[0] / "prompts/manifest.json").read_text())["counts"]
    assert sum(counts["cohort"].values()) == 100 and "no live discharge to home" in prompts[2]


def test_same_input_gives_same_bytes_and_other_seeds_other_records(prompts, embedded_model):
    from conftest import run_script

    storage, _, _ = prompts
    before = folder_bytes(storage / "prompts")
    command = ("make_symptom_prompts_ctx_dxpx.py", "--model", embedded_model)
    assert "up to date" in run_script(*command, storage=storage).stdout
    assert run_script(*command, "--force", storage=storage).returncode == 0
    assert folder_bytes(storage / "prompts") == before


def test_missing_and_stale_steps_are_named(run, tiny_mimic, tmp_path, embedded_model):
    command = ("make_symptom_prompts_ctx_dxpx.py", "--model", embedded_model)
    (tmp_path / "storage").mkdir()
    assert "run `python convert_to_jsonl.py`" in run(*command).stderr
    run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic)
    missing = run(*command)
    assert missing.returncode == 2 and "run `python feature_select_xgb_columns.py`" in missing.stderr
    step_three_stub(tmp_path / "storage", "admissions.language")
    run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, "--seed", "7")
    stale = run(*command)
    assert stale.returncode == 2 and "older subjects" in stale.stderr and stale.stderr.count("\n") == 1
    assert not (tmp_path / "storage/prompts").exists()


@pytest.mark.parametrize("arguments", [["--token-budget", "0"], ["--pairs-per-subject", "-1"], ["--model", "/nowhere"]])
def test_wrong_arguments_are_refused_in_a_sentence(run, tiny_mimic, tmp_path, arguments):
    run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic)
    step_three_stub(tmp_path / "storage", "admissions.language")
    done = run("make_symptom_prompts_ctx_dxpx.py", *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and arguments[1] in done.stderr


def test_every_symptom_gives_an_answer_within_the_words_whatever_the_chart_calls_for():
    content = clinical.load()
    for symptom in content.symptoms.values():
        rules = sorted(
            (c for c in content.cautions.values() if guidance.bearing(c, symptom)), key=lambda c: -c["severity"]
        )
        for start in range(0, max(1, len(rules)), 3):
            answer = guidance.compose(symptom, rules[start : start + 3], f"{start}")
            assert 120 <= guidance.words(answer) <= 180
            assert all(rule["say"] in answer for rule in rules[start : start + 3])


def test_charts_that_call_for_different_cautions_never_get_the_same_answer():
    content = clinical.load()
    symptom = content.symptoms["back_pain"]
    plain = guidance.cautions_for(symptom, FACTS)
    thinner = guidance.cautions_for(symptom, FACTS | {"phenotypes": {"long_term_anticoagulant": {}}})
    assert [c["id"] for c in plain] != [c["id"] for c in thinner]
    assert guidance.compose(symptom, plain, "same") != guidance.compose(symptom, thinner, "same")


def test_the_most_severe_cautions_come_first():
    content = clinical.load()
    everything = FACTS | {"phenotypes": dict.fromkeys(content.phenotypes, {}), "age": 80}
    for symptom in content.symptoms.values():
        severities = [c["severity"] for c in guidance.cautions_for(symptom, everything)]
        assert severities == sorted(severities, reverse=True)


def test_advice_is_not_given_twice_for_two_reasons():
    content = clinical.load()
    reasons = {"long_term_anticoagulant": {}, "chronic_kidney_disease": {}, "heart_failure": {}}
    chosen = guidance.cautions_for(content.symptoms["back_pain"], FACTS | {"phenotypes": reasons})
    assert chosen and sum("ibuprofen" in c["say"] for c in chosen) == 1


def test_a_knowledge_prompt_is_the_bare_question():
    (trial,) = trials.without_patient([{"question": "What is sepsis?"}])
    assert trial.messages == [{"role": "user", "content": "What is sepsis?"}] and trial.subject_id is None


def test_an_unknown_patient_is_named(prompts):
    with pytest.raises(UserError, match="subject_id 1 is not in"):
        subjects.record(prompts[0], 1, facts.WANTED)
