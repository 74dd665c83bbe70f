"""A whole run from its command: what it leaves and that it is right, on a tiny model."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import train_qlora
from helpers.paths import ROOT
from helpers.scripts import folder_bytes, run_script
from helpers.training_runs import OPTIONS, PATIENTS, record, write_prompts
from mimic_qlora.llm import chat, generation, loading
from mimic_qlora.step import files, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import (
    callbacks,
    hardware,
)
from mimic_qlora.training import run as train_run
from mimic_qlora.training.memorisation import canaries


def test_a_run_lowers_the_validation_loss(finished):
    found = finished.manifest["results"]
    assert found["validation_loss_adapter"] < found["validation_loss_base"] - 0.2
    value, low, high = found["bits_per_byte"]["difference"]
    assert low < value < high < 0 and found["validation_patients"] == 4


def test_a_run_has_a_name_for_torchrun_too(monkeypatch):
    """Which takes `--run` for a beginning of its own --run-path."""
    monkeypatch.setattr("sys.argv", ["train_qlora.py", "--run-name", "seed.1"])
    assert train_qlora.arguments().run == "seed.1"


def test_what_is_refused_waits_for_no_library_that_trains():
    modules = "mimic_qlora.training.run, mimic_qlora.export.base_folder"
    code = f"import sys, {modules}; print({{'peft', 'bitsandbytes'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stderr


def test_a_run_says_what_it_does_in_lines_of_100_columns(finished):
    said = finished.said
    assert "synthetic" in said and "validation loss of the base model" in said
    assert re.search(r"\d tok/s \(\d+ of answers\)", said)
    assert all(len(line) <= 100 for line in said.splitlines() if line.startswith("step "))
    header = "<|start_header_id|>assistant<|end_header_id|>"
    assert f"My knee hurts.<|eot_id|>{header}⏎ ⏎ ⟦Rest it.<|eot_id|>⟧" in said


def test_the_folder_holds_what_peft_loads_and_a_reader_needs(finished, tiny):
    folder, manifest = finished.folder, finished.manifest
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny) == manifest["base_model"]["name"]
    linear = ("q", "k", "v", "o", "gate", "up", "down")
    assert sorted(config["target_modules"]) == sorted(f"{n}_proj" for n in linear)
    files = {"README.md", "log.csv", "log.json", "curves.png", "tokenizer.json"}
    assert {p.name for p in folder.iterdir()} >= files
    assert (folder / "chat_template.jinja").read_text() == chat.load_tokenizer(tiny).chat_template


def test_the_folder_is_private_names_no_patient_and_is_all_that_is_left(finished):
    folder = finished.folder
    assert all(p.stat().st_mode & 0o077 == 0 for p in [folder, *folder.iterdir()])
    texts = [
        p.read_text() for p in folder.iterdir() if p.suffix in (".md", ".json", ".csv", ".jinja")
    ]
    assert len(texts) > 5
    assert not {str(s) for s in PATIENTS} & {
        word for text in texts for word in re.findall(r"\d+", text)
    }
    assert [p.name for p in folder.parent.iterdir() if not p.name.endswith(".lock")] == ["default"]
    assert {p.name for p in finished.store.iterdir()} == {"adapters", "prompts", "subjects"}


def test_the_log_agrees_with_the_results_and_with_itself(finished):
    folder, found = finished.folder, finished.manifest["results"]
    rows = list(csv.DictReader(open(folder / "log.csv")))
    assert float(rows[0]["eval_loss"]) == found["validation_loss_base"] and rows[0]["step"] == "0"
    validated = [float(r["eval_loss"]) for r in rows if r["eval_loss"]]
    assert min(validated) == found["validation_loss_adapter"]
    assert all(float(r["padding"]) == 0 and 0 < float(r["mfu"]) <= 1 for r in rows if r["loss"])
    log = json.loads((folder / "log.json").read_text())
    last = log["log"][-2]
    computed = last["tokens_per_second"] * (1 - last["shared"])
    assert 0.1 < last["shared"] < 0.9
    assert last["mfu"] == pytest.approx(last["flops_per_second"] / log["peak_flops"])
    assert last["flops_per_second"] == pytest.approx(computed * log["flops_per_token"], rel=0.2)
    assert last["peak_memory_gib"] > log["computed_memory_floor_gib"] > 0


def test_no_step_is_faster_than_the_peak(train, monkeypatch, capsys):
    """The peak is measured, perhaps while the machine had other work."""
    slow = hardware.Peak(1.0, "1 FLOP/s, measured")
    monkeypatch.setattr(hardware, "peak_flops", lambda *_: slow)
    folder = train("--max-steps", 4)
    said = re.findall(r"MFU (\d+)%", capsys.readouterr().out)
    assert len(said) == 4 and all(0 < int(share) <= 100 for share in said)
    log = json.loads((folder / "log.json").read_text())
    shares = [row["mfu"] for row in log["log"] if "mfu" in row]
    assert max(shares) == 1 and log["peak_flops_from"].endswith("raised to the fastest step")
    assert log["peak_flops"] == max(row.get("flops_per_second", 0) for row in log["log"])
    assert shares == [float(r["mfu"]) for r in csv.DictReader(open(folder / "log.csv")) if r["mfu"]]


def test_every_matrix_has_learned_and_the_adapter_answers_otherwise_than_the_base(finished, tiny):
    from safetensors.torch import load_file

    weights = load_file(finished.folder / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}
    assert all(tensor.any() for tensor in weights.values()), "every matrix has learned"
    tokenizer = chat.load_tokenizer(finished.folder)
    model = loading.load_adapter(loading.load_base(tiny), finished.folder)
    base, adapter = generation.generate(
        model, tokenizer, [record(10000000)["messages"][:2]] * 2, ["base", "adapter"], 20
    )
    assert adapter.text != base.text


def test_an_adapter_that_is_up_to_date_is_not_trained_again(finished, tiny, monkeypatch, capsys):
    options = ["--storage", finished.store, "--model", tiny, *OPTIONS, "--epochs", 4]
    monkeypatch.setattr(sys, "argv", ["train_qlora.py", *map(str, options)])
    before = folder_bytes(finished.folder)
    work = finished.folder.with_name(".default.training")
    work.mkdir()  # a kill came before it went itself
    train_qlora.main()
    assert not work.exists()
    shown = capsys.readouterr().out
    assert "is up to date (--force redoes it)" in shown and folder_bytes(finished.folder) == before
    # the next steps, with what they need to find this adapter
    assert f"./run.sh 50 --storage {finished.store} --model {tiny}" in shown


OTHER = r"default holds an adapter \(.*\) of other settings \(epochs\), which this run "
REFUSED = OTHER + "would replace: give another --run .*, or --replace-adapter"


@pytest.mark.parametrize(
    ("steps", "flags", "says"),
    [
        (82, [], f"{OTHER}replaces at its end: .* choose another --run\nbegins to train"),
        (5000, ["--force"], REFUSED),
        (None, [], REFUSED),
        (5000, ["--replace-adapter"], "Recipe: cpu\nbegins to train"),
    ],
)
def test_an_adapter_of_other_settings_gives_way_unasked_only_if_it_was_a_trial(
    finished, tiny, monkeypatch, capsys, steps, flags, says
):
    def stop(*_):
        raise UserError("begins to train")

    options = ["--storage", finished.store, "--model", tiny, *OPTIONS, "--epochs", 5, *flags]
    monkeypatch.setattr(sys, "argv", ["train_qlora.py", *map(str, options)])
    monkeypatch.setattr(train_run, "read_samples", stop)
    # an older manifest has a part of the base's fingerprint, which is no other base
    older = files.read_json(finished.folder / "manifest.json")
    base = older["settings"]["base_model"]
    base["fingerprint"] = base["fingerprint"][:16]
    older["results"]["steps"] = steps
    monkeypatch.setattr(train_run.manifests, "read", lambda place: older)
    with pytest.raises(UserError) as ended:
        train_qlora.main()
    assert re.search(says, capsys.readouterr().out + str(ended.value))


@pytest.mark.parametrize(
    ("steps", "options", "kept"),
    [
        (5000, ["--canaries", 30], True),
        (None, ["--canaries", 30, "--run", "b", "--force"], True),
        (5000, ["--canaries", 20, "--run", "b"], True),
        (82, ["--canaries", 30], False),
        (5000, ["--canaries", 30, "--run", "b", "--replace-adapter"], False),
    ],
)
def test_canaries_of_a_finished_adapter_stay_where_others_are_asked_for(
    train, store, monkeypatch, steps, options, kept
):
    def stop(*_):
        raise UserError("begins to train")

    monkeypatch.setattr(canaries, "_made", lambda store, n, _: map(canary, range(n)))
    monkeypatch.setattr(train_run, "read_samples", stop)
    prompts = storage.verified_manifest(store, "prompts")["id"]
    of_20 = {"prompts": prompts, "canaries": canaries.make(store, 20, prompts)}
    with storage.step_output(store, "adapters/default-canaries", {"canaries": 20}, of_20) as out:
        out.facts["results"] = {"steps": steps}
    before = folder_bytes(store / "canaries")
    with pytest.raises(UserError) as ended:
        train(*options)
    assert (folder_bytes(store / "canaries") == before) is kept
    refused = "20 canaries of the finished adapter default-canaries.* give --canaries 20, another"
    others = kept and 30 in options
    assert re.search(refused if others else "begins to train", str(ended.value))


def canary(number: int) -> canaries.Canary:
    return canaries.Canary(number, [], *canaries.flip(number))


def test_every_supervised_token_weighs_the_same_however_a_step_is_cut_up(train):
    """Twelve samples of unlike length in one step: one sequence, or twelve that are accumulated."""
    from safetensors.torch import load_file

    options = ["--max-steps", 2, "--dropout", 0, "--accumulate", 99, "--seed", 3]
    folders = [
        train(*options, "--batch-tokens", room, "--run", f"room{room}").parent / f"room{room}"
        for room in (1, 9999)
    ]
    alone, packed = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    losses = [
        [float(r["loss"]) for r in csv.DictReader(open(f / "log.csv")) if r["loss"]]
        for f in folders
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert any(weight.any() for name, weight in alone.items() if "lora_B" in name)
    for name in alone:
        torch.testing.assert_close(alone[name], packed[name], rtol=1e-3, atol=1e-4)


def test_an_interrupted_run_goes_on_only_with_the_same_settings(train, store, monkeypatch, capsys):
    step_end = callbacks.Pace.on_step_end

    def interrupted(self, args, state, control, **kwargs):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        step_end(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Pace, "on_step_end", interrupted)
        with pytest.raises(SystemExit) as stop:
            train("--epochs", 2)
    assert stop.value.code == 130 and "the same command goes on" in capsys.readouterr().out
    with pytest.raises(UserError, match="other settings .*epochs"):
        train("--epochs", 3)
    (
        store / "adapters" / ".default.training" / "checkpoint-3"
    ).mkdir()  # half of one, as a kill leaves it
    train("--epochs", 2)
    assert "Going on from step 2" in capsys.readouterr().out
    work = store / "adapters" / ".default.training"
    work.mkdir()  # a kill right after the end leaves it behind
    shutil.copy(store / "adapters" / "default" / "manifest.json", work / "draft.json")
    train("--epochs", 2)
    assert "is up to date" in capsys.readouterr().out and not work.exists()
    (work / "checkpoint-6").mkdir(parents=True)
    shutil.copy(store / "adapters" / "default" / "manifest.json", work / "draft.json")
    train("--epochs", 1)  # what a run that has ended left is in the way of no other one
    assert not work.exists()


def test_a_run_that_no_longer_helps_ends_early_and_keeps_its_best_adapter(train, store, capsys):
    other = [record(s, "0123456789 " * 9) for s, split in PATIENTS.items() if split == "validation"]
    write_prompts(store, "validation", other)
    folder = train("--epochs", 20, "--patience", 2, "--validations", 20)
    found = json.loads((folder / "manifest.json").read_text())["results"]
    rows = [r for r in csv.DictReader(open(folder / "log.csv")) if r["eval_loss"]]
    assert found["steps"] < found["planned_steps"] and "ended early" in capsys.readouterr().out
    best = min(rows, key=lambda r: float(r["eval_selection_loss"]))
    assert [r["step"] for r in rows].index(best["step"]) == len(rows) - 3
    assert found["best_step"] == int(best["step"])


def test_seeds_train_an_adapter_each(train, store, capsys):
    train("--max-steps", 1, "--seeds", "0,1")
    weights = [
        store / "adapters" / f"default-seed{n}" / "adapter_model.safetensors" for n in (0, 1)
    ]
    assert weights[0].read_bytes() != weights[1].read_bytes()
    train("--max-steps", 1, "--seeds", "0,1")
    assert capsys.readouterr().out.count("is up to date") == 2


def test_missing_prompts_end_in_one_sentence_and_help_is_quick(run, store):
    (store / "prompts" / "manifest.json").unlink()
    ended = run("train_qlora.py")
    assert (
        ended.returncode == 2
        and "make_symptom_prompts" in ended.stderr
        and "Traceback" not in ended.stderr
    )
    started = os.times().children_user
    helped = run_script("train_qlora.py", "--help", storage=store)
    assert helped.returncode == 0
    assert os.times().children_user - started < 0.8
