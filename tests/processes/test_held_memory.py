"""The peak of memory."""

import json
import subprocess
import sys

import pytest

from helpers.paths import ROOT
from mimic_qlora.processes import held_memory

MB = 1_000_000
# Measured in a new interpreter: one that has run other tests gives pages back whenever it likes.
MEASURE = """
import json, mmap, sys
from mimic_qlora.processes import held_memory

MB = 1_000_000
watch = held_memory.Watch()
watch.start()
found = {"before": held_memory.held()}
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    assert sum(mapped[:: mmap.PAGESIZE]) > 0
    found["mapped"] = held_memory.held()
    mapped.close()
taken = bytearray(80 * MB)
taken[:: mmap.PAGESIZE] = b"1" * len(taken[:: mmap.PAGESIZE])
found["taken"] = held_memory.held()
while watch.most < found["taken"] - MB:  # until the thread has looked
    assert watch.thread.is_alive()
del taken
found["most"] = watch.most
watch.start()
found["anew"] = watch.most
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep a peak of their own alone")
def test_the_peak_holds_what_was_taken_and_no_page_of_a_mapped_file(tmp_path):
    (tmp_path / "model").write_bytes(bytes([1]) * 80 * MB)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    found = {name: held / MB for name, held in json.loads(done.stdout).items()}
    assert found["mapped"] - found["before"] < 20
    assert found["taken"] - found["before"] > 70
    assert found["most"] > found["taken"] - 1
    assert found["anew"] - found["before"] < 70, "a second run begins anew"


def test_where_nothing_is_known_of_files_the_systems_own_peak_counts(monkeypatch):
    monkeypatch.setattr(held_memory, "STATUS", held_memory.Path("/no/such/file"))
    assert held_memory.held() is None
    assert held_memory.peak() > MB
