"""Step 5 from its command: what a run leaves, that it is right, and what it refuses. On a tiny model."""

import csv
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

import train_qlora
from helpers.tiny_model import write_tiny_model
from helpers.training_runs import OPTIONS, PATIENTS, record, write_prompts, write_store
from mimic_qlora.llm import chat, generation, loading
from mimic_qlora.step import errors, files
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import callbacks


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def store(tmp_path, tiny) -> Path:
    return write_store(tmp_path / "storage", tiny)


@pytest.fixture
def train(store, tiny, monkeypatch):
    """Run step 5 in this process: train("--epochs", 2) -> the adapter's folder."""

    def main(*options) -> Path:
        name_arguments(*options)
        train_qlora.main()
        return store / "adapters" / "default"

    def name_arguments(*options):
        arguments = ["--storage", store, "--model", tiny, *OPTIONS, *options]
        monkeypatch.setattr(sys, "argv", ["train_qlora.py", *map(str, arguments)])

    def check(*options) -> int:
        name_arguments("--check", *options)
        return train_qlora.main()

    main.check = check
    return main


# ---------------------------------------------------------------- a whole run


@pytest.fixture
def no_network():
    """Fails at any attempt to reach beyond this machine; Python reports them all to an audit hook."""
    watch = {"on": True}

    def hook(event, arguments):
        outward = event in (
            "socket.getaddrinfo",
            "socket.gethostbyname",
            "socket.sendto",
            "socket.connect",
        )
        if (
            outward and watch["on"] and not isinstance(arguments[-1], (str, bytes))
        ):  # a path is a Unix socket
            raise AssertionError(f"a network call: {event} {arguments}")

    sys.addaudithook(hook)
    yield
    watch["on"] = False


def test_a_run_leaves_an_adapter_that_peft_loads_and_that_lowers_validation_loss(
    train, tiny, no_network, capsys
):
    old = os.umask(0o077)
    folder = train("--epochs", 4)
    os.umask(old)
    said = capsys.readouterr().out
    assert (
        "synthetic" in said
        and "validation loss of the base model" in said
        and "answer tok/s" in said
    )
    assert all(len(line) <= 100 for line in said.splitlines() if line.startswith("step "))
    assert (
        "My knee hurts.<|eot_id|><|start_header_id|>assistant<|end_header_id|>⏎⏎⟦Rest it.<|eot_id|>⟧"
        in said
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    found = manifest["results"]
    assert found["validation_loss_adapter"] < found["validation_loss_base"] - 0.2
    value, low, high = found["bits_per_byte"]["difference"]
    assert low < value < high < 0 and found["validation_patients"] == 4
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny) == manifest["base_model"]["name"]
    assert sorted(config["target_modules"]) == sorted(
        f"{n}_proj" for n in ("q", "k", "v", "o", "gate", "up", "down")
    )
    assert {p.name for p in folder.iterdir()} >= {
        "README.md",
        "log.csv",
        "log.json",
        "curves.png",
        "tokenizer.json",
    }
    assert (folder / "chat_template.jinja").read_text() == chat.load_tokenizer(tiny).chat_template
    assert all(p.stat().st_mode & 0o077 == 0 for p in [folder, *folder.iterdir()])
    texts = [
        p.read_text() for p in folder.iterdir() if p.suffix in (".md", ".json", ".csv", ".jinja")
    ]
    assert not {str(s) for s in PATIENTS} & {
        word for text in texts for word in re.findall(r"\d+", text)
    }
    assert [p.name for p in folder.parent.iterdir() if not p.name.endswith(".lock")] == ["default"]
    rows = list(csv.DictReader(open(folder / "log.csv")))
    assert float(rows[0]["eval_loss"]) == found["validation_loss_base"] and rows[0]["step"] == "0"
    assert (
        min(float(r["eval_loss"]) for r in rows if r["eval_loss"])
        == found["validation_loss_adapter"]
    )
    assert all(float(r["padding"]) == 0 and 0 < float(r["mfu"]) < 1 for r in rows if r["loss"])
    log = json.loads((folder / "log.json").read_text())
    last = log["log"][-2]
    computed = last["tokens_per_second"] * (1 - last["shared"])
    assert 0.1 < last["shared"] < 0.9 and last["mfu"] == pytest.approx(
        computed * log["flops_per_token"] / log["peak_flops"]
    )
    assert last["peak_memory_gib"] > log["computed_memory_floor_gib"] > 0

    from safetensors.torch import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}
    assert all(tensor.any() for tensor in weights.values()), "every matrix has learned"
    tokenizer = chat.load_tokenizer(folder)
    model = loading.load_adapter(loading.load_base(tiny), folder)
    base, adapter = generation.generate(
        model, tokenizer, [record(10000000)["messages"][:2]] * 2, ["base", "adapter"], 20
    )
    assert adapter.text != base.text
    with pytest.raises(errors.UpToDate):
        train("--epochs", 4)


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
    with pytest.raises(errors.UpToDate):
        train("--epochs", 2)
    assert not work.exists()


