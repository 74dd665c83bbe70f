"""The storage folder: outputs are whole, checked before they are read, and written by one run."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from mimic_qlora.step import errors, storage
from mimic_qlora.step.errors import UserError


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


HOLD = """
import sys
from pathlib import Path
from mimic_qlora.step import storage
with storage.locked(Path(sys.argv[1]) / "features", "features"):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_a_second_run_out_and_goes_with_its_process(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as holder:
        assert holder.stdout.readline() == "locked\n"
        for _ in range(2):
            with (
                pytest.raises(UserError, match="another run of `python feature_select"),
                storage.locked(tmp_path / "features", "features"),
            ):
                pass
        holder.kill()
    with storage.locked(tmp_path / "features", "features"):  # a dead run blocks nobody
        assert (tmp_path / ".features.lock").stat().st_mode & 0o777 == 0o600


def test_facts_of_a_step_are_in_its_manifest_and_no_part_of_its_identity(tmp_path):
    with storage.step_output(tmp_path, "features", {"a": 1}, {}) as output:
        output.facts["patients"] = 5
    manifest = storage.verified_manifest(tmp_path, "features")
    assert manifest["patients"] == 5 and manifest["id"] == output.manifest["id"]
    with pytest.raises(errors.UpToDate), storage.step_output(tmp_path, "features", {"a": 1}, {}):
        pass


def test_a_path_that_duckdb_cannot_open_is_refused_at_once(tmp_path):
    with pytest.raises(UserError, match="is not text in this locale: set LC_ALL=C.UTF-8"):
        storage.open_storage(f"{tmp_path}/caf\udce9", create=True)
    assert not list(tmp_path.iterdir())
