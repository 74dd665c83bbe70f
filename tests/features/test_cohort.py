"""The cohort and its targets."""

import pytest

from helpers.feature_tables import hospital, keep
from mimic_qlora.features import cohort
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import database


def test_a_code_is_judged_over_stays_of_its_own_version(tmp_path):
    store = keep(tmp_path, hospital())
    con = database.connect(store, tmp_path)
    people = cohort.gather(con, 24)
    chosen, _ = cohort.choose(con, people, "codes", 3)
    by_name = {t.name: t for t in chosen}
    target = by_name["ICD-9 4019"]
    assert (people.icd_version.to_numpy()[target.who] == 9).all() and not target.y[
        ~target.who
    ].any()


def test_patients_without_a_coded_stay_are_left_out_and_everybodys_disease_is_passed_over(tmp_path):
    made = hospital()
    sick = [
        {**row, "icd_code": "4019", "icd_version": 9}
        for row in made["diagnoses_icd"]
        if row["seq_num"] == 1
    ]
    store = keep(
        tmp_path,
        {
            **made,
            "diagnoses_icd": [
                r for r in made["diagnoses_icd"] if r["icd_code"] not in ("I10", "4019")
            ]
            + sick,
        },
    )
    con = database.connect(store, tmp_path)
    people = cohort.gather(con, 24)
    chosen, passed = cohort.choose(con, people, "phenotypes", 20)
    assert len(people) == 200 and [t.name for t in chosen] == ["diabetes"]
    assert (
        "only 0 train patients are without it" in passed[0]
        and "1 targets instead of 20" in passed[1]
    )


def test_the_column_without_which_nothing_is_coded_is_named(tmp_path):
    made = hospital()
    without = [{**row, "icd_version": None} for row in made["diagnoses_icd"]]
    con = database.connect(keep(tmp_path, {**made, "diagnoses_icd": without}), tmp_path)
    with pytest.raises(UserError, match="diagnoses_icd has no icd_version, without which"):
        cohort.gather(con, 24)


def test_more_patients_than_memory_holds_are_sampled(tmp_path):
    store = keep(tmp_path, hospital())
    con = database.connect(store, tmp_path)
    everybody = cohort.gather(con, 24)
    con.execute("DROP TABLE cohort")
    people = cohort.gather(con, 24, 120)
    assert len(people) == 120 and people.subject_id.is_monotonic_increasing
    assert set(people.subject_id) < set(everybody.subject_id)
    chosen, _ = cohort.choose(con, people, "phenotypes", 3)
    assert chosen and all(len(target.y) == 120 for target in chosen)
