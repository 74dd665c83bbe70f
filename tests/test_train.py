"""Step 5: what is trained, on which tokens, and that a run ends whole or goes on. On the tiny model of test_models."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_models import TALK, TEMPLATE, write_tiny_model

import train_qlora
from mimic_qlora import generation, models, storage
from mimic_qlora.storage import UserError

ROOT = Path(train_qlora.__file__).parent
PATIENTS = {10000000 + 7 * i: ("train", "train", "validation", "train", "test")[i % 5] for i in range(20)}
OPTIONS = ["--batch-tokens", "400", "--accumulate", "2", "--lr", "0.01", "--rank", "4", "--dropout", "0.1"]


def record(subject_id: int, answer: str = "- Rest and drink water.") -> dict:
    symptom = ("cough", "a sore leg", "a bad headache since this morning")[subject_id % 3]
    question = {"role": "user", "content": f"Patient context\n- Age: {subject_id % 90}\n\nQuestion\nI have {symptom}."}
    answer = {"role": "assistant", "content": f"What you can try now\n{answer} {'Sit down. ' * (subject_id % 4)}"}
    return {"messages": [TALK[0], question, answer], "subject_id": subject_id, "split": PATIENTS[subject_id]}


def write_prompts(store: Path, split: str, records: list) -> None:
    lines = [json.dumps(row) + "\n" for row in records]
    (store / "prompts" / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def store(tmp_path, tiny) -> Path:
    """A storage folder as steps 1 and 4 leave it, with twelve training and four validation prompts."""
    store = tmp_path / "storage"
    for step, inputs in (("subjects", {}), ("prompts", {"subjects": None})):
        (store / step).mkdir(parents=True)
        source = {"kind": "synthetic", "folder": "synthetic", "patients": len(PATIENTS)}
        storage.write_json(store / step / "manifest.json", storage.new_manifest(step, {}, inputs) | {"source": source})
    rows = "".join(f"{subject_id},{split}\n" for subject_id, split in PATIENTS.items())
    (store / "subjects" / "split.csv").write_text(f"subject_id,split\n{rows}")
    for split in ("train", "validation"):
        write_prompts(store, split, [record(s) for s, name in PATIENTS.items() if name == split])
    template = models.template_sha256(models.load_tokenizer(tiny))
    storage.write_json(store / "prompts" / "context.json", {"model": str(tiny), "template_sha256": template})
    return store


@pytest.fixture
def train(store, tiny, monkeypatch):
    """Run step 5 in this process: train("--epochs", 2) -> the adapter's folder."""

    def main(*options) -> Path:
        arguments = ["--storage", store, "--model", tiny, *OPTIONS, *options]
        monkeypatch.setattr(sys, "argv", ["train_qlora.py", *map(str, arguments)])
        train_qlora.main()
        return store / "adapters" / "default"

    return main


@pytest.fixture
def samples(tiny):
    from mimic_qlora import training

    tokenizer = models.load_tokenizer(tiny)
    return [training.encode(tokenizer, record(s)["messages"], "here") for s in PATIENTS]


# ---------------------------------------------------------------- samples, packs, loss


def test_exactly_the_answer_and_its_end_token_are_supervised(tiny):
    from mimic_qlora import training

    tokenizer, messages = models.load_tokenizer(tiny), record(10000000)["messages"]
    sample = training.encode(tokenizer, messages, "here")
    assert tokenizer.decode(sample.ids[sample.n_prompt :]) == messages[-1]["content"].strip() + "<|eot_id|>"
    assert tokenizer.decode(sample.ids[: sample.n_prompt]).endswith("assistant<|end_header_id|>\n\n")


def test_a_template_that_hides_or_never_ends_the_answer_is_refused(tmp_path):
    from mimic_qlora import training

    for change, message in (
        (TEMPLATE.replace("{% if loop.first %}", "{% if not loop.last %}"), "rewrites earlier turns"),
        (TEMPLATE.replace("<|eot_id|>", "\n"), "ends no answer"),
    ):
        folder = write_tiny_model(tmp_path / str(len(change)), template=change)
        with pytest.raises(UserError, match=message):
            training.encode(models.load_tokenizer(folder), record(10000000)["messages"], "prompts/train.jsonl line 1")


