"""Held-out records as tasks of lm-evaluation-harness: what they ask, and whose they are."""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from helpers.paths import ROOT
from helpers.prompt_records import prompt_record, read_jsonl
from helpers.scripts import run_here
from helpers.storage_folders import written_otherwise
from mimic_qlora.clinical import content
from mimic_qlora.llm import chat
from mimic_qlora.prompts.harness import documents, scores, task_files

KNOWLEDGE = content.load_knowledge(ROOT / "run_files")
LM_EVAL = [os.environ.get("LM_EVAL"), ROOT / ".venv/lm_eval/bin/lm_eval", shutil.which("lm_eval")]
GOLD = "What you can try now\n- Rest."


def record(task: str, subject_id: int, split: str = "validation", **fields) -> dict:
    turns = [("system", f"Do {task}."), ("user", f"Patient context\n{subject_id}\n\nAnd now?")]
    turns.append(("assistant", fields.pop("answer", "yes")))
    messages = [{"role": role, "content": text} for role, text in turns]
    return prompt_record(messages, subject_id, task=task, split=split, **fields)


RECORDS = [
    record("chart_qa", 10, kind="order"),
    record("chart_qa", 11, kind="order", answer="no <|eot_id|> or"),
    record("guidance", 10, kind=None, symptom="fatigue", answer=GOLD),
    record(
        "diagnoses",
        11,
        kind=None,
        answer="Known before: none",
        rubric=[{"criterion": "c", "points": 1, "tags": ["condition", "new", "pneumonia"]}],
    ),
]


@pytest.fixture
def store(tuned_store, tmp_path) -> Path:
    """A storage folder with records of validation patients, and one of a test patient."""
    folder = tmp_path / "storage"
    shutil.copytree(tuned_store.path, folder)
    for split, rows in {"validation": RECORDS, "test": [record("chart_qa", 99, "test")]}.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        written_otherwise(folder / "prompts" / f"{split}.jsonl", text)
    return folder


def test_each_record_of_the_split_is_a_document_and_no_other(store, tuned_store):
    tokenizer = chat.load_tokenizer(tuned_store.model)
    folder = task_files.write(store, "validation", tokenizer, KNOWLEDGE)
    assert folder == store / "lm_eval"
    rows = {path.stem: read_jsonl(path) for path in folder.glob("*.jsonl")}
    assert {name: len(found) for name, found in rows.items()} == {
        "chart_qa": 2,
        "guidance": 1,
        "diagnoses": 1,
        "knowledge": len(KNOWLEDGE),
    }
    assert {row["patient"] for name in rows for row in rows[name] if "patient" in row} == {10, 11}
    # what a template would take for the end of a turn is broken, as steps 5 to 7 do
    assert rows["chart_qa"][1]["answer"] == "no < |eot_id|> or"
    (guidance,) = rows["guidance"]
    assert guidance["supervised"] == f"{GOLD}<|eot_id|>" and guidance["user"].endswith("And now?")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert task_files.write(store, "validation", tokenizer, KNOWLEDGE) is None
    assert task_files.write(store, "validation", tokenizer, KNOWLEDGE[:1]) == folder


def test_a_yaml_file_names_its_documents_and_a_function_that_is_there(store, tuned_store):
    class Loader(yaml.SafeLoader):
        """Reads lm-evaluation-harness's tag for a function as its name."""

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    task_files.write(store, "validation", chat.load_tokenizer(tuned_store.model), KNOWLEDGE)
    paths = sorted((store / "lm_eval").glob("*.yaml"))
    assert [path.stem for path in paths] == ["chart_qa", "diagnoses", "guidance", "knowledge"]
    for path in paths:
        task = yaml.load(path.read_text(), Loader)
        assert task["task"] == f"mimic_{path.stem}" and task["tag"] == "mimic_qlora"
        module, _, function = task["process_results"].rpartition(".")
        assert module == scores.__name__ and hasattr(scores, function)
        (row, *_) = read_jsonl(path.parent / task["dataset_kwargs"]["file"])
        fields = {
            task[name] for name in ("doc_to_text", "doc_to_target", "description") if name in task
        }
        assert fields <= row.keys()


def test_documents_are_read_beside_the_file_and_left_in_no_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "__file__", str(tmp_path / "documents.py"))
    (tmp_path / "some.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    found = documents.read("some.jsonl", version=1.0)["held_out"]
    assert found["a"] == [1, 2] and found.cache_files == []


def test_answers_are_scored_as_in_step_7():
    assert scores.chart_qa({"answer": "yes"}, ["Yes, it was."]) == {"acc": 1.0}
    due = {"due": [["condition", "new", "pneumonia"]]}
    name = content.load().phenotypes["pneumonia"].name
    assert scores.diagnoses(due, [f"Not known before, or acute: {name}"]) == {"f1": 1.0}
    asked = task_files.of_knowledge(KNOWLEDGE[0])
    assert scores.knowledge(asked, [KNOWLEDGE[0].ideal]) == {"key_points": 1.0}
    bits = scores.guidance({"answer": " né "}, [(-6.0, False)])
    assert bits == {"bits_per_byte": (-6.0, 3)}


@pytest.mark.soak
def test_lm_evaluation_harness_runs_them_offline_for_base_and_adapter(store, tuned_store, tmp_path):
    """The commands of docs/forgetting.md, with a tiny model."""
    program = next((str(path) for path in LM_EVAL if path and Path(path).exists()), None)
    if program is None:
        pytest.skip("lm-evaluation-harness is not here: `make soak` installs it, or set LM_EVAL")
    task_files.write(store, "validation", chat.load_tokenizer(tuned_store.model), KNOWLEDGE[:1])
    adapter = store / "adapters" / "default"
    for name, model in {"base": "", "adapter": f",peft={adapter}"}.items():
        options = ["--tasks", "mimic_qlora", "--apply_chat_template", "--log_samples"]
        options += ["--include_path", store / "lm_eval", "--output_path", tmp_path / name]
        options += ["--model_args", f"pretrained={tuned_store.model}{model}", "--batch_size", "4"]
        options += ["--gen_kwargs", "max_gen_toks=8"]
        done = subprocess.run(
            [program, "run", "--model", "hf", *map(str, options)],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
    samples = {path.name for path in (tmp_path / "adapter").rglob("samples_*.jsonl")}
    assert len(samples) == 4
    folders = (tmp_path / "base", tmp_path / "adapter")
    done = run_here("run_files/compare_samples.py", *folders, storage=store)
    assert done.returncode == 0, done.stderr
    assert "mimic_guidance" in done.stdout and "arms differ" not in done.stdout
