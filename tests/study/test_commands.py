"""The commands of a study: every option of a script has a field, and a field is such an option."""

import re
import shlex
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.scripts import run_here
from mimic_qlora.step.step_commands import COMMANDS
from mimic_qlora.study import commands, study_file

SECTIONS = {
    "data": "convert_to_jsonl.py",
    "summary": "summarize_jsonl.py",
    "features": "feature_select_xgb_columns.py",
    "prompts": "make_symptom_prompts_ctx_dxpx.py",
    "training": "train_qlora.py",
    "asking": "qa_by_subject.py",
    "validation": "run_files/validate.py",
}
# what a study gives in another way, and what is for people who look at one step
NOT_OF_A_STUDY = {
    *("help", "storage", "force", "model", "run-name", "mimic-dir", "replace-patients"),
    *("preview", "audit", "check", "once", "batch", "batch-size", "format", "run", "final"),
    *("freeze", "save-base", "canaries", "make-certificates", "replace-adapter"),
}
OTHERWISE = {"from", "n", "batch-size"}  # fields that are no option, and one of step 7's


def read(folder: Path, text: str) -> study_file.StudyFile:
    (folder / "study.yaml").write_text("data: {from: synthetic}\n" + text, encoding="utf-8")
    return study_file.read(folder / "study.yaml")


def typed(file: study_file.StudyFile, store: str = "/s") -> list[str]:
    return [command.in_words.replace(" --storage /s", "") for command in _of(file, store)]


def _of(file, store):
    return commands.of(file, Path(store))


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_has_the_options_of_its_script(section, tmp_path):
    said = run_here(SECTIONS[section], "--help", storage=tmp_path).stdout
    options = set(re.findall(r"^  (?:-\w, )?--(?:\[no-\])?([a-z-]+)", said, re.M))
    options |= set(re.findall(r", --([a-z-]+)", said.partition("options:")[2]))
    kind = study_file.Study.model_fields[section].annotation
    fields = {(field.alias or name).replace("_", "-") for name, field in kind.model_fields.items()}
    of_batch = {"processes"} if section == "asking" else set()
    assert options - NOT_OF_A_STUDY - of_batch - {"no-knowledge", "no-records"} <= fields
    assert fields - OTHERWISE <= options


def test_the_demo_runs_the_seven_steps_as_its_file_says():
    file = study_file.read(ROOT / "run_files" / "studies" / "demo.yaml")
    found = _of(file, "/s")
    assert [command.number for command in found] == [1, 2, 3, 4, 5, 6, 7]
    assert all(command.options[-2:] == ("--storage", "/s") for command in found)
    assert found[4].log == Path("/s/train.log")
    said = typed(file)
    assert said[0] == f"python convert_to_jsonl.py --seed {file.study.data.seed}"
    assert shlex.quote(file.study.asking.question) in said[5] and "--once" in said[5]
    assert said[6].startswith(f"cd run_files && ./run.sh {file.study.validation.n} ")


def test_values_become_the_words_that_a_shell_would_get(tmp_path):
    file = read(
        tmp_path,
        "model: meta/L\n"
        "prompts: {tasks: [guidance, chart_qa]}\n"
        "training: {seeds: [0, 1, 2], rslora: true, lr: 2.0e-4}\n"
        "asking: {question: '-?'}\n"
        "validation: {n: 5, arms: [base, adapter], knowledge: false, strict: true}\n",
    )
    runs = "default-seed0,default-seed1,default-seed2"
    assert typed(file)[3:] == [
        "python make_symptom_prompts_ctx_dxpx.py --tasks guidance chart_qa --model meta/L",
        "python train_qlora.py --seeds 0,1,2 --lr 0.0002 --rslora --model meta/L",
        "python qa_by_subject.py --subject-id random '--question=-?' --once --run default-seed0 "
        "--model meta/L",
        "cd run_files && ./run.sh 5 --arms base,adapter --strict --no-knowledge --run "
        f"{runs} --model meta/L",
    ]


def test_the_test_patients_are_opened_by_a_plan_that_is_frozen_before(tmp_path):
    (tmp_path / "plan.yaml").write_text("n: 3\n")
    file = read(tmp_path, "validation: {n: 4, seed: 1, plan: plan.yaml, batch_size: 2}\n")
    store, plan = tmp_path / "store", tmp_path / "plan.yaml"
    last = [command.options[:-2] for command in _of(file, store) if command.number == 7]
    assert last == [
        ("4", "--batch-size", "2", "--seed", "1"),
        ("--freeze", str(plan)),
        ("--final", "--batch-size", "2"),
    ]
    (store / "validation").mkdir(parents=True)
    commands.frozen_plan(store).write_bytes(plan.read_bytes())
    last = [command.options[0] for command in _of(file, store) if command.number == 7]
    assert last == ["4", "--final"]
    alone = read(tmp_path, "validation: {plan: plan.yaml}\n")
    assert [one.options[0] for one in _of(alone, store) if one.number == 7] == ["--final"]


def test_without_a_plan_no_command_opens_the_test_patients(tmp_path):
    file = read(tmp_path, "validation: {n: 4}\n")
    assert not [one for one in _of(file, tmp_path) if "--final" in one.options]


def test_recipe_and_models_of_the_file_s_folder_go_by_their_whole_path(tmp_path):
    (tmp_path / "own.yaml").touch()
    (tmp_path / "llama").mkdir()
    (tmp_path / "other").mkdir()
    text = "model: llama\ntraining: {recipe: own.yaml}\nvalidation: {n: 2, judge: other}\n"
    *_, said, _, last = typed(read(tmp_path, text))
    assert f"--recipe {tmp_path}/own.yaml" in said and f"--model {tmp_path}/llama" in said
    assert f"--judge {tmp_path}/other" in last
    assert "--recipe cpu" in typed(read(tmp_path, "training: {recipe: cpu}\n"))[4]


EVERYTHING = """
summary: {min_cell: 5, all: true}
features: {targets: codes, n_targets: 3, landmark_hours: 24, seeds: 2, margin: 0.02, device: cpu}
prompts: {tasks: [guidance, chart_qa], pairs_per_subject: 1, max_total: 20, token_budget: 300,
  landmark_hours: 24, seed: 1}
training: {recipe: cpu, run: a, seeds: [0, 1], epochs: 1, max_steps: 3, lr: 1e-4, rank: 8,
  alpha: 16, rslora: true, dropout: 0.1, max_length: 1024, batch_tokens: 1024, accumulate: 1,
  checkpointing: 2, compute: fp32, optimizer: adamw_torch_fused, validations: 1, patience: 0,
  limit: 4, save_minutes: 1}
asking: {subject_id: 10000032, question: "-What?", as_of: "2150-01-01", arm: both,
  max_new_tokens: 9, seed: 1}
validation: {n: 3, arms: [base, adapter], judge: base, max_new_tokens: 9, batch_size: 2,
  knowledge: false, twins: 1, records: false, seed: 3, processes: 2,
  jump: login}
"""


@pytest.mark.parametrize("batches", ["batch_size: 2", "strict: true"])
def test_the_scripts_take_what_a_file_with_every_setting_gives_them(tmp_path, batches):
    """They get as far as the storage folder, which is not there."""
    text = EVERYTHING.replace("batch_size: 2", batches)
    for command in _of(read(tmp_path, text), tmp_path / "nowhere")[1:]:
        script = COMMANDS[command.step].split()[-1].replace("./run.sh", "run_files/validate.py")
        done = run_here(script, *command.options, storage=tmp_path)
        assert done.returncode == 2 and "there is no storage folder" in done.stderr, done.stderr