def test_every_sample_is_in_one_pack_and_no_pack_overflows(samples):
    from mimic_qlora import training

    longest = max(len(sample.ids) for sample in samples)
    for room in (1, longest, 3 * longest):
        packs = training.pack(samples, room)
        assert sorted(sample for pack in packs for sample in pack) == sorted(samples)
        assert all(len(pack) == 1 or sum(len(s.ids) for s in pack) <= room for pack in packs)
    assert len(packs) < len(samples) / 2


def test_packed_loss_and_gradients_equal_unpacked(samples, tiny):
    import torch

    from mimic_qlora import training

    model = models.load_base(tiny, four_bit=False).float()
    results = []
    for packs in ([samples], [[sample] for sample in samples]):
        model.zero_grad()
        loss = sum(training.summed_loss(model, on(model, training.collate(pack))) for pack in packs)
        loss.backward()
        results.append((loss.item(), model.model.layers[0].mlp.up_proj.weight.grad.clone()))
    (packed, packed_gradient), (alone, gradient) = results
    assert packed == pytest.approx(alone, rel=1e-4)
    torch.testing.assert_close(packed_gradient, gradient, rtol=1e-3, atol=1e-3)


def test_logits_where_supervised_give_the_loss_of_full_logits(samples, tiny):
    import torch

    from mimic_qlora import training

    model = models.load_base(tiny, four_bit=False).float()
    batch = on(model, training.collate(samples[:3]))
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, batch["supervised"] + 1] = batch["targets"]
    full = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], labels=labels, use_cache=False).loss
    assert training.summed_loss(model, batch).item() / len(batch["targets"]) == pytest.approx(full.item(), rel=1e-4)


def on(model, batch: dict) -> dict:
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


# ---------------------------------------------------------------- a whole run


def test_a_run_leaves_an_adapter_that_peft_loads_and_that_lowers_validation_loss(train, tiny, monkeypatch, capsys):
    import socket

    def refuse(*_):
        raise AssertionError("a network call")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    old = os.umask(0o077)
    folder = train("--epochs", 4)
    os.umask(old)
    said = capsys.readouterr().out
    assert "synthetic" in said and "validation loss of the base model" in said and "supervised tok/s" in said
    manifest = json.loads((folder / "manifest.json").read_text())
    found = manifest["results"]
    assert found["validation_loss_adapter"] < found["validation_loss_base"] - 0.2
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny) == manifest["base_model"]["name"]
    assert sorted(config["target_modules"]) == sorted(f"{n}_proj" for n in ("q", "k", "v", "o", "gate", "up", "down"))
    assert {p.name for p in folder.iterdir()} >= {"README.md", "log.csv", "curves.png", "tokenizer.json"}
    assert all(p.stat().st_mode & 0o077 == 0 for p in [folder, *folder.iterdir()])
    assert not any(str(s) in p.read_text() for s in PATIENTS for p in (folder / "README.md", folder / "manifest.json"))
    assert [p.name for p in folder.parent.iterdir() if not p.name.endswith(".lock")] == ["default"]
    rows = list(csv.DictReader(open(folder / "log.csv")))
    assert float(rows[0]["eval_loss"]) == found["validation_loss_base"] and rows[0]["step"] == "0"
    assert min(float(r["eval_loss"]) for r in rows if r["eval_loss"]) == found["validation_loss_adapter"]

    from safetensors.torch import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}
    assert all(tensor.any() for tensor in weights.values()), "every matrix has learned"
    tokenizer = models.load_tokenizer(folder)
    model = models.load_adapter(models.load_base(tiny), folder)
    base, adapter = generation.generate(
        model, tokenizer, [record(10000000)["messages"][:2]] * 2, ["base", "adapter"], 20
    )
    assert adapter.text != base.text
    with pytest.raises(storage.UpToDate):
        train("--epochs", 4)


