"""What tests share: the real demo where it is there, a small hand-made MIMIC-IV, a way to run a script as users do."""

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEMO = Path(os.environ.get("MIMIC_DEMO_DIR", ROOT.parent / "shared/data/mimic-iv-demo-2.2"))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts `make test &` with Ctrl-C ignored


@pytest.fixture(scope="session")
def demo_dir() -> Path:
    if not DEMO.is_dir():
        pytest.skip(f"the open MIMIC-IV demo is not at {DEMO} (set MIMIC_DEMO_DIR)")
    return DEMO


@pytest.fixture(scope="session")
def demo_storage(demo_dir, tmp_path_factory) -> Path:
    """The real demo as step 1 leaves it, converted once for all tests: read it, write elsewhere."""
    storage = tmp_path_factory.mktemp("demo")
    assert run_script("convert_to_jsonl.py", "--mimic-dir", demo_dir, storage=storage).returncode == 0
    return storage


def run_script(script: str, *args, storage: Path, **environment):
    """Run a script in its own process, as a user would. Returns the CompletedProcess with its text captured."""
    variables = {k: v for k, v in os.environ.items() if k not in ("MIMIC_DIR", "STORAGE_DIR")}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**variables, "STORAGE_DIR": str(storage), **environment},
        timeout=300,
    )


@pytest.fixture
def run(tmp_path):
    """run("convert_to_jsonl.py", "--force"): run_script with a storage folder of the test's own."""
    return lambda script, *args, **environment: run_script(script, *args, storage=tmp_path / "storage", **environment)


@pytest.fixture(scope="session")
def embedded_model(tmp_path_factory) -> Path:
    """The real embedded model, converted once for all tests; skipped when its package is not installed."""
    from mimic_qlora import models
    from mimic_qlora.storage import UserError

    try:
        return models.model_path(None, tmp_path_factory.mktemp("models"))
    except UserError as error:
        pytest.skip(str(error))


TUNED_IDS = [10000000 + 7 * i for i in range(60)]


@pytest.fixture(scope="session")
def tuned_store(tmp_path_factory):
    """What steps 1, 4 and 5 leave, for sixty patients, as `path`: with the tiny `model` and adapters of random weights.

    Every chart has high blood pressure; every other one an order for warfarin, the rest one for metformin.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from test_models import write_tiny_model

    from mimic_qlora import models
    from mimic_qlora import storage as store

    folder = tmp_path_factory.mktemp("tuned")
    mimic, path, tiny = folder / "mimic", folder / "storage", write_tiny_model(folder / "tiny")
    patients = [f"{s},{'FM'[i % 2]},{40 + i},2150,2011 - 2013," for i, s in enumerate(TUNED_IDS)]
    write_table(mimic, "patients", "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod", patients)
    stay = "2150-03-01 10:00:00,2150-03-15 12:00:00,,URGENT,P1,CLINIC,HOME,Medicare,English,,WHITE,,,0"
    header = "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,admission_location,"
    header += "discharge_location,insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag"
    write_table(mimic, "admissions", header, [f"{s},{s + 9},{stay}" for s in TUNED_IDS])
    write_table(mimic, "d_icd_diagnoses", "icd_code,icd_version,long_title", ["I10,10,Essential hypertension"])
    coded = [f"{s},{s + 9},1,I10,10" for s in TUNED_IDS]
    write_table(mimic, "diagnoses_icd", "subject_id,hadm_id,seq_num,icd_code,icd_version", coded)
    drugs = ("Warfarin", "MetFORMIN (Glucophage)")
    orders = [f"{s},{s + 9},2150-03-02 08:00:00,MAIN,{drugs[i // 2 % 2]},PO" for i, s in enumerate(TUNED_IDS)]
    write_table(mimic, "prescriptions", "subject_id,hadm_id,starttime,drug_type,drug,route", orders)
    done = run_script("convert_to_jsonl.py", "--mimic-dir", mimic, storage=path)
    assert done.returncode == 0, done.stderr

    inputs = {"subjects": store.read_manifest(path, "subjects")["id"]}
    with store.step_output(path, "prompts", {}, inputs) as out:
        settings = {"system_prompt": "Help.", "token_budget": 900, "dropped_columns": [], "seed": 42}
        template = models.template_sha256(models.load_tokenizer(tiny))
        store.write_json(out.path / "context.json", settings | {"model": str(tiny), "template_sha256": template})
        records = "".join(json.dumps(training_record(i)) + "\n" for i in range(4))
        (out.path / "train.jsonl").write_text(records, encoding="utf-8")
    for seed, run in enumerate(("default", "seed.1")):
        with store.step_output(path, f"adapters/{run}", {}, {"prompts": out.manifest["id"]}) as adapter:
            model = get_peft_model(models.load_base(tiny, four_bit=False), LoraConfig(r=4, target_modules="all-linear"))
            torch.manual_seed(seed)
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.5)
            model.save_pretrained(adapter.path)
    return SimpleNamespace(path=path, model=tiny)


def training_record(number: int) -> dict:
    turns = [("system", "Help."), ("user", f"Patient context {number}"), ("assistant", f"Gold {number}")]
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"messages": messages, "symptom": f"symptom {number % 2}", "cautions": ["one"] * (number > 0)}


def folder_bytes(folder: Path) -> dict:
    """Every file of a step's output but the manifest, which holds times."""
    return {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"
    }


