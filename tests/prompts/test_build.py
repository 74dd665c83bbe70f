"""Step 4 as a command: the files that it leaves, their fields, and what it refuses."""

import shutil
from collections import Counter
from datetime import datetime

import pytest

from helpers.prompt_records import SPLITS, folder_over, read_jsonl
from helpers.scripts import folder_bytes
from helpers.storage_folders import step_three_stub
from mimic_qlora.chart import columns, context
from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.clinical import content as clinical
from mimic_qlora.llm import chat
from mimic_qlora.step import storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader


def test_no_patient_is_in_two_splits_and_each_is_where_step_1_put_it(demo_prompts):
    split = reader.split_of(demo_prompts.store)
    assert {one["split"] for one in demo_prompts.records} == set(SPLITS)
    assert all(split[one["subject_id"]] == one["split"] for one in demo_prompts.records)


def test_validation_answers_have_sentences_that_no_training_answer_has(demo_prompts):
    """Sentences that are held out: an adapter can predict them only by what they mean."""
    symptoms = clinical.load().symptoms.values()
    held_out = [x.say for s in symptoms for x in (*s.self_care, *s.track) if x.held_out]
    said = {name: "" for name in SPLITS}
    for one in demo_prompts.records:
        said[one["split"]] += one["messages"][2]["content"]
    assert not any(sentence in said["train"] for sentence in held_out)
    assert sum(sentence in said["validation"] for sentence in held_out) > 10


def test_every_record_has_the_same_fields_with_the_same_types_in_every_task(demo_prompts):
    """Trainers read in blocks and refuse a later block with another schema than the first."""
    import pyarrow.json as pj

    assert len({tuple(one) for one in demo_prompts.records}) == 1
    for name in SPLITS:
        pj.read_json(
            demo_prompts.store / "prompts" / f"{name}.jsonl",
            read_options=pj.ReadOptions(block_size=1 << 22),
        )
    for one in demo_prompts.records:
        assert [turn["role"] for turn in one["messages"]] == ["system", "user", "assistant"]
        assert all(
            isinstance(turn["content"], str) and turn["content"].strip() for turn in one["messages"]
        )
        assert all(row.keys() == {"for", "table", "cells"} for row in one["evidence"])
        assert all(
            item.keys() == {"criterion", "points", "tags"} and item["points"] >= 1
            for item in one["rubric"]
        )


def test_the_files_load_in_datasets(demo_prompts, tmp_path):
    datasets = pytest.importorskip(
        "datasets", reason="datasets is not installed: it is no part of the pipeline"
    )
    files = {name: str(demo_prompts.store / "prompts" / f"{name}.jsonl") for name in SPLITS}
    assert datasets.load_dataset(
        "json", data_files=files, cache_dir=str(tmp_path)
    ).num_rows.keys() == set(SPLITS)


def test_a_set_without_a_prompt_to_train_or_validate_on_takes_no_good_sets_place(
    demo_storage, embedded_model, run_here, tmp_path, monkeypatch
):
    store = folder_over(demo_storage, tmp_path)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "good").touch()
    options = ("--model", embedded_model, "--tasks", "diagnoses")
    message = "--max-total 1 leaves none of a (validation|train) patient; give a larger one"
    with pytest.raises(UserError, match=message):
        run_here(*options, "--max-total", 1, store=store)
    split = reader.split_of(store)
    for name, others in (("validation", "train"), ("train", "test")):
        moved = {s: others if was == name else was for s, was in split.items()}
        monkeypatch.setattr(reader, "split_of", lambda _, moved=moved: moved)
        with pytest.raises(UserError, match=f"no {name} patient has a coded stay.*step 1"):
            run_here(*options, store=store)
    assert [path.name for path in (tmp_path / "prompts").iterdir()] == ["good"]
    assert not (tmp_path / ".prompts.partial").exists()


def test_where_step_1_was_done_again_meanwhile_that_is_named_and_not_max_total(
    demo_storage, embedded_model, run_here, tmp_path, monkeypatch
):
    store = folder_over(demo_storage, tmp_path)

    def other_split(_):
        with storage.step_output(store, "features", {}, {"subjects": "another"}):
            return dict.fromkeys(split, "train")

    split = reader.split_of(store)
    monkeypatch.setattr(reader, "split_of", other_split)
    with pytest.raises(UserError, match="was made from an older version of subjects"):
        run_here("--model", embedded_model, "--max-total", 24, store=store)


