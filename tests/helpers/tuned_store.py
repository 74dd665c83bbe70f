"""What steps 1, 4 and 5 leave, for sixty made-up patients and a tiny model with random adapters."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model

from helpers.mimic_tables import write_table
from helpers.prompt_records import context_settings, prompt_record
from helpers.scripts import run_here
from helpers.storage_folders import TUNED_IDS
from helpers.tiny_model import write_tiny_model
from mimic_qlora.llm import chat, loading
from mimic_qlora.step import storage

STAY = "2150-03-01 10:00:00,2150-03-15 12:00:00,,URGENT,P1,CLINIC,HOME,Medicare,English,,WHITE,,,0"
STAY_COLUMNS = (
    "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,"
    "admission_location,discharge_location,insurance,language,marital_status,race,edregtime,"
    "edouttime,hospital_expire_flag"
)


class TunedStore(NamedTuple):
    """A storage folder with the outputs of steps 1, 4 and 5, and the model that was tuned."""

    path: Path
    model: Path


def at(folder: Path) -> TunedStore:
    """Return where `write_tuned_store` writes in a folder."""
    return TunedStore(folder / "storage", folder / "tiny")


def write_tuned_store(folder: Path) -> None:
    """Write patients, prompts, and the adapters "default", "seed.1" and "seed.2".

    Every chart has high blood pressure; every other one an order for warfarin, the rest metformin.
    """
    path, tiny = at(folder)
    write_tiny_model(tiny)
    _write_tables(folder / "mimic")
    done = run_here("convert_to_jsonl.py", "--mimic-dir", folder / "mimic", storage=path)
    assert done.returncode == 0, done.stderr
    prompts = _write_prompts(path, tiny)
    for seed, run in enumerate(("default", "seed.1", "seed.2")):
        settings, inputs = {"seed": seed}, {"prompts": prompts}
        with storage.step_output(path, f"adapters/{run}", settings, inputs) as adapter:
            _write_adapter(adapter.path, tiny, seed)


def _write_tables(mimic: Path) -> None:
    patients = [f"{s},{'FM'[i % 2]},{40 + i},2150,2011 - 2013," for i, s in enumerate(TUNED_IDS)]
    columns = "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod"
    write_table(mimic, "patients", columns, patients)
    write_table(mimic, "admissions", STAY_COLUMNS, [f"{s},{s + 9},{STAY}" for s in TUNED_IDS])
    titles = ["I10,10,Essential hypertension"]
    write_table(mimic, "d_icd_diagnoses", "icd_code,icd_version,long_title", titles)
    coded = [f"{s},{s + 9},1,I10,10" for s in TUNED_IDS]
    write_table(mimic, "diagnoses_icd", "subject_id,hadm_id,seq_num,icd_code,icd_version", coded)
    drugs = ("Warfarin", "MetFORMIN (Glucophage)")
    orders = [
        f"{s},{s + 9},2150-03-02 08:00:00,MAIN,{drugs[i // 2 % 2]},PO"
        for i, s in enumerate(TUNED_IDS)
    ]
    write_table(mimic, "prescriptions", "subject_id,hadm_id,starttime,drug_type,drug,route", orders)


def _write_prompts(path: Path, tiny: Path) -> str:
    """Write the folder of step 4 and return the id of its manifest."""
    inputs = {"subjects": storage.verified_manifest(path, "subjects")["id"]}
    with storage.step_output(path, "prompts", {}, inputs) as out:
        template = chat.template_sha256(chat.load_tokenizer(tiny))
        context_settings(model=str(tiny), template_sha256=template).write(out.path)
        records = "".join(json.dumps(training_record(i)) + "\n" for i in range(4))
        (out.path / "train.jsonl").write_text(records, encoding="utf-8")
        for split in ("validation", "test"):
            (out.path / f"{split}.jsonl").touch()
    return out.manifest["id"]


def training_record(number: int) -> dict[str, Any]:
    """Return a record of train.jsonl."""
    turns = [
        ("system", "Help."),
        ("user", f"Patient context {number}"),
        ("assistant", f"Gold {number}"),
    ]
    return prompt_record(
        [{"role": role, "content": content} for role, content in turns],
        task="guidance",
        symptom=f"symptom {number % 2}",
        cautions=["one"] if number else [],
    )


def _write_adapter(folder: Path, tiny: Path, seed: int) -> None:
    """Write an adapter whose weights are random, and large enough to change answers."""
    lora = LoraConfig(r=4, target_modules="all-linear")
    model = get_peft_model(loading.load_base(tiny, four_bit=False), lora)
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
