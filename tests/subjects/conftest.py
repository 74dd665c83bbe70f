"""What step 1 leaves of a small hand-made MIMIC-IV."""

import shutil
from pathlib import Path

import pytest

from helpers.mimic_tables import write_tiny_mimic
from helpers.scripts import run_here


@pytest.fixture(scope="session")
def of_tiny(tmp_path_factory) -> Path:
    """A folder with the tables of `tiny_mimic` and the storage folder of step 1: read it only."""
    folder = tmp_path_factory.mktemp("of_tiny")
    mimic = write_tiny_mimic(folder / "mimic")
    done = run_here("convert_to_jsonl.py", "--mimic-dir", mimic, storage=folder / "storage")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def converted(of_tiny, tiny_mimic, tmp_path) -> Path:
    """The storage folder of the test as step 1 leaves it of `tiny_mimic`."""
    shutil.copytree(of_tiny / "mimic", tiny_mimic, dirs_exist_ok=True)  # files of the same times
    place = shutil.copytree(of_tiny / "storage", tmp_path / "storage")
    path = place / "subjects" / "manifest.json"
    path.write_text(path.read_text().replace(str(of_tiny / "mimic"), str(tiny_mimic)))
    return place
