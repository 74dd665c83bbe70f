"""What tests share: the real demo where it is there, a small hand-made MIMIC-IV, a way to run a script as users do."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.mimic_tables import write_table, write_tiny_mimic
from helpers.paths import DEMO
from helpers.scripts import run_script
from helpers.storage_folders import TUNED_IDS
from helpers.tiny_model import write_tiny_model

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell starts `make test &` with Ctrl-C ignored


@pytest.fixture(scope="session")
def demo_dir() -> Path:
    if not DEMO.is_dir():
        pytest.skip(f"the open MIMIC-IV demo is not at {DEMO} (set MIMIC_DEMO_DIR)")
    return DEMO


@pytest.fixture(scope="session")
def demo_storage(demo_dir, tmp_path_factory) -> Path:
    """The real demo as step 1 leaves it, converted once for all tests: read it, write elsewhere."""
    storage = tmp_path_factory.mktemp("demo")
    assert (
        run_script("convert_to_jsonl.py", "--mimic-dir", demo_dir, storage=storage).returncode == 0
    )
    return storage


@pytest.fixture
def run(tmp_path):
    """run("convert_to_jsonl.py", "--force"): run_script with a storage folder of the test's own."""
    return lambda script, *args, **environment: run_script(
        script, *args, storage=tmp_path / "storage", **environment
    )


@pytest.fixture(scope="session")
def embedded_model(tmp_path_factory) -> Path:
    """The real embedded model, converted once for all tests; skipped when its package is not installed."""
    from mimic_qlora.llm import finding
    from mimic_qlora.step.errors import UserError

    try:
        return finding.model_path(None, tmp_path_factory.mktemp("models"))
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tuned_store(tmp_path_factory):
    """What steps 1, 4 and 5 leave, for sixty patients, as `path`: with the tiny `model` and adapters of random weights.

    Every chart has high blood pressure; every other one an order for warfarin, the rest one for metformin.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from mimic_qlora.llm import chat, loading
    from mimic_qlora.step import files
    from mimic_qlora.step import storage as store

    folder = tmp_path_factory.mktemp("tuned")
    mimic, path, tiny = folder / "mimic", folder / "storage", write_tiny_model(folder / "tiny")
    patients = [f"{s},{'FM'[i % 2]},{40 + i},2150,2011 - 2013," for i, s in enumerate(TUNED_IDS)]
    write_table(
        mimic,
        "patients",
        "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
        patients,
    )
    stay = (
        "2150-03-01 10:00:00,2150-03-15 12:00:00,,URGENT,P1,CLINIC,HOME,Medicare,English,,WHITE,,,0"
    )
    header = "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,admission_location,"
    header += "discharge_location,insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag"
    write_table(mimic, "admissions", header, [f"{s},{s + 9},{stay}" for s in TUNED_IDS])
    write_table(
        mimic,
        "d_icd_diagnoses",
        "icd_code,icd_version,long_title",
        ["I10,10,Essential hypertension"],
    )
    coded = [f"{s},{s + 9},1,I10,10" for s in TUNED_IDS]
    write_table(mimic, "diagnoses_icd", "subject_id,hadm_id,seq_num,icd_code,icd_version", coded)
    drugs = ("Warfarin", "MetFORMIN (Glucophage)")
    orders = [
        f"{s},{s + 9},2150-03-02 08:00:00,MAIN,{drugs[i // 2 % 2]},PO"
        for i, s in enumerate(TUNED_IDS)
    ]
    write_table(mimic, "prescriptions", "subject_id,hadm_id,starttime,drug_type,drug,route", orders)
    done = run_script("convert_to_jsonl.py", "--mimic-dir", mimic, storage=path)
    assert done.returncode == 0, done.stderr

    inputs = {"subjects": store.verified_manifest(path, "subjects")["id"]}
    with store.step_output(path, "prompts", {}, inputs) as out:
        settings = {
            "system_prompt": "Help.",
            "token_budget": 900,
            "dropped_columns": [],
            "seed": 42,
        }
        template = chat.template_sha256(chat.load_tokenizer(tiny))
        files.write_json(
            out.path / "context.json", settings | {"model": str(tiny), "template_sha256": template}
        )
        records = "".join(json.dumps(training_record(i)) + "\n" for i in range(4))
        (out.path / "train.jsonl").write_text(records, encoding="utf-8")
    for seed, run in enumerate(("default", "seed.1")):
        with store.step_output(
            path, f"adapters/{run}", {}, {"prompts": out.manifest["id"]}
        ) as adapter:
            model = get_peft_model(
                loading.load_base(tiny, four_bit=False),
                LoraConfig(r=4, target_modules="all-linear"),
            )
            torch.manual_seed(seed)
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.5)
            model.save_pretrained(adapter.path)
    return SimpleNamespace(path=path, model=tiny)


def training_record(number: int) -> dict:
    turns = [
        ("system", "Help."),
        ("user", f"Patient context {number}"),
        ("assistant", f"Gold {number}"),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    return {
        "messages": messages,
        "symptom": f"symptom {number % 2}",
        "cautions": ["one"] * (number > 0),
    }


@pytest.fixture
def tiny_mimic(tmp_path) -> Path:
    return write_tiny_mimic(tmp_path / "mimic")
