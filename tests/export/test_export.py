"""A merged model answers as base and adapter do side by side, which the naive merges do not."""

import json
import shutil
import stat
import warnings

import pytest

from helpers.scripts import run_here
from mimic_qlora.export import folder, merging
from mimic_qlora.llm import chat, likelihood, loading

SCRIPT = "run_files/export_adapter.py"
TURNS = [{"role": "user", "content": "My head hurts since this morning. What helps?"}]


@pytest.fixture(scope="module")
def exported(tuned_store, tmp_path_factory):
    """A storage folder after the export of an adapter, and what the script said."""
    store = tmp_path_factory.mktemp("exported") / "storage"
    shutil.copytree(tuned_store.path, store)
    options = ("--run", "seed.1", "--model", tuned_store.model)
    done = run_here(SCRIPT, *options, storage=store)
    assert done.returncode == 0, done.stderr
    return store, done.stdout, options


def test_merged_logits_are_those_of_base_and_adapter_and_naive_ones_are_not(tuned_store, exported):
    import torch
    import transformers

    store, _, _ = exported
    tokenizer = chat.load_tokenizer(tuned_store.model)
    rows = [chat.chat_ids(tokenizer, TURNS, add_generation_prompt=True)]
    adapter = store / "adapters" / "seed.1"

    def predicted(model):
        return likelihood.log_probabilities(model, rows)

    def differs(model):
        return likelihood.divergence(side_by_side, predicted(model))

    base = loading.load_base(tuned_store.model, dtype=torch.bfloat16)
    four_bit = loading.load_adapter(base, adapter)
    side_by_side = predicted(four_bit)
    merged = transformers.AutoModelForCausalLM.from_pretrained(
        store / "exports" / "seed.1", dtype=torch.bfloat16
    )
    dense = loading.load_base(tuned_store.model, four_bit=False, dtype=torch.bfloat16)
    into_checkpoint = loading.load_adapter(dense, adapter)
    merging.add(into_checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says itself that it rounds
        packed_again = four_bit.merge_and_unload()
    assert differs(merged) < merging.TOLERANCE
    assert differs(into_checkpoint.unload()) > merging.TOLERANCE
    assert differs(packed_again) > merging.TOLERANCE


def test_the_folder_is_private_whole_and_names_what_it_is(tuned_store, exported):
    store, said, options = exported
    written = store / "exports" / "seed.1"
    assert "nats a token" in said and str(written) in said
    assert {stat.S_IMODE(path.stat().st_mode) for path in written.iterdir()} == {0o600}
    config = json.loads((written / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and "quantization_config" not in config
    manifest = json.loads((written / "manifest.json").read_text())
    assert list(manifest["inputs"]) == ["adapters/seed.1"]
    assert 0 <= manifest["divergence_nats_per_token"] < merging.TOLERANCE
    card = (written / "README.md").read_text()
    assert "PhysioNet" in card and "rounding" in card
    again = run_here(SCRIPT, *options, storage=store)
    assert again.returncode == 0 and "up to date" in again.stdout


def test_other_files_beside_the_base_make_the_export_anew(tuned_store, tmp_path):
    """End tokens had been mended in the base: the merged model kept those of before."""
    store, model = tmp_path / "storage", tmp_path / "tiny"
    shutil.copytree(tuned_store.path, store)
    shutil.copytree(tuned_store.model, model)
    path = model / "generation_config.json"
    for ends in (1, [1, 7]):
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": ends}))
        done = run_here(SCRIPT, "--run", "default", "--model", model, storage=store)
        assert done.returncode == 0 and "up to date" not in done.stdout, done.stderr
    written = store / "exports" / "default" / "generation_config.json"
    assert 7 in json.loads(written.read_text())["eos_token_id"]


def test_other_programs_end_an_answer_where_this_one_does(tuned_store, exported):
    """The tiny model names the end of a text alone, as the first Llama 3 did; its turns end so."""
    tokenizer = chat.load_tokenizer(tuned_store.model)
    named = json.loads((tuned_store.model / "generation_config.json").read_text())
    written = exported[0] / "exports" / "seed.1" / "generation_config.json"
    assert named["eos_token_id"] != chat.end_token_ids(tokenizer)
    assert json.loads(written.read_text())["eos_token_id"] == chat.end_token_ids(tokenizer)


def test_transformers_4_reads_the_rope_that_the_model_has(tuned_store, tmp_path):
    """It looks for the keys of before `rope_parameters`, and takes 10,000 for a theta not found."""
    import transformers

    scaling = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}
    scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model = loading.load_base(tuned_store.model)
    for kind in (scaling, {"rope_type": "default"}):
        model.config.rope_parameters = {"rope_theta": 500000.0, **kind}
        folder.write(tmp_path, model, chat.load_tokenizer(tuned_store.model))
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["rope_theta"] == 500000.0
        assert config["rope_scaling"] == (kind if kind is scaling else None)
        again = transformers.AutoConfig.from_pretrained(tmp_path)
        assert again.rope_parameters == {"rope_theta": 500000.0, **kind}


def test_a_merge_that_changes_the_model_is_refused_and_leaves_nothing(
    tuned_store, tmp_path, monkeypatch
):
    store = tmp_path / "storage"
    shutil.copytree(tuned_store.path, store)
    monkeypatch.setattr(merging, "add", lambda model: None)  # the adapter is lost
    done = run_here(SCRIPT, "--model", tuned_store.model, storage=store)
    assert done.returncode == 2 and "nats a token, more than" in done.stderr
    assert [path.name for path in (store / "exports").iterdir()] == [".default.lock"]


def test_an_adapter_that_is_trained_again_meanwhile_is_not_taken_for_the_one_before(
    tuned_store, tmp_path, monkeypatch
):
    store, load = tmp_path / "storage", loading.load_adapter
    shutil.copytree(tuned_store.path, store)

    def late(*given):
        shutil.rmtree(store / "adapters" / "default")
        shutil.copytree(store / "adapters" / "seed.1", store / "adapters" / "default")
        return load(*given)

    monkeypatch.setattr(loading, "load_adapter", late)
    done = run_here(SCRIPT, "--model", tuned_store.model, storage=store)
    assert done.returncode == 2 and "default was replaced while it was merged" in done.stderr
    assert [path.name for path in (store / "exports").iterdir()] == [".default.lock"]


def test_a_merged_model_of_an_adapter_that_is_gone_is_not_replaced_without_a_word(
    tuned_store, exported, tmp_path
):
    store = tmp_path / "storage"
    shutil.copytree(exported[0], store)
    options = exported[2]
    anew = run_here(SCRIPT, *options, "--force", storage=store)
    assert anew.returncode == 0 and "is of another" not in anew.stdout
    shutil.rmtree(store / "adapters" / "seed.1")
    shutil.copytree(store / "adapters" / "seed.2", store / "adapters" / "seed.1")
    done = run_here(SCRIPT, *options, storage=store)
    assert done.returncode == 0, done.stderr
    assert f"note: {store / 'exports' / 'seed.1'} is of another adapter seed.1" in done.stdout


def test_a_run_that_is_not_there_is_told_before_anything_is_loaded(tuned_store, tmp_path):
    store = tmp_path / "storage"
    shutil.copytree(tuned_store.path, store)
    done = run_here(SCRIPT, "--run", "other", storage=store)
    assert done.returncode == 2 and "train_qlora.py" in done.stderr
    assert "there is no adapter 'other': give --run default or seed.1 or" in done.stderr
