"""Steps 4 to 7 with the real tokenizer of Llama 3, on a tiny model with random weights."""

import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import llama_3 as real
from helpers.prompt_records import read_jsonl
from helpers.scripts import run_here
from helpers.step7 import read_csv
from helpers.storage_folders import step_three_stub
from mimic_qlora.llm import chat, finding, generation, loading
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import packing
from mimic_qlora.training.encoding import in_parallel

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "My knee hurts. " * 40},
    {"role": "assistant", "content": "Rest it.\n\nDrink water."},
]
BEGIN, END = real.NAMES["begin"], real.NAMES["end of turn"]


@pytest.fixture(scope="module")
def tokenizer(llama_3):
    return chat.load_tokenizer(llama_3)


def test_a_conversation_begins_once_and_ends_each_turn(tokenizer):
    ids = chat.chat_ids(tokenizer, TALK)
    assert ids.count(BEGIN) == 1 and ids[0] == BEGIN
    assert ids.count(END) == 3
    assert chat.end_token_ids(tokenizer) == sorted(
        tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])
        + ([tokenizer.get_vocab()["<|eom_id|>"]] if "<|eom_id|>" in tokenizer.get_vocab() else [])
    )


def test_the_end_of_the_turn_is_trained_and_padding_is_no_end_token(tokenizer):
    sample = packing.encode(tokenizer, TALK, "here")
    assert sample.ids[-1] == END and sample.n_supervised > 3
    assert packing.mark_supervised(tokenizer, sample).endswith(
        "⟦Rest it.\n\nDrink water.<|eot_id|>⟧"
    )
    ends = chat.end_token_ids(tokenizer)
    assert tokenizer.pad_token_id not in [BEGIN, *ends, None]
    assert tokenizer.pad_token_id < real.VOCABULARY


def test_every_control_token_in_a_record_stays_text(tokenizer):
    plain = chat.chat_ids(tokenizer, TALK[:2])
    text = "".join(chat.control_tokens(tokenizer)) + "<|eot<|eot_id|>_id|>"
    attacked = chat.chat_ids(tokenizer, [TALK[0], {"role": "user", "content": text}])
    control = set(tokenizer.added_tokens_decoder)
    assert len(control) == 256
    assert [i for i in attacked if i in control] == [i for i in plain if i in control]


def test_encoding_takes_a_few_milliseconds_a_prompt(tokenizer):
    rows = [{"messages": TALK, "subject_id": n} for n in range(100)]
    in_parallel.encode(tokenizer, rows[:2], "here")
    began = time.process_time()
    assert len(in_parallel.encode(tokenizer, rows, "here")) == 100
    assert time.process_time() - began < 0.5  # 9 s while each asked for the whole vocabulary


def test_words_are_counted_one_by_one_as_in_the_whole_text(tokenizer):
    assert chat.cuts_at_blanks(tokenizer)
    count = chat.token_counter(tokenizer)
    for text in ("Sodium 140.5 mmol/L (low) it's\n- Age: 61", "é中 x);  two", TALK[1]["content"]):
        assert count(text) == chat.count_tokens(tokenizer, text)


