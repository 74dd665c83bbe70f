"""The reader of a table's files, and what it leaves of Arrow's threads."""

import subprocess
import sys

import pytest

from helpers.paths import ROOT

READ = """
import sys, time
from pathlib import Path
from mimic_qlora.mimic import reading, second_reader, tables
from mimic_qlora.step.errors import UserError

read = second_reader.Watched.read

def slowly(self, size=-1):
    data = read(self, size)
    time.sleep(0.02)  # as on a shared disk
    return data

second_reader.Watched.read = slowly
source = tables.Source(Path(sys.argv[1]), "hosp", {"subject_id": "id", "result": "int"}, "")
try:
    list(reading.read(source, (lambda *row: None) if sys.argv[2] else None))
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("on_ragged", ["", "yes"])
def test_python_ends_in_order_behind_a_file_whose_first_rows_are_refused(tmp_path, on_ragged):
    """Arrow's threads read ahead still: they aborted the process, with another exit code."""
    path = tmp_path / "t.csv"
    path.write_text("subject_id,result\n" + '1,"a\nb"\n' + f"1,{'c' * 1000}\n" * 40_000)
    done = subprocess.run(
        [sys.executable, "-c", READ, path, on_ragged], cwd=ROOT, capture_output=True, text=True
    )
    assert "goes on until line 3" in done.stdout
    assert (done.returncode, done.stderr) == (2, "")