def test_a_run_that_no_longer_helps_ends_early_and_keeps_its_best_adapter(train, store, capsys):
    other = [record(s, "0123456789 " * 9) for s, split in PATIENTS.items() if split == "validation"]
    write_prompts(store, "validation", other)
    folder = train("--epochs", 20, "--patience", 2, "--validations", 20)
    found = json.loads((folder / "manifest.json").read_text())["results"]
    rows = [r for r in csv.DictReader(open(folder / "log.csv")) if r["eval_loss"]]
    assert found["steps"] < found["planned_steps"] and "ended early" in capsys.readouterr().out
    best = min(rows, key=lambda r: float(r["eval_loss"]))
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


def test_a_recipe_gives_what_the_command_line_leaves_open(train, tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "epochs: 1\nlr: 0.5\nbatch_tokens: 300\naccumulate: 3\ncheckpointing: 2\n"
        "optimizer: adamw_torch_fused\nvalidations: 1\n"
    )
    folder = train("--recipe", recipe, "--max-steps", 1)
    settings = json.loads((folder / "manifest.json").read_text())["settings"]
    assert (settings["checkpointing"], settings["validations"]) == ("2", 1), "the recipe's"
    assert (settings["batch_tokens"], settings["lr"]) == (400, 0.01), "the command line's"
    assert "Checkpointed: one of 2 layers" in capsys.readouterr().out


def test_every_recipe_is_complete(monkeypatch):
    for path in sorted(train_qlora.RECIPES.glob("*.yaml")):
        if "accelerate" not in path.stem:
            monkeypatch.setattr(sys, "argv", ["train_qlora.py", "--recipe", path.stem])
            train_qlora.complete(train_qlora.arguments())


def test_the_fsdp_recipe_has_keys_that_accelerate_knows():
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(train_qlora.RECIPES / "fsdp_accelerate.yaml"))
    fields = FullyShardedDataParallelPlugin.__dataclass_fields__
    known = {name.removeprefix("fsdp_") for name in fields} | {
        "offload_params"
    }  # cpu_offload there
    assert {key.removeprefix("fsdp_") for key in config.fsdp_config} <= known
    # the Trainer saves an adapter only then
    assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"


def test_check_names_everything_that_is_missing_and_trains_nothing(train, store, tmp_path, capsys):
    assert train.check() == 0
    assert "Nothing is missing" in capsys.readouterr().out
    test_patient(store)
    damaged = shutil.copytree(storage_model(store), tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"cut")
    assert train.check("--model", damaged) == 2
    said = capsys.readouterr().out
    assert "2 missing: every patient in the split of step 1; model on this machine, whole" in said
    assert not (store / "adapters").exists()


