"""The number of buckets under limits: of open files, of memory, and of an earlier run."""

import os
import subprocess
import sys

import pytest

from helpers.paths import ROOT
from mimic_qlora.step import limits
from mimic_qlora.step.errors import GoesOn, UserError
from mimic_qlora.subjects import buckets, conversion

GIB = 1 << 30
CONVERT = """
import sys
import convert_to_jsonl
from mimic_qlora.step import command_line
from mimic_qlora.subjects import buckets
buckets.PATIENTS_PER_BUCKET = 1
command_line.run(convert_to_jsonl.main)
"""


@pytest.mark.parametrize(
    ("files", "n", "width"),
    [
        (4096, 900, 1),
        (4096, 901, 30),
        (1024, 73_000, 270),
        (256, 156, 1),
        (256, 2000, 45),
        (104, 13, 4),
    ],
)
def test_where_few_files_may_be_open_buckets_come_in_two_levels(monkeypatch, files, n, width):
    monkeypatch.setattr(limits, "open_files", lambda: files)
    assert buckets.width(n) == width
    assert width <= files - 100 and -(-n // width) <= files - 100


def test_a_bucket_stays_small_at_any_size(monkeypatch, tiny_mimic):
    """A hundred MIMIC-IVs: no bucket of more than its bytes, or its patients."""
    monkeypatch.setattr(buckets, "unpacked_bytes", lambda source: 10**12)
    nine_tables = dict.fromkeys(range(9))
    n = buckets.count(nine_tables, 36_000_000, 36_000_000, 128 << 20)
    assert 9 * 10**12 / n <= 128 << 20 and 36_000_000 / n <= buckets.PATIENTS_PER_BUCKET


def test_too_few_files_for_two_levels_are_a_sentence(monkeypatch):
    monkeypatch.setattr(limits, "open_files", lambda: 103)
    with pytest.raises(UserError, match="`ulimit -n 1024` first, or more --memory"):
        buckets.width(12)


def test_a_run_goes_on_with_the_number_that_it_began_with(monkeypatch, tmp_path):
    """Another limit today would send a patient's rows to another file."""
    monkeypatch.setattr(limits, "open_files", lambda: 600)
    assert buckets.as_begun(tmp_path, 400) == (400, 1)
    assert buckets.as_begun(tmp_path, 120) == (400, 1)
    monkeypatch.setattr(limits, "open_files", lambda: 256)
    with pytest.raises(GoesOn, match=f"`ulimit -n 1024` first, or remove {tmp_path.parent} "):
        buckets.as_begun(tmp_path, 120)


@pytest.mark.skipif(os.name == "nt", reason="the limits of POSIX")
@pytest.mark.parametrize("soft", [True, False], ids=["soft limit", "hard limit"])
def test_a_bucket_for_each_patient_under_a_limit_of_files(tiny_mimic, tmp_path, soft):
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def apply():
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard) if soft else (106, 106))

    arguments = ["--mimic-dir", tiny_mimic, "--storage", tmp_path / "storage", "--workers", "1"]
    command = [sys.executable, "-c", CONVERT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, preexec_fn=apply)
    assert done.returncode == 0, done.stderr
    shards = list((tmp_path / "storage/subjects/shards").iterdir())
    assert len(shards) == 12


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("there", "planned"), [(64 * GIB, 16 * GIB), (1 * GIB, 500_000_000), (600 << 20, 500_000_000)]
)
def test_a_quarter_of_the_jobs_memory_is_planned_and_more_of_little(monkeypatch, there, planned):
    monkeypatch.setattr(limits, "memory", lambda: there)
    assert conversion.memory_bytes(None) == planned


def test_too_few_addresses_are_refused_before_a_thread_of_arrow_lacks_them(monkeypatch):
    monkeypatch.setattr(limits, "address_limit", lambda: 1_500_000_000)
    with pytest.raises(UserError, match="`ulimit -v` allows 1.5 GB of addresses, .* need 3,"):
        conversion.memory_bytes(0.5)


def test_too_little_memory_for_step_1_is_a_sentence(monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda: 300 << 20)
    with pytest.raises(UserError, match="may use 0.31 GB of memory .* 0.5 are needed"):
        conversion.memory_bytes(None)
