"""The storage folder's rules for every script: what ends in one sentence, what a signal leaves, readable help."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from mimic_qlora.step import command_line, errors, storage
from mimic_qlora.step.errors import UserError


def leave(body: str) -> subprocess.CompletedProcess:
    """Run a main with this body in a process of its own."""
    code = f"import os, signal\nfrom mimic_qlora.step import command_line\ndef main():\n    {body}\ncommand_line.run(main)"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupt_that_a_library_swallows_still_ends_as_one(name, code):
    swallow = f"""try: os.kill(os.getpid(), signal.{name})
    except BaseException: pass
    raise ValueError("half imported")"""
    ended = leave(swallow)
    assert ended.returncode == code and "Traceback" not in ended.stderr


def test_a_file_that_cannot_be_opened_is_named_in_one_sentence(tmp_path):
    ended = leave(f"open({str(tmp_path / 'gone.csv')!r})")
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("error: ") and "gone.csv" in ended.stderr


def test_a_fault_of_the_software_keeps_its_traceback():
    assert "Traceback" in leave("raise ValueError('a bug')").stderr


@pytest.mark.parametrize("value", [-1, 11, float("nan"), float("inf")])
def test_a_number_out_of_range_is_refused(value):
    command_line.check_range(argparse.Namespace(save_minutes=10), "save_minutes", 0, 10)
    with pytest.raises(UserError, match="--save-minutes .* from 0 to 10"):
        command_line.check_range(argparse.Namespace(save_minutes=value), "save_minutes", 0, 10)


OUT_OF_RANGE = {
    "convert_to_jsonl.py": ["--memory", "nan"],
    "summarize_jsonl.py": ["--min-cell", "99999999999999999999999"],
    "feature_select_xgb_columns.py": ["--landmark-hours", "nan"],
    "make_symptom_prompts_ctx_dxpx.py": ["--preview", "-1"],
    "train_qlora.py": ["--seed", "-1"],
    "qa_by_subject.py": ["--run", "../../elsewhere"],
    "run_files/validate.py": ["--run", "../../elsewhere"],
}


@pytest.mark.parametrize("script", OUT_OF_RANGE)
def test_arguments_that_cannot_be_are_refused_before_anything_is_read(run, script, tmp_path):
    ended = run(script, *OUT_OF_RANGE[script])
    assert (
        ended.returncode == 2
        and OUT_OF_RANGE[script][0] in ended.stderr
        and "Traceback" not in ended.stderr
    )
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize("script", OUT_OF_RANGE)
def test_help_fits_into_100_columns(run, script):
    lines = run(script, "--help", COLUMNS="100").stdout.splitlines()
    assert max(map(len, lines)) <= 100


def stored(place, files: dict):
    """A step's output made of these files."""
    with storage.step_output(place, "features", {}, {}) as output:
        for name, text in files.items():
            (output.path / name).parent.mkdir(exist_ok=True)
            (output.path / name).write_text(text)


DAMAGES = {"gone": Path.unlink, "truncated": lambda path: path.write_text("")}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_output_is_refused_by_the_next_step_and_written_anew_by_its_own(tmp_path, damage):
    files = {"columns_least.csv": "column\nlabevents.priority\n", "tables/part-00000.csv": "1\n"}
    stored(tmp_path, files)
    storage.verified_manifest(tmp_path, "features")
    with pytest.raises(errors.UpToDate):
        stored(tmp_path, files)
    for name in files:
        spoiled = tmp_path / "features" / name
        DAMAGES[damage](spoiled)
        with pytest.raises(
            UserError, match=f"{name} is missing or was changed.*feature_select_xgb_columns.py"
        ):
            storage.verified_manifest(tmp_path, "features")
        stored(tmp_path, files)
        assert spoiled.read_text() == files[name]


def test_a_file_that_was_edited_is_refused_whatever_its_size(tmp_path):
    stored(tmp_path, {"columns_least.csv": "labevents.priority"})
    (tmp_path / "features" / "columns_least.csv").write_text("labevents.valuenum")
    with pytest.raises(UserError, match="columns_least.csv is missing or was changed"):
        storage.verified_manifest(tmp_path, "features")


def test_a_manifest_that_a_kill_cut_short_is_no_part_of_the_output(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        storage.step_output(tmp_path, "subjects", {}, {}, resumable=True) as out,
    ):
        (out.path / ".manifest.json.new").write_text("{")
        raise KeyboardInterrupt
    with storage.step_output(tmp_path, "subjects", {}, {}, resumable=True):
        pass
    assert ".manifest.json.new" not in storage.verified_manifest(tmp_path, "subjects")["files"]