def storage_model(store) -> Path:
    return Path(json.loads((store / "prompts" / "context.json").read_text())["model"])


# ---------------------------------------------------------------- refusals


def empty_train(store):
    write_prompts(store, "train", [])


def empty_answer(store):
    rows = [record(10000000)]
    rows[0]["messages"][-1]["content"] = " "
    write_prompts(store, "train", rows)


def test_patient(store):
    write_prompts(
        store, "train", [record(s) for s, split in PATIENTS.items() if split in ("train", "test")]
    )


def same_patient_twice(store):
    write_prompts(store, "validation", [record(10000000)])


def other_template(store):
    files.write_json(
        store / "prompts" / "context.json", {"model": "other/model", "template_sha256": "0"}
    )


def other_model(store):
    settings = json.loads((store / "prompts" / "context.json").read_text())
    files.write_json(store / "prompts" / "context.json", settings | {"model": "other/model"})


def no_answer(store):
    rows = [record(10000000)]
    write_prompts(store, "train", [{**rows[0], "messages": rows[0]["messages"][:2]}])


def broken_line(store):
    (store / "prompts" / "train.jsonl").write_text('{"messages": [')


test_patient.__test__ = False


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, ["--model", "no/model"], "hf download no/model"),
        (None, ["--max-length", "60"], "answers would be cut"),
        (None, ["--max-length", "99999"], "2048 tokens that the model can read"),
        (None, ["--lr", "nan"], "--lr nan"),
        (None, ["--rank", "0"], "--rank 0"),
        (None, ["--run", "../up"], "no folder name"),
        (empty_train, [], "holds no prompt"),
        (empty_answer, [], "line 1: the answer is empty"),
        (test_patient, [], "line 4 is of a patient whom step 1 put into test"),
        (same_patient_twice, [], "line 1 is of a patient whom step 1 put into train"),
        (other_template, [], "budgeted for other/model"),
        (other_model, [], "budgeted for other/model, not for"),
        (broken_line, [], "train.jsonl cannot be read"),
        (no_answer, [], "train.jsonl cannot be read"),
        (None, ["--epochs", "0"], "--epochs 0.0 is not a positive number"),
        (None, ["--recipe", "none such"], "give one of cpu, fsdp, gpu_24gb"),
        (None, ["--compute", "fp16"], "a CPU does not train in float16"),
        (None, ["--compute", "int1"], "--compute int1 is none of"),
        (None, ["--checkpointing", "0"], "--checkpointing 0 is none of"),
        (None, ["--seeds", "0,x"], "no list of whole numbers"),
    ],
)
def test_it_refuses_to_train_wrongly(train, store, change, options, message):
    if change:
        change(store)
    with pytest.raises(UserError, match=message):
        train(*options)
    assert not (store / "adapters" / "default").exists()


def test_too_little_memory_is_noticed_before_training(train, monkeypatch):
    monkeypatch.setattr("mimic_qlora.training.run.hardware.free_memory", lambda: 1000)
    with pytest.raises(UserError, match="GB of memory free, training needs"):
        train()
    with pytest.raises(
        UserError, match="GB of memory free"
    ):  # and not that a run with other settings is unfinished
        train("--seed", 7)


def test_a_loss_that_is_no_number_ends_the_run(train):
    with pytest.raises(UserError, match="no longer a number at step .*lower --lr"):
        train("--lr", 1e30, "--epochs", 20)


def test_a_full_disk_is_noticed_before_training(train, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match="MB free"):
        train()


def test_missing_prompts_end_in_one_sentence_and_help_is_quick(run, store):
    (store / "prompts" / "manifest.json").unlink()
    ended = run("train_qlora.py")
    assert (
        ended.returncode == 2
        and "make_symptom_prompts" in ended.stderr
        and "Traceback" not in ended.stderr
    )
    started = os.times().children_user
    assert run("train_qlora.py", "--help").returncode == 0
    assert os.times().children_user - started < 0.8