def test_every_supervised_token_weighs_the_same_in_a_step(train, samples, tiny):
    from mimic_qlora import training

    folder = train("--max-steps", 1, "--accumulate", 99, "--dropout", 0, "--batch-tokens", 1)
    logged = next(float(r["loss"]) for r in csv.DictReader(open(folder / "log.csv")) if r["loss"])
    model = models.load_base(tiny)
    batches = [
        on(model, training.collate([sample]))
        for sample, split in zip(samples, PATIENTS.values(), strict=True)
        if split == "train"
    ]
    total = sum(training.summed_loss(model, batch).item() for batch in batches)
    assert logged == pytest.approx(total / sum(len(batch["targets"]) for batch in batches), rel=5e-3)


def test_an_interrupted_run_goes_on_to_the_same_adapter(train, store, monkeypatch, capsys):
    from mimic_qlora import training

    expected = (train("--epochs", 2, "--run", "whole").parent / "whole" / "adapter_model.safetensors").read_bytes()
    step_end = training.Pace.on_step_end

    def interrupted(self, args, state, control, **kwargs):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        step_end(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(training.Pace, "on_step_end", interrupted)
        with pytest.raises(SystemExit) as stop:
            train("--epochs", 2)
    assert stop.value.code == 130 and "the same command goes on" in capsys.readouterr().out
    with pytest.raises(UserError, match="other settings .*epochs"):
        train("--epochs", 3)
    half = store / "adapters" / ".default.training" / "checkpoint-3"
    half.mkdir()
    folder = train("--epochs", 2)
    assert "Going on from step 2" in capsys.readouterr().out
    assert (folder / "adapter_model.safetensors").read_bytes() == expected


def test_sigterm_saves_a_checkpoint_and_ends_with_143(store, tiny):
    command = [sys.executable, ROOT / "train_qlora.py", "--storage", store, "--model", tiny, *OPTIONS, "--epochs", 500]
    run = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in run.stdout:
        if "loss" in line and "base model" not in line:
            break
    run.send_signal(signal.SIGTERM)
    rest = run.stdout.read()
    assert run.wait(timeout=60) == 143, rest
    assert "the same command goes on" in rest
    assert list((store / "adapters" / ".default.training").glob("checkpoint-*/trainer_state.json"))
    assert not (store / "adapters" / "default").exists()


# ---------------------------------------------------------------- refusals


def empty_train(store):
    write_prompts(store, "train", [])


def empty_answer(store):
    rows = [record(10000000)]
    rows[0]["messages"][-1]["content"] = " "
    write_prompts(store, "train", rows)


def test_patient(store):
    write_prompts(store, "train", [record(s) for s, split in PATIENTS.items() if split in ("train", "test")])


def same_patient_twice(store):
    write_prompts(store, "validation", [record(10000000)])


def other_template(store):
    storage.write_json(store / "prompts" / "context.json", {"model": "other/model", "template_sha256": "0"})


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
        (broken_line, [], "train.jsonl cannot be read"),
    ],
)
def test_it_refuses_to_train_wrongly(train, store, change, options, message):
    if change:
        change(store)
    with pytest.raises(UserError, match=message):
        train(*options)
    assert not (store / "adapters" / "default").exists()


def test_a_full_disk_is_noticed_before_training(train, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match="MB free"):
        train()


def test_missing_prompts_end_in_one_sentence_and_help_is_quick(run, store):
    (store / "prompts" / "manifest.json").unlink()
    ended = run("train_qlora.py")
    assert ended.returncode == 2 and "make_symptom_prompts" in ended.stderr and "Traceback" not in ended.stderr
    started = os.times().children_user
    assert run("train_qlora.py", "--help").returncode == 0
    assert os.times().children_user - started < 0.8
