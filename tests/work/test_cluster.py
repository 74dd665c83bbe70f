"""Step 1 on a real Dask cluster on this machine, undisturbed and disturbed: the same bytes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pyarrow.parquet as pq
import pytest

from helpers.dask_cluster import dask_cluster
from helpers.paths import ROOT
from helpers.scripts import folder_bytes
from mimic_qlora.mimic.synthetic import hospital
from mimic_qlora.work import certificates

pytest.importorskip("distributed")
TABLES = "patients admissions diagnoses_icd d_icd_diagnoses poe prescriptions".split()
CONVERT = """
import sys, time
from mimic_qlora.step import command_line
from mimic_qlora.subjects import buckets, partition, quality
from mimic_qlora.work import cluster
buckets.PATIENTS_PER_BUCKET, buckets.MOST_COARSE = 2, 4
partition.PIECE_BYTES, partition.MOST_PIECES = 20_000, 10**6
quality.flags = lambda *_, **__: []
cluster.PATIENCE_SECONDS, cluster.LATE_SECONDS = {patience}, 3
import convert_to_jsonl
sys.argv[0] = "convert_to_jsonl.py"
command_line.run(convert_to_jsonl.main)
"""


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    """Some tables of a few synthetic patients, unpacked."""
    whole, folder = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("mimic")
    hospital.write(whole, 24, seed=1, progress=False)
    (folder / "hosp").mkdir()
    for name in TABLES:
        path = shutil.copy(whole / f"hosp/{name}.csv.gz", folder / "hosp")
        subprocess.run(["gzip", "-d", path], check=True)
    return folder


def start(mimic, storage, *options, patience=300):
    """The command, in a process of its own."""
    command = [sys.executable, "-c", CONVERT.format(patience=patience)]
    options = ["--mimic-dir", mimic, "--storage", storage, *options]
    return subprocess.Popen(
        [*command, *map(str, options)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def alone(mimic, tmp_path_factory):
    """What one process writes."""
    storage = tmp_path_factory.mktemp("alone")
    done = start(mimic, storage, "--workers", "1")
    assert done.wait(600) == 0, done.communicate()
    return folder_bytes(storage / "subjects")


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Two workers, on two addresses, behind TLS."""
    pytest.importorskip("cryptography")
    folder = tmp_path_factory.mktemp("tls")
    keys = certificates.make(str(folder / "keys"))
    with dask_cluster(folder / "cluster", keys) as cluster:
        cluster.worker("127.0.0.1")
        cluster.worker("127.0.0.2")
        yield cluster


def finished(run):
    printed, errors = run.communicate(timeout=900)
    assert run.returncode == 0, errors
    return printed + errors


def refused(run, words):
    _, errors = run.communicate(timeout=900)
    assert run.returncode == 2 and "Traceback" not in errors, errors
    assert re.search(words, errors), errors


def test_a_cluster_writes_the_bytes_of_one_process_and_tells_nothing_of_patients(
    mimic, alone, tls, tmp_path
):
    finished(start(mimic, tmp_path, *tls.options))
    found = folder_bytes(tmp_path / "subjects")
    assert found == alone
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "subjects").rglob("*")}
    assert modes == {0}
    index = pq.read_table(tmp_path / "subjects/index.parquet")
    told = set(re.findall(r"\d{8}", tls.log()))
    assert len(index) == 24 and not told & {str(s) for s in index["subject_id"].to_pylist()}
    for one in tls.running:
        ends = [
            c.laddr.ip for c in psutil.Process(one.pid).net_connections() if c.status == "LISTEN"
        ]
        assert ends and all(end.startswith("127.") for end in ends)


def test_without_its_certificates_a_scheduler_is_closed(mimic, tls, tmp_path):
    others = certificates.make(str(tmp_path / "others"))
    options = ["--scheduler-file", tls.file, "--certificates", others]
    refused(start(mimic, tmp_path / "s", *options), "not with these certificates")


def test_a_client_that_was_killed_goes_on_with_the_same_command(mimic, alone, tls, tmp_path):
    """What it had given is still being done meanwhile, and harms nothing."""
    tls.hold("nest")
    first = start(mimic, tmp_path, *tls.options)
    tls.wait_for("nest", tls.running[1:3], first)
    first.kill()
    first.communicate()
    assert not (tmp_path / "subjects").exists()
    again = start(mimic, tmp_path, *tls.options)
    tls.let_go("nest")
    finished(again)
    assert folder_bytes(tmp_path / "subjects") == alone


def test_a_host_whose_disk_is_full_is_left_out(mimic, alone, tls, tmp_path):
    """A limit on the size of files stands for a full disk: the system refuses what is written."""
    bad = tls.worker("127.0.0.3", file_bytes=4000)
    tls.joined(bad)
    said = finished(start(mimic, tmp_path, *tls.options))
    bad.kill()
    assert folder_bytes(tmp_path / "subjects") == alone
    assert "the host of tls://127.0.0.3" in said and "gets no more work" in said


def test_another_version_of_this_software_is_a_sentence(mimic, tls, tmp_path):
    shutil.copytree(ROOT / "mimic_qlora", tmp_path / "old/mimic_qlora")
    with open(tmp_path / "old/mimic_qlora/subjects/nesting.py", "a") as file:
        file.write("\n")
    old = tls.worker("127.0.0.4", path=tmp_path / "old")
    tls.joined(old)
    refused(
        start(mimic, tmp_path / "s", *tls.options), r"tls://127.0.0.4.* has mimic_qlora \w+ and"
    )
    old.kill()


def test_workers_and_scheduler_are_killed_in_the_middle(mimic, alone, tmp_path):
    """Two of three workers while they read, then the scheduler: the same command goes on."""
    with dask_cluster(tmp_path / "cluster") as cluster:
        workers = [cluster.worker() for _ in range(3)]
        cluster.hold("read")
        run = start(mimic, tmp_path / "s", *cluster.options, patience=10)
        cluster.wait_for("read", workers, run)
        for one in workers[:2]:
            one.kill()
        cluster.hold("nest")
        cluster.let_go("read")
        cluster.wait_for("nest", workers[2:], run)
        cluster.running[0].kill()
        refused(run, "the scheduler at tcp://127.0.0.1:[0-9]+ is gone: .* the same command")
        assert list((tmp_path / "s/.subjects.partial/parts/read").iterdir())
        cluster.let_go("nest")
        cluster.scheduler()
        cluster.worker()
        finished(start(mimic, tmp_path / "s", *cluster.options))
    assert folder_bytes(tmp_path / "s/subjects") == alone


def test_a_straggler_is_not_waited_for_and_may_end_later(mimic, alone, tmp_path):
    """A worker stands still: another does its piece, and what it writes later harms nothing."""
    with dask_cluster(tmp_path / "cluster") as cluster:
        workers = [cluster.worker(), cluster.worker()]
        cluster.hold("nest")
        run = start(mimic, tmp_path / "s", *cluster.options)
        cluster.wait_for("nest", workers, run)
        os.kill(workers[0].pid, signal.SIGSTOP)
        cluster.let_go("nest")
        finished(run)
        os.kill(workers[0].pid, signal.SIGCONT)
        time.sleep(0.5)
    assert folder_bytes(tmp_path / "s/subjects") == alone
