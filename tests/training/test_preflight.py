"""--check: everything that is missing is named."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from helpers.launched import launched
from helpers.training_runs import PATIENTS, record, write_prompts
from mimic_qlora.llm import loading
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import preparation
from mimic_qlora.training.encoding import in_parallel


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
    assert train.check("--model", f"{damaged}\r") == 2  # of a script saved on Windows
    assert "damaged\\r is neither a folder" in capsys.readouterr().out


def test_check_prints_what_memory_training_needs_also_without_weights(
    train, store, tmp_path, capsys, monkeypatch
):
    assert train.check() == 0
    said = capsys.readouterr().out
    needs = re.search(r"GB of memory free, training needs (\S+) GB \(computed\)", said)
    assert needs and "GB free" in said
    config = tmp_path / "later" / "config.json"  # all that was fetched so far
    config.parent.mkdir()
    shutil.copy(storage_model(store) / "config.json", config)
    assert train.check("--model", config.parent) == 2
    said = capsys.readouterr().out
    assert "lacks tokenizer_config.json, tokenizer.json, model.safetensors" in said
    assert "ok       memory" in said and "training needs" in said
    monkeypatch.setattr("mimic_qlora.training.hardware.free_memory", lambda: 1000)
    assert train.check("--model", config.parent) == 2
    assert "missing  memory: this job has 0.0 GB" in capsys.readouterr().out
    config.write_text('{"model_type": "gpt2"}')
    assert train.check("--model", config.parent) == 2
    assert "does not give the shape of a model of the Llama family" in capsys.readouterr().out


@pytest.mark.parametrize(
    "size",
    [
        {"intermediate_size": -1},
        {"intermediate_size": 0},
        {"intermediate_size": 10**9},
        {"head_dim": 0},
        {"head_dim": 3},
        {"vocab_size": None},
        {"vocab_size": 3},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 10**9},
        {"num_key_value_heads": 0},
        {"hidden_size": 2.5},
    ],
    ids=str,
)
def test_a_shape_that_cannot_be_or_is_not_that_of_the_weights_is_refused(tiny, tmp_path, size):
    folder = shutil.copytree(tiny, tmp_path / "model")
    assert preparation.checked_shape(folder) == preparation.shape_of(tiny)
    config = json.loads((tiny / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | size))
    with pytest.raises(
        UserError, match=r"model/config\.json (does not give|gives another) .*shape"
    ):
        preparation.checked_shape(folder)


def test_check_asks_for_more_memory_the_more_layers_are_kept(train, capsys):
    needed = []
    for options in (["all"], ["2"], ["none"], ["none", "--batch-tokens", 4000]):
        assert train.check("--checkpointing", *options) == 0
        said = capsys.readouterr().out
        assert "training needs" in said
        needed.append(re.search(r"training needs (\S+) GB", said)[1])
    assert sorted(needed, key=float) == needed


def test_of_several_processes_the_first_checks_for_all(train, store, monkeypatch, capsys):
    launched(monkeypatch, rank=1)
    (store / "prompts" / "train.jsonl").unlink()
    assert train.check() == 0, "a failure would let the launcher stop the first process"
    assert not capsys.readouterr().out


def test_check_encodes_for_the_training_that_follows(train, store, monkeypatch):
    assert train.check() == 0
    monkeypatch.setattr(in_parallel, "encode", lambda *_: pytest.fail("encoded again"))
    assert train.check() == 0
    train("--max-steps", 1)


def test_check_names_an_index_and_a_shard_that_are_not_there(train, store, tmp_path, capsys):
    folder = shutil.copytree(storage_model(store), tmp_path / "sharded")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    assert train.check("--model", folder) == 2
    lacks = "lacks model.safetensors.index.json, model-00002-of-00002.safetensors"
    assert lacks in capsys.readouterr().out


@pytest.mark.parametrize("how", ["recipe", "accelerate"])
def test_sharding_without_a_gpu_is_one_sentence_before_the_base_is_loaded(
    train, monkeypatch, capsys, how
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(loading, "load_base", lambda *_, **__: pytest.fail("loaded"))
    options = ["--recipe", "fsdp"] if how == "recipe" else []
    if how == "accelerate":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert train.check(*options) == 2
    assert "missing  driver and number type: FSDP shards" in capsys.readouterr().out
    with pytest.raises(UserError, match="PyTorch sees none here"):
        train(*options)


def test_one_process_where_several_were_asked_for_says_so(train, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert train.check() == 0
    assert "it goes on with one" in " ".join(capsys.readouterr().out.split())
    train("--max-steps", 1)
    assert "it goes on with one" in capsys.readouterr().out
    monkeypatch.delenv("MASTER_PORT")
    assert train.check() == 0 and "goes on with one" not in capsys.readouterr().out


def storage_model(store) -> Path:
    return Path(json.loads((store / "prompts" / "context.json").read_text())["model"])


def add_test_patient(store):
    write_prompts(
        store, "train", [record(s) for s, split in PATIENTS.items() if split in ("train", "test")]
    )
