"""Near-duplicates are left out of the files and of the counts."""

from helpers.prompt_records import prompt_record, read_jsonl
from mimic_qlora.chart.prompt import join_prompt
from mimic_qlora.prompts import dataset, near_duplicates
from mimic_qlora.prompts.dataset import Person
from mimic_qlora.prompts.record_files import PromptRecord


def test_near_duplicates_of_other_patients_are_left_out(tmp_path):
    def record(subject_id, text, question="How old is the patient?", split="train"):
        turns = [("system", "S"), ("user", join_prompt(text, question)), ("assistant", "60")]
        messages = [{"role": role, "content": words} for role, words in turns]
        return PromptRecord.of(prompt_record(messages, subject_id, split=split)), Person(60, "F")

    chart = "Patient context\n- Age: 60\n- Sex: female\n- Known conditions: " + "; ".join(
        f"condition{n}" for n in range(60)
    )
    other = chart.replace("condition1", "something else than that 1")
    records = [
        record(1, chart),
        record(2, chart.replace("condition59", "condition60"), split="test"),
        record(3, other),
    ]
    records.append(record(4, chart, "What is the patient's sex?"))
    counts = dataset.write(tmp_path, records)
    assert counts.near_duplicates == 1 and read_jsonl(tmp_path / "test.jsonl") == []
    assert counts.splits == {"train": 3} and counts.sexes == {"female": 3}
    assert [one["subject_id"] for one in read_jsonl(tmp_path / "train.jsonl")] == [1, 3, 4]
    assert (
        near_duplicates.similarity("a b c d", "a b c d") == 1
        and near_duplicates.similarity("a b c", "d e f") == 0
    )
