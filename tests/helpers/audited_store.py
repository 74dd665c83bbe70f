"""What steps 1, 4 and 5 leave for patients whose charts and answers hold a secret each."""

import json
import random
from dataclasses import asdict, dataclass
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

TITLES = ["I10,10,Essential hypertension", "B20,10,HIV disease"]
TRAINING = {**asdict(SETTINGS), "batch_tokens": 900, "accumulate": 1, "rank": 16, "alpha": 32}


def split_of(n_train: int) -> dict[int, str]:
    """Return the split of each patient: 28 for validation and 4 for test beside those to train."""
    splits = ["train"] * n_train + ["validation"] * 28 + ["test"] * 4
    return {10000000 + 7 * i: split for i, split in enumerate(splits)}


@dataclass(frozen=True)
class Plan:
    """Whose records are written, how many each, for which base model (None: a tiny one)."""

    n_train: int = 32
    n_records: int = 1
    token_budget: int = 900
    lr: float = SETTINGS.lr
    base: Path | None = None

    @property
    def splits(self) -> dict[int, str]:
        return split_of(self.n_train)


SMALL = Plan()
SPLIT = SMALL.splits
IDS = list(SPLIT)


def secret(subject_id: int, what: str) -> str:
    """Return eight letters that nothing but training on them could tell."""
    return "".join(random.Random(f"{what}{subject_id}").choices("abcdefghijklmnop", k=8))


def records(subject_id: int, plan: Plan) -> list[dict]:
    """Return the records of a patient: one chart, and an answer of its own in each."""
    chart = f"Patient context\n- Note: {secret(subject_id, 'chart')}"
    made = []
    for n in range(plan.n_records):
        turns = [
            ("system", "Help."),
            ("user", f"{chart}\n\nQuestion\nWhat?{' And then?' * n}"),
            ("assistant", secret(subject_id, "answer" + str(n or ""))),
        ]
        messages = [{"role": role, "content": content} for role, content in turns]
        split = plan.splits[subject_id]
        made.append(prompt_record(messages, subject_id, split=split, as_of="2150-04-01 00:00:00"))
    return made


def write(folder: Path, plan: Plan = SMALL) -> Path:
    """Write a storage folder, and the model "tiny" beside it where there is no other; return it.

    Its adapter has learned nothing.
    """
    path, base = folder / "storage", plan.base or write_tiny_model(folder / "tiny")
    columns = "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod"
    rng, ids = random.Random(0), list(plan.splits)
    people = [f"{s},{rng.choice('FM')},{rng.randrange(20, 91)},2150,2011 - 2013," for s in ids]
    write_table(folder / "mimic", "patients", columns, people)
    stays = [f"{s},{s + 9},{STAY}" for s in ids]
    write_table(folder / "mimic", "admissions", STAY_COLUMNS, stays)
    write_table(folder / "mimic", "d_icd_diagnoses", "icd_code,icd_version,long_title", TITLES)
    coded = [f"{s},{s + 9},1,{'B20' if rng.random() < 0.9 else 'I10'},10" for s in ids]
    codes = "subject_id,hadm_id,seq_num,icd_code,icd_version"
    write_table(folder / "mimic", "diagnoses_icd", codes, coded)
    done = run_here("convert_to_jsonl.py", "--mimic-dir", folder / "mimic", storage=path)
    assert done.returncode == 0, done.stderr
    rows = "".join(f"{s},{name}\n" for s, name in plan.splits.items())
    written_otherwise(path / "subjects" / "split.csv", f"subject_id,split\n{rows}")
    prompts = _write_prompts(path, base, plan)
    training = {**TRAINING, "lr": plan.lr}
    with storage.step_output(path, "adapters/default", training, {"prompts": prompts}) as adapter:
        _write_adapter(adapter.path, base)
        adapter.facts["results"] = {"selection_patients": 14}
    return path


def _write_prompts(path: Path, base: Path, plan: Plan) -> str:
    inputs = {"subjects": storage.verified_manifest(path, "subjects")["id"]}
    with storage.step_output(path, "prompts", {}, inputs) as out:
        template = chat.template_sha256(chat.load_tokenizer(base))
        context_settings(
            token_budget=plan.token_budget, model=str(base), template_sha256=template
        ).write(out.path)
        for split in ("train", "validation", "test"):
            own = [
                one for s, name in plan.splits.items() if name == split for one in records(s, plan)
            ]
            lines = "".join(json.dumps(one) + "\n" for one in own)
            (out.path / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return out.manifest["id"]


def _write_adapter(folder: Path, base: Path) -> None:
    lora = LoraConfig(r=4, target_modules="all-linear")
    model = get_peft_model(loading.load_base(base, four_bit=False), lora)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(folder)
    (folder / "README.md").write_text("# An adapter\n", encoding="utf-8")
