"""What a study is expected to take follows sample, seeds and model, and says what is computed."""

import gzip
import json

import pytest

from helpers.paths import ROOT
from mimic_qlora.step import limits
from mimic_qlora.step.errors import UserError
from mimic_qlora.study import expected, study_file

LLAMA = {  # the shape of Llama 3 8B
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}


@pytest.fixture
def take(tmp_path, tiny_mimic, monkeypatch):
    """take(text): what a study of the small MIMIC-IV takes, by step, on a machine without a GPU."""
    monkeypatch.setattr(expected.limits, "gpus", lambda: None)
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text(json.dumps(LLAMA))

    def expect(text: str) -> dict[str, expected.Expected]:
        path = tmp_path / "study.yaml"
        path.write_text(text.replace("MIMIC", str(tiny_mimic)), encoding="utf-8")
        file = study_file.read(path)
        return {one.step: one for one in expected.of_study(file, tmp_path / "storage", ROOT)}

    return expect


def test_every_step_of_the_demo_was_measured(take):
    demo = (ROOT / "run_files" / "studies" / "demo.yaml").read_text(encoding="utf-8")
    found = take(demo)
    assert [one.number for one in found.values()] == [1, 2, 3, 4, 5, 6, 7]
    assert {one.basis for one in found.values()} == {"measured"}
    assert all(one.seconds and not one.gpu_bytes for one in found.values())


def test_it_grows_with_patients_records_seeds_and_trials(take):
    few = take("data: {from: synthetic, synthetic_patients: 4000, sample: 0.1}")
    many = take("data: {from: synthetic, synthetic_patients: 4000}\ntraining: {seeds: [1, 2]}")
    assert many["subjects"].disk == pytest.approx(10 * few["subjects"].disk)
    assert few["subjects"].seconds < many["subjects"].seconds < 10 * few["subjects"].seconds
    assert many["features"].basis == "computed"
    assert many["adapters"].seconds > 10 * (few["adapters"].seconds - 45)
    assert many["adapters"].disk == 2 * few["adapters"].disk
    thrice = take("data: {from: synthetic}\nvalidation: {n: 60}")["validation"].seconds - 20
    once = take("data: {from: synthetic}\nvalidation: {n: 20}")["validation"].seconds - 20
    assert thrice == pytest.approx(3 * once)


def test_a_real_folder_is_measured_by_its_files(take, tiny_mimic):
    found = take("data: {from: MIMIC}")
    assert 0 < found["subjects"].disk < 1e6 and found["adapters"].seconds < 200


def test_patients_in_several_files_and_those_of_a_list_are_counted(take, tiny_mimic, tmp_path):
    """The first file alone was counted; with a list of ten, the hours of everybody were told."""
    whole = take("data: {from: MIMIC}")
    table = tiny_mimic / "hosp" / "patients.csv.gz"
    with gzip.open(table, "rt") as file:
        header, *rows = file.read().splitlines(keepends=True)
    listed = tmp_path / "some.txt"
    listed.write_text(rows[0].split(",")[0] + "\n")
    some = take(f"data: {{from: MIMIC, subjects_file: {listed}}}")
    assert some["subjects"].disk * len(rows) == pytest.approx(whole["subjects"].disk)
    assert some["prompts"].disk * len(rows) == pytest.approx(whole["prompts"].disk)
    table.unlink()
    (tiny_mimic / "hosp" / "patients").mkdir()
    for number, row in enumerate(rows):
        (tiny_mimic / f"hosp/patients/part-{number}.csv").write_text(header + row)
    assert take("data: {from: MIMIC}")["prompts"].disk == pytest.approx(whole["prompts"].disk)
    listed.write_text("5\n")
    with pytest.raises(UserError, match="1 of them not in patients"):
        take(f"data: {{from: MIMIC, subjects_file: {listed}}}")


def test_on_a_gpu_memory_and_training_are_computed_and_answers_are_not_known(take):
    text = "data: {from: synthetic}\nmodel: llama\ntraining: {recipe: gpu_24gb}\n"
    found = take(text)
    adapters, validation = found["adapters"], found["validation"]
    assert adapters.basis == "computed, RTX 4090" and 14e9 < adapters.gpu_bytes < 24e9
    assert validation.seconds is None and validation.basis == "not known"
    assert 6e9 < validation.gpu_bytes < 10e9
    said = " ".join(" ".join(expected.in_words([*found.values()], 5e6)).split())
    assert "and what is not known" in said and "computed, RTX" in said
    assert "takes up to 6.2 MB while it works (5.0 MB are free: too little)" in said
    assert "too little" not in " ".join(expected.in_words([*found.values()], 1e12))


def test_a_machine_with_the_driver_and_no_gpu_trains_on_its_cores(take, monkeypatch):
    for listed, recipe in ((0, "measured"), (1, "computed, RTX 4090")):
        monkeypatch.setattr(expected.limits, "gpus", lambda n=listed: limits.Gpus(n, False, ""))
        monkeypatch.setattr(expected.limits, "gpus_hidden", lambda: False)
        text = "data: {from: synthetic}\nmodel: llama\n"
        found = take(text if listed else "data: {from: synthetic}")["adapters"]
        assert found.basis == recipe


def test_what_is_free_is_that_of_the_disk_of_a_folder_that_is_not_there(tmp_path):
    assert expected.free_bytes(tmp_path / "a" / "b") > 0


def test_times_are_told_in_the_unit_that_reads_well():
    assert [*map(expected.duration, (7, 99, 300, 7200))] == ["7 s", "99 s", "5 min", "2.0 h"]
