"""The 4-bit base as a folder: other programs load from it what the adapter was trained beside."""

import shutil
import stat

import pytest

from helpers.scripts import folder_bytes, run_here
from helpers.tiny_model import TEMPLATE, write_tiny_model
from mimic_qlora.llm import chat, likelihood, loading
from mimic_qlora.step.files import read_json, write_json


@pytest.fixture(scope="module")
def saved(tuned_store, tmp_path_factory):
    """The 4-bit folder of the tiny model, and the storage folder that it lies in."""
    store = tmp_path_factory.mktemp("saved") / "storage"
    done = run_here("train_qlora.py", "--save-base", "--model", tuned_store.model, storage=store)
    assert done.returncode == 0, done.stderr
    folder = store / "models" / "tiny-nf4"
    assert str(folder) in done.stdout
    return folder, store


def test_peft_loads_from_it_the_model_that_was_trained_bit_for_bit(tuned_store, saved):
    import peft
    import torch
    import transformers

    adapter = tuned_store.path / "adapters" / "default"
    tokenizer = chat.load_tokenizer(tuned_store.model)
    rows = [chat.chat_ids(tokenizer, [{"role": "user", "content": "My knee hurts."}])]
    base = loading.load_base(tuned_store.model, dtype=torch.bfloat16)
    ours = loading.load_adapter(base, adapter)
    folder, _ = saved
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert base.is_loaded_in_4bit
    loading.guard_linear4bit(base)
    theirs = peft.PeftModel.from_pretrained(base, adapter)
    expected = likelihood.log_probabilities(ours, rows)
    assert expected[0].equal(likelihood.log_probabilities(theirs, rows)[0])
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert loaded.chat_template == tokenizer.chat_template
    assert theirs.generation_config.eos_token_id == chat.end_token_ids(tokenizer)


def test_it_is_private_says_what_it_is_and_is_written_once(tuned_store, saved):
    folder, store = saved
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    card = (folder / "README.md").read_text()
    assert "NF4" in card and "for benchmarks" in card
    options = ("--save-base", "--model", tuned_store.model)
    again = run_here("train_qlora.py", *options, storage=store)
    assert again.returncode == 0 and "up to date" in again.stdout


def changed(model, name, **values):
    """Give one of a model's JSON files other values."""
    write_json(model / name, read_json(model / name) | values)
    return model


OTHERS = {
    "weights": lambda model: write_tiny_model(model, seed=1),
    "config.json": lambda model: changed(model, "config.json", rope_theta=77777.0),
    "chat template": lambda model: write_tiny_model(
        model, template=TEMPLATE.replace("Date", "Day")
    ),
    "generation_config.json": lambda model: changed(
        model, "generation_config.json", eos_token_id=2
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_model_of_the_same_last_name_does_not_take_its_place(
    tuned_store, saved, tmp_path, what
):
    folder, store = saved
    before = folder_bytes(folder)
    other = OTHERS[what](shutil.copytree(tuned_store.model, tmp_path / "tiny"))
    done = run_here("train_qlora.py", "--save-base", "--model", other, storage=store)
    assert done.returncode == 2, done.stdout
    assert f"{tuned_store.model} in 4 bits, of other {what}" in done.stderr
    assert "--force" in done.stderr and folder_bytes(folder) == before


def test_a_config_that_says_the_same_is_no_other_model(tuned_store, saved, tmp_path):
    folder, store = saved
    same = shutil.copytree(tuned_store.model, tmp_path / "tiny")
    changed(same, "config.json", transformers_version="4.0.0")
    done = run_here("train_qlora.py", "--save-base", "--model", same, storage=store)
    assert done.returncode == 0 and "up to date" in done.stdout


def test_options_of_a_run_beside_it_are_refused(tmp_path):
    for options, named in (("--run a", "--run"), ("--seeds 1,2 --limit 4", "--limit, --seeds")):
        done = run_here("train_qlora.py", "--save-base", *options.split(), storage=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: --save-base leaves {named} without effect")