def step_three_stub(storage: Path, *columns: str) -> None:
    """Stands in for step 3, which takes a minute: a list of least important columns with a manifest."""
    from mimic_qlora import storage as store

    inputs = {"subjects": store.read_manifest(storage, "subjects")["id"]}
    with store.step_output(storage, "features", {"stub": columns}, inputs) as out:
        lines = ["column,reason", *(f"{column},test" for column in columns)]
        (out.path / "columns_least.csv").write_text("\n".join(lines) + "\n")


def write_table(folder: Path, name: str, header: str, rows: list, module: str = "hosp") -> Path:
    """One table as .csv.gz; a row is a line as it shall stand in the file."""
    (folder / module).mkdir(parents=True, exist_ok=True)
    path = folder / module / f"{name}.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def tiny_mimic(tmp_path) -> Path:
    """Twelve patients, rows scattered over the files, with the oddities that real tables have."""
    folder = tmp_path / "mimic"
    ids = [10000000 + 7 * i for i in range(12)]
    write_table(
        folder,
        "patients",
        "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
        [f"{s},{'FM'[i % 2]},{40 + i},2150,2011 - 2013," for i, s in enumerate(reversed(ids))],
    )
    write_table(
        folder,
        "admissions",
        "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,admission_location,"
        "discharge_location,insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag",
        [
            f"{s},{s + 10000000},2150-03-0{1 + i % 9} 10:00:00,2150-03-15 12:00:00,,EW EMER.,P1,EMERGENCY ROOM,"
            f"HOME,Medicare,ENGLISH,,WHITE,,,0"
            for i, s in enumerate(ids)
        ],
    )
    write_table(
        folder,
        "d_icd_diagnoses",
        "icd_code,icd_version,long_title",
        [
            "E8120,9,Other motor vehicle traffic accident",
            'I10,10,"Essential ""primary"" hypertension"',
            "0389,9,Ménière",
        ],
    )
    write_table(
        folder,
        "diagnoses_icd",
        "subject_id,hadm_id,seq_num,icd_code,icd_version",
        [f"{s},{s + 10000000},1,{code}" for s in ids[::-1] for code in ("0389,9", "I10,10", "E8120,10")],
    )
    write_table(
        folder,
        "labevents",
        "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,storetime,value,valuenum,valueuom,"
        "ref_range_lower,ref_range_upper,flag,priority,comments",
        [
            f"{n},{ids[n % 12]},,{n},50912,,2150-03-02 08:00:00,2150-03-02 09:00:00,"
            f"{value},{number},mg/dL,0.4,1.1,,,{note}"
            for n, (value, number, note) in enumerate(
                [(".1", ".1", ""), ("___", "", '""'), ("None", "", "N/A"), ('"500,000"', "500000", '"a ""b"" \\ c"')]
                * 9
            )
        ],
    )
    write_table(
        folder,
        "prescriptions",
        "subject_id,hadm_id,drug,gsn,starttime,stoptime",
        [f'{s},{s + 10000000},"",004380 ,2150-03-02 08:00:00,2150-03-01 08:00:00.250' for s in ids],
    )
    return folder


def rewrite(path: Path, change) -> None:
    """Change a table's rows: change(header, rows) -> rows, each a list of strings."""
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    with gzip.open(path, "wt", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *change(header, rows)])


def written_otherwise(path, text: str):
    """Replace a file of a step's output as if the step itself had written it so: its manifest says nothing of it."""
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest.get("files", {}).pop(path.name, None)
    (path.parent / "manifest.json").write_text(json.dumps(manifest))
    path.write_text(text)
