"""A run of step 7 in the process of the test."""

import re
import shutil
import sys

import pytest

from helpers.paths import ROOT
from helpers.scripts import as_it_was, load_script
from helpers.step7 import answer
from mimic_qlora.llm import generation, loading
from mimic_qlora.step import command_line
from mimic_qlora.validation import plan
from mimic_qlora.validation.scoring import likeness

validate = load_script(ROOT / "run_files" / "validate.py")


@pytest.fixture
def run_validate(tuned_store, tmp_path, monkeypatch, capsys):
    """run_validate("5", "--final") -> (exit code, stdout, stderr), with ready answers."""
    store = tmp_path / "storage"
    shutil.copytree(tuned_store.path, store)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(loading, "load_base", lambda *_: None)
    monkeypatch.setattr(loading, "unpacked", lambda model: model)
    monkeypatch.setattr(loading, "load_adapter", lambda *_: None)
    # plans of tests are too small to show anything; test_plan.py has the real check
    monkeypatch.setattr(plan, "check_power", lambda *_: None)
    folders = []

    monkeypatch.setattr(generation, "answer", answer)
    # stands in for the embedder, which takes seconds; tests/validation/scoring has the real one
    monkeypatch.setattr(likeness, "cosines", lambda pairs: [0.5] * len(pairs))

    def run_validate(*args):
        model = [] if "--model" in args else ["--model", str(tuned_store.model)]
        monkeypatch.setattr(sys, "argv", ["run.sh", *args, *model, "--storage", str(store)])
        with as_it_was(), pytest.raises(SystemExit) as end:
            command_line.run(validate.main)
        out, err = capsys.readouterr()
        folders.extend(re.findall(r"Results: (\S+) \(copy", out))
        return end.value.code, out, err

    run_validate.store = store
    yield run_validate
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
