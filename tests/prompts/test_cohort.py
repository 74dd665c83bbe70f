"""The cohort: who is asked, who is left out and counted, and the split by time."""

import json

from helpers.prompt_records import of_task
from mimic_qlora.prompts import cohort


def test_who_is_left_out_is_counted_and_the_card_names_no_folder(demo_prompts, demo_dir):
    counts = json.loads((demo_prompts.store / "prompts/manifest.json").read_text())["counts"]
    assert counts["cohort"]["with a coded stay"] == 100 and sum(counts["tasks"].values()) == len(
        demo_prompts.records
    )
    left_out = counts["cohort"][
        "left out of guidance: no live discharge to home that a question could follow"
    ]
    assert left_out + len({one["subject_id"] for one in of_task(demo_prompts, "guidance")}) == 100
    assert f"{left_out:>8,}  left out of guidance" in demo_prompts.printed
    card = (demo_prompts.store / "prompts/README.md").read_text()
    assert (
        demo_dir.name in card and str(demo_dir.parent) not in card and "| guidance | 148 |" in card
    )
    silent = sum(not one["cautions"] for one in of_task(demo_prompts, "guidance"))
    assert silent and f"| none: the chart calls for nothing | {silent} |" in card
    assert f"guidance answers without one: {silent};" in " ".join(demo_prompts.printed.split())


def test_the_split_by_time_keeps_patients_whole_and_holds_out_the_latest_years(demo_prompts):
    years = {one["subject_id"]: one["anchor_year_group"] for one in demo_prompts.records}
    assert {one["temporal_split"] for one in demo_prompts.records} == {"train", "test"}
    for one in demo_prompts.records:
        assert (one["temporal_split"] == "test") == (
            years[one["subject_id"]] == max(years.values())
        )


def test_codes_of_a_stay_that_is_not_there_are_no_coded_stay(monkeypatch, tmp_path):
    """As in steps 2 and 3."""
    rows = {"patients": [], "admissions": [], "diagnoses_icd_labeled": [{"hadm_id": 7}]}
    monkeypatch.setattr(cohort.reader, "records", lambda *_: iter([{"subject_id": 1, **rows}]))
    found = cohort.find(tmp_path, ["guidance"], 1, 42, 24)
    assert found.counts[cohort.CODED] == 0 and found.counts[cohort.NO_STAY] == 1
