"""run.sh: finds Python and the storage folder, and says what is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT

# as a user has it who has activated the environment of the tests
ACTIVATED = os.environ | {
    "VIRTUAL_ENV": sys.prefix,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
}


@pytest.mark.parametrize("n", ["abc", "0", "-3", "2.5", "", "٣", "1e3"])
def test_n_that_is_no_positive_whole_number_is_one_sentence_and_exit_2(n, tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "run_files" / "run.sh"), n],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=ACTIVATED,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.startswith("error: n must be a positive whole number")
        and f"'{n}'" in done.stderr
        and done.stderr.count("\n") == 1
    )


def test_run_sh_finds_the_storage_folder_of_the_repository_and_of_the_caller(tmp_path):
    (tmp_path / "run_files").mkdir()
    for name in ("run.sh", "validate.py"):
        shutil.copy(ROOT / "run_files" / name, tmp_path / "run_files")
    (tmp_path / "mimic_qlora").symlink_to(ROOT / "mimic_qlora")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    environment = {k: v for k, v in os.environ.items() if k != "STORAGE_DIR"}

    def said(*args, **more):
        command = ["bash", "./run.sh", *args]
        done = subprocess.run(
            command,
            cwd=tmp_path / "run_files",
            capture_output=True,
            text=True,
            env=environment | more,
        )
        assert done.returncode == 2
        return done.stderr

    assert f"no storage folder {tmp_path}/storage:" in said("3")
    assert f"no storage folder {tmp_path}/run_files/mine:" in said("3", "--storage", "mine")
    relative = f"{tmp_path}/other (STORAGE_DIR is '../other', from the folder you are in):"
    assert f"no storage folder {relative}" in said("3", STORAGE_DIR="../other")


@pytest.mark.parametrize("how", ["sh", "dash", "link", "link to a link"])
def test_another_shell_and_a_link_lead_to_the_same_command(tmp_path, how):
    script = ROOT / "run_files" / "run.sh"
    if how in ("sh", "dash"):
        if not shutil.which(how):
            pytest.skip(f"{how} is not here")
        command = [how, str(script)]
    else:
        (tmp_path / "second").symlink_to(script)
        (tmp_path / "first").symlink_to("second")
        command = [str(tmp_path / ("second" if how == "link" else "first"))]
    done = subprocess.run(
        [*command, "x"], cwd=tmp_path, capture_output=True, text=True, env=ACTIVATED
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: n must be a positive whole number"), done.stderr


def test_help_takes_less_than_a_second_of_work():
    before = os.times().children_user
    done = subprocess.run(
        ["bash", str(ROOT / "run_files" / "run.sh"), "--help"],
        capture_output=True,
        text=True,
        env=ACTIVATED,
    )
    assert done.returncode == 0 and "number of trials" in done.stdout
    assert os.times().children_user - before < 1


def test_a_python_without_the_packages_is_named_with_what_it_lacks(tmp_path):
    (tmp_path / "run_files").mkdir()
    for name in ("run.sh", "validate.py"):
        shutil.copy(ROOT / "run_files" / name, tmp_path / "run_files")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # no site-packages
    python.chmod(0o700)
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("VIRTUAL_ENV", "CONDA_DEFAULT_ENV", "PYTHONPATH")
    }
    command = ["bash", "./run.sh", "3"]
    done = subprocess.run(
        command, cwd=tmp_path / "run_files", capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {python} lacks the packages bitsandbytes, filelock")
    assert "transformers" in done.stderr and "activate the environment" in done.stderr