def test_no_context_is_over_budget_and_all_are_told_the_settings_that_later_steps_share(
    demo_prompts,
):
    settings, labels = (
        ContextSettings.read(demo_prompts.store),
        context.lab_labels(demo_prompts.store),
    )
    tokenizer = chat.load_tokenizer(demo_prompts.model)

    def count(text):
        return chat.count_tokens(tokenizer, text)

    assert settings.dropped_columns == ["admissions.language"]
    contexts = {
        one["messages"][1]["content"].rpartition("\n\nQuestion\n")[0]
        for one in demo_prompts.records
    }
    assert len(contexts) > 150 and max(map(count, contexts)) <= 700
    for one in [
        one
        for one in demo_prompts.records
        if one["split"] == "validation" and one["task"] == "guidance"
    ][:5]:
        record = reader.record(demo_prompts.store, one["subject_id"], columns.WANTED)
        built = context.build(record, datetime.fromisoformat(one["as_of"]), settings, labels, count)
        system, user, _ = one["messages"]
        assert (
            user["content"].startswith(built.text + "\n\nQuestion\n") and "speaks" not in built.text
        )
        assert system["content"] == settings.system_prompt == settings.system_prompts["guidance"]


def test_same_input_gives_same_bytes(demo_prompts, run_here, tmp_path, capsys):
    store = shutil.copytree(demo_prompts.store, tmp_path / "storage", symlinks=True)
    before = folder_bytes(store / "prompts")
    run_here("--model", demo_prompts.model, "--preview", "1", store=store)
    shown = capsys.readouterr().out
    assert "is up to date" in shown and shown.count(">>>\n") == 1
    assert shown.endswith(f"--model {demo_prompts.model}\n")  # of the command of the next step
    run_here("--model", demo_prompts.model, "--force", store=store)
    assert folder_bytes(store / "prompts") == before


def test_a_limit_takes_its_share_of_each_task_and_whole_patients(
    demo_storage, tmp_path, embedded_model, run_here
):
    store = folder_over(demo_storage, tmp_path)
    run_here(
        "--model", embedded_model, "--max-total", "40", "--pairs-per-subject", "2", store=store
    )
    records = [one for name in SPLITS for one in read_jsonl(store / "prompts" / f"{name}.jsonl")]
    assert Counter(one["task"] for one in records) == {
        "guidance": 20,
        "chart_qa": 10,
        "diagnoses": 10,
    }
    asked = Counter(one["subject_id"] for one in records if one["task"] == "guidance")
    of_charts = Counter(one["subject_id"] for one in records if one["task"] == "chart_qa")
    assert set(asked.values()) == set(of_charts.values()) == {2}
    run_here(
        "--model",
        embedded_model,
        "--tasks",
        "chart_qa",
        "--max-total",
        "12",
        "--seed",
        "7",
        store=store,
    )
    again = [one for name in SPLITS for one in read_jsonl(store / "prompts" / f"{name}.jsonl")]
    assert {one["task"] for one in again} == {"chart_qa"} and len(again) == 12


def test_missing_and_stale_steps_are_named(run_here, run, tiny_mimic, tmp_path, embedded_model):
    store = tmp_path / "storage"
    store.mkdir()
    with pytest.raises(UserError, match="run `python convert_to_jsonl.py --storage "):
        run_here("--model", embedded_model, store=store)
    run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic)
    with pytest.raises(UserError, match="run `python feature_select_xgb_columns.py --storage "):
        run_here("--model", embedded_model, store=store)
    step_three_stub(store, "admissions.language")
    for arguments in (
        *(
            ["--token-budget", "0"],
            ["--pairs-per-subject", "-1"],
            ["--pairs-per-subject", "1000000"],
        ),
        *(["--landmark-hours", "nan"], ["--landmark-hours", "1e9"]),
    ):
        with pytest.raises(UserError, match=arguments[0]):
            run_here(*arguments, store=store)
    with pytest.raises(UserError, match="/nowhere"):
        run_here("--model", "/nowhere", store=store)
    with pytest.raises(UserError, match="run `python make_symptom_prompts_ctx_dxpx.py --storage "):
        run_here("--audit", store=store)
    run("convert_to_jsonl.py", "--mimic-dir", tiny_mimic, "--seed", "7")
    with pytest.raises(UserError, match="older version of subjects"):
        run_here("--model", embedded_model, store=store)
    assert not (store / "prompts").exists()
