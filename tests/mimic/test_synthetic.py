"""The built-in data: v3.1's tables, coherent patients, the real data's oddities, planted truths."""

import csv
import gzip
import json
from collections import Counter, defaultdict
from datetime import datetime, timedelta

import pytest

from mimic_qlora.mimic.synthetic import book, hospital, vocabulary
from mimic_qlora.mimic.tables import schema

TABLES = {name: table for name, table in schema().items() if table.module in ("hosp", "icu")}
NULLABLE_STAY = ("labevents", "emar", "microbiologyevents", "transfers")


def read(folder, name):
    """Rows with null as None and the empty string as "", which csv alone cannot tell apart."""
    with gzip.open(
        folder / TABLES[name].module / f"{name}.csv.gz", "rt", encoding="utf-8", newline=""
    ) as file:
        text = file.read().replace(',"",', ",\0,")
    rows = csv.DictReader(text.splitlines())
    return [
        {k: None if v == "" else "" if v == "\0" else v for k, v in row.items()} for row in rows
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mimic")
    hospital.write(path, n_patients=250, seed=3, progress=False)
    return path


@pytest.fixture(scope="module")
def data(folder):
    return {name: read(folder, name) for name in TABLES}


def held(data, *prefixes):
    return {
        row["subject_id"] for row in data["diagnoses_icd"] if row["icd_code"].startswith(prefixes)
    }


def test_all_31_tables_carry_v3_1_headers(folder):
    assert len(TABLES) == 31
    for name, table in TABLES.items():
        with gzip.open(folder / table.module / f"{name}.csv.gz", "rt", encoding="utf-8") as file:
            assert next(file).rstrip("\n").split(",") == list(table.columns), name


def test_every_table_has_rows(data):
    assert not [name for name, rows in data.items() if not rows]


def test_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        hospital.write(tmp_path / name, n_patients=12, seed=seed, progress=False)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 32
    assert all(
        (tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files
    )
    other = (tmp_path / "other/hosp/labevents.csv.gz").read_bytes()
    assert (tmp_path / "one/hosp/labevents.csv.gz").read_bytes() != other


@pytest.mark.parametrize("n_patients", (1, 2))
def test_a_handful_of_patients_is_enough(tmp_path, n_patients):
    hospital.write(tmp_path, n_patients=n_patients, progress=False)
    assert len(read(tmp_path, "patients")) == n_patients


def test_ids_are_unique(data):
    keys = {
        "patients": "subject_id",
        "admissions": "hadm_id",
        "icustays": "stay_id",
        "transfers": "transfer_id",
    }
    keys |= {
        "labevents": "labevent_id",
        "poe": "poe_id",
        "emar": "emar_id",
        "pharmacy": "pharmacy_id",
    }
    keys |= {"microbiologyevents": "microevent_id", "d_items": "itemid", "d_labitems": "itemid"}
    for table, key in keys.items():
        assert max(Counter(row[key] for row in data[table]).values()) == 1, table


def test_keys_join(data):
    values = lambda table, column: {row[column] for row in data[table]}  # noqa: E731
    stays = {row["hadm_id"]: row["subject_id"] for row in data["admissions"]}
    for name, table in TABLES.items():
        if "hadm_id" in table.columns:
            linked = [
                row for row in data[name] if row["hadm_id"] is not None or name not in NULLABLE_STAY
            ]
            assert all(stays[row["hadm_id"]] == row["subject_id"] for row in linked), name
        if "subject_id" in table.columns:
            assert values(name, "subject_id") <= values("patients", "subject_id"), name
        if "stay_id" in table.columns:
            assert values(name, "stay_id") <= values("icustays", "stay_id"), name
        for column in table.columns:
            if column.endswith("provider_id") and name != "provider":
                assert values(name, column) - {None} <= values("provider", "provider_id"), (
                    name,
                    column,
                )
        if "caregiver_id" in table.columns and name != "caregiver":
            assert values(name, "caregiver_id") - {None} <= values("caregiver", "caregiver_id"), (
                name
            )
        if table.module == "icu" and "itemid" in table.columns and name != "d_items":
            assert values(name, "itemid") <= {
                r["itemid"] for r in data["d_items"] if r["linksto"] == name
            }, name
    assert values("icustays", "stay_id") <= values("transfers", "transfer_id")
    assert values("labevents", "itemid") <= values("d_labitems", "itemid")
    assert values("hcpcsevents", "hcpcs_cd") <= values("d_hcpcs", "code")
    assert values("emar_detail", "emar_id") == values("emar", "emar_id")
    assert values("prescriptions", "pharmacy_id") == values("pharmacy", "pharmacy_id")
    assert values("emar", "pharmacy_id") - {None} <= values("pharmacy", "pharmacy_id")
    for name in ("prescriptions", "pharmacy", "emar", "poe_detail"):
        assert values(name, "poe_id") <= values("poe", "poe_id"), name
    assert all(row["poe_id"] == f"{row['subject_id']}-{row['poe_seq']}" for row in data["poe"])


def test_every_code_has_its_title(data):
    for events, titles in (
        ("diagnoses_icd", "d_icd_diagnoses"),
        ("procedures_icd", "d_icd_procedures"),
    ):
        known = {(row["icd_code"], row["icd_version"]) for row in data[titles]}
        assert len(known) == len(data[titles])
        assert {(row["icd_code"], row["icd_version"]) for row in data[events]} <= known


def test_some_stays_have_an_arterial_line_beside_the_cuff(data):
    """Both are charted in the same minutes, and differ."""
    pressures = {}
    for row in data["chartevents"]:
        if row["itemid"] in ("220179", "220050"):
            place = row["stay_id"], row["charttime"]
            pressures.setdefault(place, {})[row["itemid"]] = row["value"]
    both = [found for found in pressures.values() if len(found) == 2]
    assert 0.1 < len(both) / len(pressures) < 0.6
    assert sum(found["220179"] != found["220050"] for found in both) > len(both) / 2


def test_times_are_mimics(data):
    for name, table in TABLES.items():
        for column in table.columns:
            if column.endswith("time") or column in ("chartdate", "dod"):
                seen = {row[column] for row in data[name]} - {None}
                lengths = {len(value) for value in seen}
                assert lengths <= {10, 19} | ({23} if name == "procedureevents" else set()), (
                    name,
                    column,
                )
                assert all("2100" <= value < "2206" for value in seen), (name, column)


def test_stays_are_in_order(data):
    stays = {row["hadm_id"]: row for row in data["admissions"]}
    for row in data["admissions"]:
        assert row["admittime"] < row["dischtime"]
        died = row["hospital_expire_flag"] == "1"
        assert died == (row["deathtime"] is not None) == (row["discharge_location"] == "DIED")
        assert not row["edregtime"] or row["edregtime"] < row["admittime"]
    for row in data["icustays"]:
        assert stays[row["hadm_id"]]["admittime"] <= row["intime"] < row["outtime"]
        assert row["outtime"][:16] <= stays[row["hadm_id"]]["dischtime"][:16]
    dods = {row["subject_id"]: row["dod"] for row in data["patients"] if row["dod"]}
    assert all(
        row["dischtime"][:10] <= dods.get(row["subject_id"], "9") for row in data["admissions"]
    )
    by_patient = defaultdict(list)
    for row in data["admissions"]:
        by_patient[row["subject_id"]].append((row["admittime"], row["dischtime"]))
    for times in map(sorted, by_patient.values()):
        assert all(before[1] < after[0] for before, after in zip(times, times[1:], strict=False))


def test_icd_10_starts_with_its_era(data):
    first_year = {row["subject_id"]: int(row["anchor_year_group"][:4]) for row in data["patients"]}
    versions = {row["hadm_id"]: row["icd_version"] for row in data["diagnoses_icd"]}
    assert set(versions.values()) == {"9", "10"}
    late = {
        row["icd_version"] for row in data["diagnoses_icd"] if first_year[row["subject_id"]] >= 2017
    }
    assert late == {"10"}


def test_the_share_without_coded_stays_is_a_parameter(tmp_path, data):
    coded = {row["subject_id"] for row in data["diagnoses_icd"]}
    assert 0.30 < 1 - len(coded) / len(data["patients"]) < 0.48
    hospital.write(tmp_path, n_patients=20, uncoded_share=0.0, progress=False)
    assert len({row["subject_id"] for row in read(tmp_path, "diagnoses_icd")}) == 20


def test_live_discharges_mostly_go_home(data):
    living = [
        row["discharge_location"]
        for row in data["admissions"]
        if row["hospital_expire_flag"] == "0"
    ]
    assert 0.5 < sum(place in ("HOME", "HOME HEALTH CARE") for place in living) / len(living) < 0.72


def test_diabetics_are_treated_and_have_more_sugar(data):
    diabetics = held(data, "250", "E11")
    treated = {
        row["subject_id"]
        for row in data["prescriptions"]
        if row["drug"] in ("Insulin", "MetFORMIN (Glucophage)", "GlipiZIDE")
    }
    assert len(diabetics & treated) > 0.85 * len(diabetics) > 10
    sugar = defaultdict(list)
    for row in data["labevents"]:
        if row["itemid"] == "50931" and row["valuenum"]:
            sugar[row["subject_id"] in diabetics].append(float(row["valuenum"]))
    assert sum(sugar[True]) / len(sugar[True]) > 1.2 * sum(sugar[False]) / len(sugar[False])


def test_men_never_give_birth_and_women_have_no_prostate(data):
    men = {row["subject_id"] for row in data["patients"] if row["gender"] == "M"}
    births = {
        r["subject_id"]
        for r in data["diagnoses_icd"]
        if r["icd_version"] == "9" and r["icd_code"] == "V270"
    } | held(data, "Z370")
    assert births and not births & men
    assert held(data, "60000", "N400") and held(data, "60000", "N400") <= men


def test_anticoagulation_shows_in_drug_code_and_inr(data):
    coded = held(data, "V5861", "Z7901")
    given = {
        row["subject_id"]
        for row in data["prescriptions"]
        if row["drug"] in ("Warfarin", "Apixaban", "Rivaroxaban", "Enoxaparin Sodium")
    }
    assert len(coded & given) > 0.9 * len(coded) > 5
    inr = [
        float(row["valuenum"])
        for row in data["labevents"]
        if row["itemid"] == "51237" and row["valuenum"]
    ]
    assert max(inr) > 2


def test_dialysis_patients_have_a_high_creatinine(data):
    failing = held(data, "5856", "N186")
    values = sorted(
        float(r["valuenum"])
        for r in data["labevents"]
        if r["itemid"] == "50912" and r["valuenum"] and r["subject_id"] in failing
    )
    assert not failing or values[len(values) // 2] > 2.5


def test_no_table_is_sorted_by_subject(data):
    for name, table in TABLES.items():
        if "subject_id" in table.columns and len(data[name]) > 20:
            order = [row["subject_id"] for row in data[name]]
            assert order != sorted(order), name
    order = [row["subject_id"] for row in data["labevents"]]
    runs = 1 + sum(a != b for a, b in zip(order, order[1:], strict=False))
    assert runs > 5 * len(set(order))


@pytest.mark.parametrize(
    "table, column, value",
    [
        ("labevents", "value", "___"),
        ("labevents", "value", "<0.01"),
        ("labevents", "value", "0-2"),
        ("labevents", "valueuom", "N/A"),
        ("labevents", "value", "None"),
        ("d_items", "unitname", "None"),
        ("prescriptions", "dose_val_rx", "25,000"),
        ("prescriptions", "dose_val_rx", "500,000"),
        ("prescriptions", "dose_val_rx", "50-100"),
        ("prescriptions", "dose_val_rx", ".1"),
        ("prescriptions", "form_rx", ""),
        ("microbiologyevents", "spec_type_desc", ""),
        ("prescriptions", "drug", ""),
        ("labevents", "hadm_id", None),
        ("emar", "hadm_id", None),
        ("microbiologyevents", "hadm_id", None),
        ("transfers", "hadm_id", None),
        ("d_hcpcs", "code", "TD   "),
        ("drgcodes", "drg_code", "065"),
        ("admissions", "discharge_location", None),
    ],
)
def test_the_real_datas_odd_values_are_there(data, table, column, value):
    assert value in {row[column] for row in data[table]}


def test_codes_keep_leading_zeros_and_titles_their_letters(data):
    assert any(row["icd_code"].startswith("0") for row in data["diagnoses_icd"])
    assert any((row["gsn"] or "").startswith("0") for row in data["prescriptions"])
    assert any(
        (row["ndc"] or "").startswith("0") and len(row["ndc"]) == 11
        for row in data["prescriptions"]
    )
    assert any("Ménière" in row["long_title"] for row in data["d_icd_diagnoses"])
    assert any('"' in row["short_description"] for row in data["d_hcpcs"])


def test_some_codes_mean_something_else_in_the_other_version(data):
    meanings = defaultdict(set)
    for row in data["d_icd_diagnoses"]:
        meanings[row["icd_code"]].add(row["long_title"])
    both = {code for code, titles in meanings.items() if len(titles) == 2}
    assert len(both) >= 20 and both & {row["icd_code"] for row in data["diagnoses_icd"]}


def test_columns_that_are_empty_in_the_real_data_are_empty(data):
    for table, column in (
        ("pharmacy", "expirationdate"),
        ("pharmacy", "fill_quantity"),
        ("microbiologyevents", "quantity"),
    ):
        assert {row[column] for row in data[table]} == {None}
    assert {row["order_status"] for row in data["poe"]} == {"Inactive"}


def test_times_are_as_unruly_as_the_real_ones(data):
    assert any("." in row["storetime"] for row in data["procedureevents"])
    backwards = [row for row in data["prescriptions"] if row["stoptime"] < row["starttime"]]
    assert 0.01 < len(backwards) / len(data["prescriptions"]) < 0.06
    for name in ("outputevents", "emar", "inputevents"):
        start = "starttime" if name == "inputevents" else "charttime"
        early = sum(row["storetime"] < row[start] for row in data[name]) / len(data[name])
        assert 0.005 < early < 0.25, name
    parse = datetime.fromisoformat
    delays = [
        parse(row["storetime"]) - parse(row["charttime"])
        for row in data["labevents"]
        if row["storetime"]
    ]
    assert max(delays) > timedelta(hours=100)


def test_truths_name_real_columns_and_codes(folder, data):
    truths = json.loads((folder / "planted_truths.json").read_text(encoding="utf-8"))
    assert len(truths["noise"]) >= 20 and len({one["target"] for one in truths["signal"]}) >= 35
    titles = {(row["icd_code"], row["icd_version"]) for row in data["d_icd_diagnoses"]}
    for one in truths["signal"] + truths["noise"]:
        assert one["column"] in TABLES[one["table"]].columns
    for one in truths["signal"]:
        assert {(code, "9") for code in one["icd9"]} | {
            (code, "10") for code in one["icd10"]
        } <= titles
    drugs = {row["drug"] for row in data["prescriptions"]}
    assert len([one for one in truths["signal"] if one.get("value") in drugs]) > 50


def test_noise_has_nothing_to_do_with_the_patient(tmp_path, folder, monkeypatch):
    """Other noise streams change the noise columns and not one other cell."""
    truths = json.loads((folder / "planted_truths.json").read_text(encoding="utf-8"))
    noisy = {(one["table"], one["column"]) for one in truths["noise"]}
    real = book.Random
    monkeypatch.setattr(
        book, "Random", lambda seed: real(f"x{seed}" if ":noise:" in str(seed) else seed)
    )
    hospital.write(tmp_path / "b", n_patients=25, seed=3, progress=False)
    monkeypatch.undo()
    hospital.write(tmp_path / "a", n_patients=25, seed=3, progress=False)
    differ = set()
    for name in TABLES:
        for one, two in zip(read(tmp_path / "a", name), read(tmp_path / "b", name), strict=True):
            differ |= {(name, column) for column in one if one[column] != two[column]}
    assert differ <= noisy and len(differ) > 20


def test_the_vocabularies_agree():
    words = vocabulary.vocabulary()
    names = {one["name"] for one in words.conditions}
    assert len(names) == len(words.conditions) >= 35 and len(words.reasons) >= 16
    for one in words.conditions + words.reasons:
        groups = [[group] if isinstance(group, str) else group for group in one.get("drugs", ())]
        assert {drug for group in groups for drug in group} | set(one.get("avoid", ())) <= set(
            words.drugs
        ), one["name"]
        assert set(one.get("labs", ())) <= set(words.labs), one["name"]
        assert (
            set(one.get("with", ())) | set(one.get("without", ())) | set(one.get("boost", ()))
            <= names
        ), one["name"]
        assert set(one.get("needs", ())) <= names and set(one.get("panels", ())) <= set(
            words.panels
        ), one["name"]
