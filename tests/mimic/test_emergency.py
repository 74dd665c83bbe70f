"""The synthetic emergency department: it adds tables, changes none, and has the real oddities."""

import csv
import gzip
import json

import pytest

from mimic_qlora.mimic.synthetic import hospital
from mimic_qlora.mimic.tables import schema

ADDED = [name for name, table in schema().items() if table.module == "ed"] + ["radiology"]


def read(folder, name):
    path = folder / schema()[name].module / f"{name}.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("hospitals")
    hospital.write(place / "with", 60, seed=3, progress=False, emergency=True)
    hospital.write(place / "without", 60, seed=3, progress=False)
    return place


def test_all_other_tables_are_the_same_bytes_with_and_without_it(folders):
    files = {p.relative_to(folders / "with") for p in (folders / "with").rglob("*.gz")}
    others = {p.relative_to(folders / "without") for p in (folders / "without").rglob("*.gz")}
    assert sorted(p.name.partition(".")[0] for p in files - others) == sorted(ADDED)
    for path in others:
        assert (folders / "with" / path).read_bytes() == (folders / "without" / path).read_bytes()
    truths = [
        json.loads((folders / n / "planted_truths.json").read_text()) for n in ("with", "without")
    ]
    assert {k: v for k, v in truths[0].items() if k != "urgency"} == truths[1]


def test_every_visit_has_a_planted_level_and_the_oddities_of_the_real_tables(folders):
    tables = {name: read(folders / "with", name) for name in ADDED}
    assert all(tables.values())
    truths = json.loads((folders / "with/planted_truths.json").read_text())["urgency"]
    visits = {row["stay_id"]: row for row in tables["edstays"]}
    assert visits.keys() == truths.keys() and {*"ABCD"} <= {*truths.values()}
    triage = tables["triage"]
    assert any(not row["acuity"] for row in triage)
    assert any(row["stay_id"] not in visits for row in triage)
    heat = [float(row["temperature"]) for row in triage if row["temperature"]]
    assert min(heat) < 45 and max(heat) > 95  # Celsius and Fahrenheit
    stays = {row["hadm_id"] for row in read(folders / "with", "admissions")}
    linked = {row["hadm_id"] for row in visits.values() if row["hadm_id"]}
    assert linked & stays and linked - stays
    begin = {row["intime"] for row in visits.values()}
    for name in ("vitalsign", "medrecon"):  # some are stamped at arrival
        assert begin & {row["charttime"] for row in tables[name]}
