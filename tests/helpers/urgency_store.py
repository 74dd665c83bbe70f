"""What steps 1, 4 and 5 leave for made-up emergency visits, whose levels are planted."""

import random
from pathlib import Path

from helpers.mimic_tables import write_table
from helpers.scripts import run_here
from helpers.storage_folders import step_three_stub
from helpers.tiny_model import write_tiny_model
from helpers.tuned_store import STAY_COLUMNS, TunedStore, at
from mimic_qlora.step import storage

N = 400
COMPLAINTS = ("chest pain", "CHEST PAIN", "Chest pain", "sore throat", "rash")
DISPOSITIONS = {
    "LWBS": "LEFT WITHOUT BEING SEEN",
    "ELOPED": "ELOPED",
    "AMA": "LEFT AGAINST MEDICAL ADVICE",
}


def write_urgency_store(folder: Path) -> None:
    """Write patients with an earlier coded stay and one visit, their prompts, a stub of an adapter.

    A visit is mostly an emergency where the chest hurts and the heart has failed before.
    """
    path, tiny = at(folder)
    write_tiny_model(tiny)
    _write_tables(folder / "mimic", random.Random(0))
    options = ("--tasks", "urgency", "--model", tiny, "--token-budget", "400")
    for script, args in {
        "convert_to_jsonl.py": ("--mimic-dir", folder / "mimic"),
        "make_symptom_prompts_ctx_dxpx.py": options,
    }.items():
        done = run_here(script, *args, storage=path)
        assert done.returncode == 0, done.stderr
        if script == "convert_to_jsonl.py":
            step_three_stub(path)
    prompts = storage.verified_manifest(path, "prompts")["id"]
    with storage.step_output(path, "adapters/default", {}, {"prompts": prompts}) as out:
        (out.path / "adapter_model.safetensors").write_bytes(b"stands in for weights")


def store(folder: Path) -> TunedStore:
    """Return where `write_urgency_store` writes in a folder."""
    return at(folder)


def _level(draw: random.Random, pain: bool, failing: bool) -> str:
    if draw.random() < 0.05 + 0.75 * (pain and failing):
        return "A"
    return draw.choice(("B", "C", "C", "D", "D", "LWBS", "ELOPED", "AMA"))


def _write_tables(mimic: Path, draw: random.Random) -> None:
    rows: dict[str, list[str]] = {}

    def add(table: str, line: str) -> None:
        rows.setdefault(table, []).append(line)

    for i in range(N):
        who, before, now = 10000000 + 7 * i, 20000000 + i, 21000000 + i
        failing, complaint = draw.random() < 0.65, draw.choice(COMPLAINTS)
        level = _level(draw, complaint.lower() == "chest pain", failing)
        sex = draw.choice("FM")
        years = draw.choice(("2011 - 2013", "2014 - 2016", "2017 - 2019"))
        add("patients", f"{who},{sex},{draw.randrange(20, 90)},2150,{years},")
        stay = ",,URGENT,P1,CLINIC,HOME,Medicare,English,,WHITE,,,0"
        add("admissions", f"{who},{before},2149-03-01 10:00:00,2149-03-15 12:00:00{stay}")
        add("diagnoses_icd", f"{who},{before},1,{'I509' if failing else 'I10'},10")
        admitted = level in "AB"
        ended = DISPOSITIONS.get(level, "ADMITTED" if admitted else "HOME")
        add(
            "edstays",
            f"{who},{now if admitted else ''},{31000000 + i},2150-03-01 10:00:00,"
            f"2150-03-01 15:00:00,{sex},{draw.choice(('WHITE', 'BLACK/CAPE VERDEAN', 'ASIAN'))},"
            f"WALK IN,{ended}",
        )
        urgent = draw.random() < {"A": 0.75, "B": 0.6}.get(level, 0.3)
        acuity = "" if draw.random() < 0.05 else draw.choice("12") if urgent else draw.choice("345")
        vitals = "98.1,80,16,99,120,70,5"
        add("triage", f"{who},{31000000 + i},{vitals},{acuity},{complaint}")
        if admitted:
            add("admissions", f"{who},{now},2150-03-01 14:00:00,2150-03-05 12:00:00{stay}")
        if level == "A":
            add(
                "icustays",
                f"{who},{now},{32000000 + i},Medical Intensive Care Unit (MICU),"
                "Medical Intensive Care Unit (MICU),2150-03-01 15:00:00,2150-03-03 15:00:00,2",
            )
        if level == "C" or admitted:
            add(
                "labevents",
                f"{i},{who},,{i},50912,,2150-03-01 11:00:00,2150-03-01 12:00:00,"
                "1.0,1.0,mg/dL,0.4,1.1,,,",
            )
            add("radiology", f"{who}-RR-1,{who},,RR,1,2150-03-01 11:00:00,2150-03-01 12:00:00,x")
            add("pyxis", f"{who},{31000000 + i},2150-03-01 11:00:00,1,Ondansetron 4mg/2mL vial,1,1")
        if admitted:
            add("emar", f"{who},{now},{who}-1,1,,,,2150-03-01 16:00:00,Aspirin,Administered,,")
            add(
                "transfers",
                f"{who},{now},{33000000 + i},admit,Medicine,2150-03-01 15:00:00,"
                "2150-03-05 12:00:00",
            )
    add("d_icd_diagnoses", "I10,10,Essential hypertension")
    add("d_icd_diagnoses", "I509,10,Heart failure")
    add("d_labitems", "50912,Creatinine,Blood,Chemistry")
    for table, found in rows.items():
        module, header = HEADERS[table]
        write_table(mimic, table, header, found, module)


HEADERS = {
    "patients": ("hosp", "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod"),
    "admissions": ("hosp", STAY_COLUMNS),
    "diagnoses_icd": ("hosp", "subject_id,hadm_id,seq_num,icd_code,icd_version"),
    "d_icd_diagnoses": ("hosp", "icd_code,icd_version,long_title"),
    "d_labitems": ("hosp", "itemid,label,fluid,category"),
    "labevents": (
        "hosp",
        "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,storetime,"
        "value,valuenum,valueuom,ref_range_lower,ref_range_upper,flag,priority,comments",
    ),
    "emar": (
        "hosp",
        "subject_id,hadm_id,emar_id,emar_seq,poe_id,pharmacy_id,enter_provider_id,charttime,"
        "medication,event_txt,scheduletime,storetime",
    ),
    "transfers": ("hosp", "subject_id,hadm_id,transfer_id,eventtype,careunit,intime,outtime"),
    "icustays": (
        "icu",
        "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los",
    ),
    "edstays": (
        "ed",
        "subject_id,hadm_id,stay_id,intime,outtime,gender,race,arrival_transport,disposition",
    ),
    "triage": (
        "ed",
        "subject_id,stay_id,temperature,heartrate,resprate,o2sat,sbp,dbp,pain,acuity,"
        "chiefcomplaint",
    ),
    "pyxis": ("ed", "subject_id,stay_id,charttime,med_rn,name,gsn_rn,gsn"),
    "radiology": ("note", "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text"),
}
