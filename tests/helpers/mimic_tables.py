"""Small MIMIC-IV folders written by hand."""

import csv
import gzip
from pathlib import Path


def write_table(folder: Path, name: str, header: str, rows: list, module: str = "hosp") -> Path:
    """One table as .csv.gz; a row is a line as it shall stand in the file."""
    (folder / module).mkdir(parents=True, exist_ok=True)
    path = folder / module / f"{name}.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join([header, *rows]) + "\n")
    return path


def rewrite(path: Path, change) -> None:
    """Change a table's rows: change(header, rows) -> rows, each a list of strings."""
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    with gzip.open(path, "wt", compresslevel=1, newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *change(header, rows)])


def write_tiny_mimic(folder: Path) -> Path:
    """Twelve patients, rows scattered over the files, with the oddities that real tables have."""
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
            f"{s},{s + 10000000},2150-03-0{1 + i % 9} 10:00:00,2150-03-15 12:00:00,,EW EMER.,P1,"
            f"EMERGENCY ROOM,HOME,Medicare,ENGLISH,,WHITE,,,0"
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
        [
            f"{s},{s + 10000000},1,{code}"
            for s in ids[::-1]
            for code in ("0389,9", "I10,10", "E8120,10")
        ],
    )
    write_table(
        folder,
        "labevents",
        "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,storetime,"
        "value,valuenum,valueuom,ref_range_lower,ref_range_upper,flag,priority,comments",
        [
            f"{n},{ids[n % 12]},,{n},50912,,2150-03-02 08:00:00,2150-03-02 09:00:00,"
            f"{value},{number},mg/dL,0.4,1.1,,,{note}"
            for n, (value, number, note) in enumerate(
                [
                    (".1", ".1", ""),
                    ("___", "", '""'),
                    ("None", "", "N/A"),
                    ('"500,000"', "500000", '"a ""b"" \\ c"'),
                ]
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
