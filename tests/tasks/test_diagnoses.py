"""Diagnoses: the gold is what the stay was coded with, and none of it is shown."""

from helpers.prompt_records import answer_of, of_task
from mimic_qlora.chart import columns
from mimic_qlora.clinical import codes
from mimic_qlora.clinical import content as clinical
from mimic_qlora.subjects import reader
from mimic_qlora.tasks import diagnoses
from mimic_qlora.tasks.gold import Criterion


def test_the_gold_diagnoses_are_the_listed_conditions_of_that_stay_and_none_is_shown(demo_prompts):
    catalogue = clinical.load().phenotypes
    for one in of_task(demo_prompts, "diagnoses")[::3]:
        record = reader.record(demo_prompts.store, one["subject_id"], columns.WANTED)
        rows = [r for r in record["diagnoses_icd_labeled"] if r["hadm_id"] == one["hadm_id"]]
        kept = [
            r for r in rows if r["icd_code"][0] not in ("EV" if r["icd_version"] == 9 else "VWXYZ")
        ]
        due = {i for r in kept for i in codes.phenotypes_of([(r["icd_code"], r["icd_version"])])}
        due = {i for i in due if catalogue[i].kind != "status"}
        assert {item["tags"][2] for item in one["rubric"]} == due
        assert "Current stay" in one["messages"][1]["content"]
        known, new = answer_of(one).splitlines()
        assert known.startswith("Known before: ") and new.startswith("Not known before, or acute: ")
        lasting = {catalogue[i].name for i in due if catalogue[i].kind == "condition"}
        assert {*known.removeprefix("Known before: ").split("; ")} - {"none"} <= lasting


def test_the_scorer_of_diagnoses_counts_what_is_named():
    rubric = [
        Criterion("names diabetes", 1, ["condition", "known", "diabetes"]),
        Criterion("names anemia", 1, ["condition", "new", "anemia"]),
    ]
    full = diagnoses.score(
        rubric, "Known before: diabetes\nNot known before: anemia (low red blood cells)"
    )
    assert full == (1, 1, 1, 1)
    half = diagnoses.score(
        rubric, "Known before: Diabetes; asthma\nNot known before, or acute: none"
    )
    assert half == (0.5, 0.5, 0.5, 0)
    assert diagnoses.score(rubric, "past anemia, I think").recall == 0
    assert diagnoses.score(rubric[:1], "").recall_new is None
