"""--check: everything that is missing is named."""

import json
import shutil
from pathlib import Path

from helpers.training_runs import PATIENTS, record, write_prompts


def test_check_names_everything_that_is_missing_and_trains_nothing(train, store, tmp_path, capsys):
    assert train.check() == 0
    assert "Nothing is missing" in capsys.readouterr().out
    add_test_patient(store)
    damaged = shutil.copytree(storage_model(store), tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"cut")
    assert train.check("--model", damaged) == 2
    said = capsys.readouterr().out
    assert "2 missing: every patient in the split of step 1; model on this machine, whole" in said
    assert not (store / "adapters").exists()


def storage_model(store) -> Path:
    return Path(json.loads((store / "prompts" / "context.json").read_text())["model"])


def add_test_patient(store):
    write_prompts(
        store, "train", [record(s) for s, split in PATIENTS.items() if split in ("train", "test")]
    )