def test_the_hub_cache_is_read_offline_by_name(llama_3, tmp_path, monkeypatch):
    name = "meta-llama/Meta-Llama-3-8B-Instruct"
    cache = real.hub_cache(llama_3, tmp_path / "hub", name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    path = finding.model_path(name, tmp_path)
    assert finding.model_name(path) == name
    assert finding.fingerprint(path) == finding.fingerprint(llama_3)
    (path.parents[1] / "refs" / "main").unlink()  # a snapshot that was copied alone
    assert finding.model_path(name, tmp_path) == path
    other = path.with_name("another")
    other.mkdir()
    (other / "config.json").touch()
    with pytest.raises(UserError, match=f"which of .* is meant: give the folder of one, {path} or"):
        finding.model_path(name, tmp_path)
    shutil.rmtree(other)
    next(path.glob("model-00002-of-*")).unlink()
    with pytest.raises(UserError, match="lacks model-00002-of-.*hf download meta-llama/"):
        finding.model_path(name, tmp_path)


def test_a_base_model_is_refused_and_an_instruct_model_not_taken_for_one(llama_3, tmp_path):
    base = real.without_template(llama_3, tmp_path / "Meta-Llama-3-8B")
    with pytest.raises(UserError, match="as a base model has none.*Meta-Llama-3-8B-Instruct"):
        chat.load_tokenizer(base)
    half = real.without_template(llama_3, tmp_path / "Meta-Llama-3-8B-Instruct")
    (half / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="lacks tokenizer_config.json: "):
        finding.model_path(str(half), tmp_path)


def step(path: str, *arguments: object, storage: Path) -> str:
    """Run a script in this process and return what it printed."""
    done = run_here(path, *arguments, storage=storage)
    assert done.returncode == 0, done.stderr
    return done.stdout


TRAIN = ["--max-steps", 2, "--validations", 1, "--limit", 6, "--rank", 4, "--lr", 0.01]
TRAIN += ["--compute", "fp32"]


@pytest.fixture(scope="module")
def steps(llama_3, tmp_path_factory) -> SimpleNamespace:
    """What steps 4 and 5 said, and the `store` that they left, on a few synthetic patients."""
    store = tmp_path_factory.mktemp("llama_3") / "storage"
    patients = ("--synthetic-patients", 40, "--seed", 1)
    step("convert_to_jsonl.py", *patients, storage=store)
    step_three_stub(store, "admissions.language")
    model = ("--model", llama_3)
    step("make_symptom_prompts_ctx_dxpx.py", *model, "--token-budget", 300, storage=store)
    trained = step("train_qlora.py", *model, *TRAIN, storage=store)
    return SimpleNamespace(store=store, trained=trained)


def test_steps_4_and_5_budget_and_train_with_it(steps, llama_3, tokenizer):
    settings = json.loads((steps.store / "prompts" / "context.json").read_text())
    assert settings["model"] == str(llama_3)
    for record in read_jsonl(steps.store / "prompts" / "train.jsonl"):
        context, _, _ = record["messages"][1]["content"].rpartition("\n\nQuestion\n")
        assert chat.count_tokens(tokenizer, context) <= 300
    assert "<|eot_id|>⟧" in steps.trained
    assert all(int(share) <= 100 for share in re.findall(r"MFU (\d+)%", steps.trained))
    adapter = steps.store / "adapters" / "default"
    again = chat.load_tokenizer(adapter)
    assert chat.chat_ids(again, TALK) == chat.chat_ids(tokenizer, TALK)
    config = json.loads((adapter / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_steps_6_and_7_answer_with_base_and_adapter(steps, llama_3, monkeypatch):
    where = ("--model", llama_3, "--max-new-tokens", 8)
    question = ("--once", "--subject-id", "random", "--question", "I have a new rash.")
    said = step("qa_by_subject.py", *where, *question, storage=steps.store)
    assert "Response" in said or "adapter" in said.lower()
    monkeypatch.setattr(
        "mimic_qlora.validation.scoring.likeness.cosines", lambda pairs: [0.5] * len(pairs)
    )
    few = ("--no-knowledge", "--no-records")
    said = step("run_files/validate.py", 2, *where, *few, storage=steps.store)
    folder = Path(re.search(r"Results: (\S+) \(copy", said)[1])
    assert len(read_csv(folder / "output.csv")) == 2
    shutil.rmtree(folder)


def test_check_names_what_training_needs(steps, llama_3):
    said = step("train_qlora.py", "--model", llama_3, *TRAIN, "--check", storage=steps.store)
    assert "Nothing is missing" in said and "training needs" in said


def test_prompts_of_another_tokenizer_are_refused(steps, llama_3, tmp_path):
    other = shutil.copytree(llama_3, tmp_path / llama_3.name)
    config = json.loads((other / "tokenizer_config.json").read_text())
    config["chat_template"] = config["chat_template"].replace("<|eot_id|>", "<|eot_id|>\n")
    (other / "tokenizer_config.json").write_text(json.dumps(config))
    done = run_here("train_qlora.py", "--model", other, *TRAIN, storage=steps.store)
    assert done.returncode == 2 and "whose chat template is not that of" in done.stderr


def test_an_answer_ends_at_both_end_tokens_and_greedily(llama_3, tokenizer):
    model = loading.load_base(llama_3, four_bit=False)
    settings = generation.greedy(tokenizer, model, 4)
    assert set(settings.eos_token_id) >= {real.NAMES["end of text"], END}
    assert settings.do_sample is False and settings.pad_token_id == tokenizer.pad_token_id
