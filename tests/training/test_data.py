"""The prompts of step 4: read, and refused where they would teach the wrong thing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.prompt_records import context_settings
from helpers.training_runs import PATIENTS, record, write_prompts
from mimic_qlora.step import faults, files
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import data


def empty_train(store):
    write_prompts(store, "train", [])


def empty_answer(store):
    rows = [record(10000000)]
    rows[0]["messages"][-1]["content"] = " "
    write_prompts(store, "train", rows)


def add_test_patient(store):
    write_prompts(
        store, "train", [record(s) for s, split in PATIENTS.items() if split in ("train", "test")]
    )


def same_patient_twice(store):
    write_prompts(store, "validation", [record(10000000)])


def other_template(store):
    context_settings(model="other/model").write(store / "prompts")


def other_model(store):
    settings = json.loads((store / "prompts" / "context.json").read_text())
    files.write_json(store / "prompts" / "context.json", settings | {"model": "other/model"})


def other_tokenizer(store):
    manifest = json.loads((store / "prompts" / "manifest.json").read_text())
    manifest["inputs"]["tokenizer"] = "0" * 64
    files.write_json(store / "prompts" / "manifest.json", manifest)


def no_answer(store):
    rows = [record(10000000)]
    write_prompts(store, "train", [{**rows[0], "messages": rows[0]["messages"][:2]}])


def broken_line(store):
    (store / "prompts" / "train.jsonl").write_text('{"messages": [')


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, ["--model", "no/model"], "hf download no/model"),
        (None, ["--max-length", "60"], "answers would be cut"),
        (None, ["--max-length", "99999"], "2048 tokens that the model can read"),
        (empty_train, [], "holds no prompt"),
        (empty_answer, [], "line 1: the answer is empty"),
        (add_test_patient, [], "line 4 is of a patient whom step 1 put into test"),
        (same_patient_twice, [], "line 1 is of a patient whom step 1 put into train"),
        (other_template, [], "budgeted for other/model.*: give --model other/model, or run"),
        (other_model, [], "budgeted for other/model, not for"),
        (other_tokenizer, [], "budgeted for .*, with another tokenizer: run"),
        (broken_line, [], r"train.jsonl cannot be read \(line 1 is not a conversation"),
        (no_answer, [], r"train.jsonl cannot be read \(line 1 is not a conversation"),
    ],
)
def test_it_refuses_to_train_wrongly(train, store, change, options, message):
    if change:
        change(store)
    with pytest.raises(UserError, match=message):
        train(*options)
    assert not (store / "adapters" / "default").exists()
    assert not list(store.glob(".training-prompts.*"))


def test_prompts_longer_than_what_a_layer_sees_are_refused(store, tiny, tmp_path):
    """In training a token sees all before it, and in an answer the last `sliding_window`."""
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    for kind, window, longest in (
        ("mistral", 512, 512),
        ("mistral", None, 2048),
        ("qwen2", 9, 2048),
    ):
        files.write_json(
            copy / "config.json", config | {"model_type": kind, "sliding_window": window}
        )
        data.check_limit(data.Wanted(store, copy, None, longest, None))
        if longest < 2048:
            with pytest.raises(UserError, match="more than the 512 tokens that some layers of"):
                data.check_limit(data.Wanted(store, copy, None, longest + 1, None))


def test_prompts_are_read_in_order_into_a_private_folder_that_is_gone_at_the_end(store):
    folder = "nothing"
    with data.opened(store, None) as prompts:
        (folder,) = store.glob(".training-prompts.*")
        assert folder.stat().st_mode & 0o077 == 0 and list(folder.rglob("*.arrow"))
        for split in ("train", "validation"):
            expected = [record(s) for s, name in PATIENTS.items() if name == split]
            assert [row["messages"] for row in prompts[split]] == [r["messages"] for r in expected]
            assert prompts[split]["subject_id"][:] == [r["subject_id"] for r in expected]
    assert not folder.exists()
    with data.opened(store, 3) as prompts:
        assert [len(rows) for rows in prompts.values()] == [3, 3]


def test_a_disk_that_is_full_as_prompts_are_read_is_named(store, monkeypatch):
    """`datasets` looks before it writes, and its error has no number of the system."""
    datasets = data.quiet_datasets()
    monkeypatch.setattr(datasets.builder, "has_sufficient_disk_space", lambda *_, **__: False)
    with pytest.raises(OSError, match="disk space") as full, data.opened(store, None):
        pass
    assert faults.is_full(full.value)


def test_changed_prompts_are_read_anew_and_what_a_kill_left_is_removed(store):
    (store / ".training-prompts.killed").mkdir()
    os.utime(store / ".training-prompts.killed", (0, 0))
    with data.opened(store, None) as prompts:
        assert len(prompts["train"]) == 12
    write_prompts(store, "train", [record(10000000)])
    with data.opened(store, None) as prompts:
        assert len(prompts["train"]) == 1
    assert not list(store.glob(".training-prompts.*"))


def test_nothing_is_written_into_the_home_folder(store, tmp_path):
    """The cache of `datasets` would lie there: patient text outside of the storage folder."""
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import pathlib, sys\n"
        "from mimic_qlora.training import data\n"
        "with data.opened(pathlib.Path(sys.argv[1]), None) as prompts:\n"
        "    assert len(prompts['train']) == 12\n"
    )
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    variables |= {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(store)], env=variables, check=True)
    assert not [path for path in home.rglob("*") if path.is_file()]
