"""What steps 1, 4 and 5 leave for patients whose charts and answers hold a secret each."""

import json
import random
from dataclasses import asdict
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from helpers.mimic_tables import write_table
from helpers.packed_model import SETTINGS
from helpers.prompt_records import context_settings, prompt_record
from helpers.scripts import run_here
from helpers.storage_folders import written_otherwise
from helpers.tiny_model import write_tiny_model
from helpers.tuned_store import STAY, STAY_COLUMNS
from mimic_qlora.llm import chat, loading
from mimic_qlora.step import storage

IDS = [10000000 + 7 * i for i in range(64)]
SPLIT = {s: "train" if i < 32 else "validation" if i < 60 else "test" for i, s in enumerate(IDS)}
TITLES = ["I10,10,Essential hypertension", "B20,10,HIV disease"]
TRAINING = {**asdict(SETTINGS), "batch_tokens": 900, "accumulate": 1, "rank": 16, "alpha": 32}


def secret(subject_id: int, what: str) -> str:
    """Return eight letters that nothing but training on them could tell."""
    return "".join(random.Random(f"{what}{subject_id}").choices("abcdefghijklmnop", k=8))


def record(subject_id: int) -> dict:
    chart = f"Patient context\n- Note: {secret(subject_id, 'chart')}"
    turns = [
        ("system", "Help."),
        ("user", f"{chart}\n\nQuestion\nWhat?"),
        ("assistant", secret(subject_id, "answer")),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    return prompt_record(messages, subject_id, split=SPLIT[subject_id], as_of="2150-04-01 00:00:00")


def write(folder: Path) -> Path:
    """Write a storage folder, and the model "tiny" beside it; return the folder.

    Its adapter has learned nothing.
    """
    path, tiny = folder / "storage", write_tiny_model(folder / "tiny")
    columns = "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod"
    rng = random.Random(0)
    people = [f"{s},{rng.choice('FM')},{rng.randrange(20, 91)},2150,2011 - 2013," for s in IDS]
    write_table(folder / "mimic", "patients", columns, people)
    stays = [f"{s},{s + 9},{STAY}" for s in IDS]
    write_table(folder / "mimic", "admissions", STAY_COLUMNS, stays)
    write_table(folder / "mimic", "d_icd_diagnoses", "icd_code,icd_version,long_title", TITLES)
    coded = [f"{s},{s + 9},1,{'B20' if rng.random() < 0.9 else 'I10'},10" for s in IDS]
    codes = "subject_id,hadm_id,seq_num,icd_code,icd_version"
    write_table(folder / "mimic", "diagnoses_icd", codes, coded)
    done = run_here("convert_to_jsonl.py", "--mimic-dir", folder / "mimic", storage=path)
    assert done.returncode == 0, done.stderr
    rows = "".join(f"{s},{name}\n" for s, name in SPLIT.items())
    written_otherwise(path / "subjects" / "split.csv", f"subject_id,split\n{rows}")
    prompts = _write_prompts(path, tiny)
    with storage.step_output(path, "adapters/default", TRAINING, {"prompts": prompts}) as adapter:
        _write_adapter(adapter.path, tiny)
        adapter.facts["results"] = {"selection_patients": 14}
    return path


def _write_prompts(path: Path, tiny: Path) -> str:
    inputs = {"subjects": storage.verified_manifest(path, "subjects")["id"]}
    with storage.step_output(path, "prompts", {}, inputs) as out:
        template = chat.template_sha256(chat.load_tokenizer(tiny))
        context_settings(token_budget=900, model=str(tiny), template_sha256=template).write(
            out.path
        )
        for split in ("train", "validation", "test"):
            lines = [json.dumps(record(s)) + "\n" for s, name in SPLIT.items() if name == split]
            (out.path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return out.manifest["id"]


def _write_adapter(folder: Path, tiny: Path) -> None:
    lora = LoraConfig(r=4, target_modules="all-linear")
    model = get_peft_model(loading.load_base(tiny, four_bit=False), lora)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(folder)
    (folder / "README.md").write_text("# An adapter\n", encoding="utf-8")
