"""Step 1 on a real Dask cluster on this machine, undisturbed and disturbed: the same bytes."""

import os
import re
import shutil
import signal
import subprocess
import time

import psutil
import pyarrow.parquet as pq
import pytest

from helpers.dask_cluster import Step1, dask_cluster
from helpers.paths import ROOT
from helpers.scripts import folder_bytes
from mimic_qlora.mimic.synthetic import hospital
from mimic_qlora.work import certificates
from mimic_qlora.work.cluster import Cluster, Target
from mimic_qlora.work.engine import Engine, Given

pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked"),
    pytest.mark.usefixtures("forking"),
]
TABLES = "patients admissions diagnoses_icd d_icd_diagnoses poe prescriptions".split()
BUCKETS = 12  # of two patients each


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    """Some tables of a few synthetic patients, unpacked."""
    whole, folder = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("mimic")
    hospital.write(whole, 2 * BUCKETS, seed=1, progress=False)
    (folder / "hosp").mkdir()
    for name in TABLES:
        path = shutil.copy(whole / f"hosp/{name}.csv.gz", folder / "hosp")
        subprocess.run(["gzip", "-d", path], check=True)
    return folder


@pytest.fixture(scope="module")
def alone(mimic, tmp_path_factory):
    """What one process writes."""
    storage = tmp_path_factory.mktemp("alone") / "s"
    finished(Step1(mimic, storage, "--workers", "1"))
    return folder_bytes(storage / "subjects")


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Two workers, on two addresses, behind TLS."""
    pytest.importorskip("cryptography")
    folder = tmp_path_factory.mktemp("tls")
    keys = certificates.make(str(folder / "keys"))
    with dask_cluster(folder / "cluster", keys) as cluster:
        cluster.joined(cluster.worker("127.0.0.1"), cluster.worker("127.0.0.2"))
        yield cluster


def finished(run):
    code, printed = run.ended()
    assert code == 0, printed
    return printed


def refused(run, words):
    code, printed = run.ended()
    assert code == 2 and "Traceback" not in printed, printed
    (error,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert re.search(words, error), error


def test_a_cluster_writes_the_bytes_of_one_process_and_tells_nothing_of_patients(
    mimic, alone, tls, tmp_path
):
    finished(Step1(mimic, tmp_path / "s", *tls.options))
    subjects = tmp_path / "s/subjects"
    assert folder_bytes(subjects) == alone
    assert {path.stat().st_mode & 0o077 for path in subjects.rglob("*")} == {0}
    index = pq.read_table(subjects / "index.parquet")
    told = set(re.findall(r"\d{8}", tls.log()))
    assert len(index) == 2 * BUCKETS
    assert not told & {str(s) for s in index["subject_id"].to_pylist()}
    for one in tls.running:
        ends = [
            c.laddr.ip for c in psutil.Process(one.pid).net_connections() if c.status == "LISTEN"
        ]
        assert ends and all(end.startswith("127.") for end in ends)


def test_without_its_certificates_a_scheduler_is_closed(mimic, tls, tmp_path):
    others = certificates.make(str(tmp_path / "others"))
    options = ["--scheduler-file", tls.file, "--certificates", others]
    refused(Step1(mimic, tmp_path / "s", *options), "not with these certificates")


def test_a_command_that_was_killed_goes_on_beside_a_worker_that_is_silent(
    mimic, alone, tls, tmp_path
):
    """What was given before is still being done, some of it later, and harms nothing."""
    tls.hold("nest")
    first = Step1(mimic, tmp_path / "s", *tls.options)
    tls.wait_for("nest", tls.running[1:3], first)
    first.process.kill()
    first.ended()
    assert not (tmp_path / "s/subjects").exists()
    os.kill(tls.running[1].pid, signal.SIGSTOP)
    again = Step1(mimic, tmp_path / "s", *tls.options, patience=10)
    tls.let_go("nest")
    try:
        assert "127.0.0.1" in finished(again).partition("does not answer")[0]
    finally:
        os.kill(tls.running[1].pid, signal.SIGCONT)
    time.sleep(0.5)
    assert folder_bytes(tmp_path / "s/subjects") == alone


def test_a_straggler_is_not_waited_for_and_may_end_later(mimic, alone, tls, tmp_path):
    """A worker stands still: another does its piece, and what it writes later harms nothing."""
    tls.hold("nest")
    run = Step1(mimic, tmp_path / "s", *tls.options)
    tls.wait_for("nest", tls.running[1:3], run)
    os.kill(tls.running[1].pid, signal.SIGSTOP)
    tls.let_go("nest")
    try:
        finished(run)
    finally:
        os.kill(tls.running[1].pid, signal.SIGCONT)
    time.sleep(0.5)
    assert folder_bytes(tmp_path / "s/subjects") == alone


def test_a_large_piece_is_late_only_beside_its_size(tmp_path):
    """Else idle workers would read the largest table a second time."""
    cluster = Cluster(Target("tcp://127.0.0.1:1", None), print, [tmp_path], 1)
    cluster._there = {"tcp://127.0.0.1:2": 1, "tcp://127.0.0.1:3": 1}
    since = time.monotonic() - 100
    large, small = Given(0, since, 50.0), Given(1, since, 10.0)
    assert cluster._late([large, small], None) == ()
    assert cluster._late([large, small], 1.0) == [1]
    assert cluster._late([large, small, small], 1.0) == [], "it was given twice already"


def test_the_pace_is_that_of_all_work_that_is_done():
    paces = []

    class Watched(Engine):
        def _late(self, running, pace):
            paces.append(pace)
            return ()

    with Watched(1, print) as engine:
        assert len([*engine.completed(time.sleep, [(0.1,), (0.1,)], sizes=[9, 1])]) == 2
    assert paces[0] * 9 >= 0.1 and paces[1] * 10 >= 0.2


def test_a_host_whose_disk_is_full_is_left_out(mimic, alone, tls, tmp_path):
    """A limit on the size of files stands for a full disk: the system refuses what is written."""
    bad = tls.worker("127.0.0.3", file_bytes=4000)
    tls.joined(bad)
    said = finished(Step1(mimic, tmp_path / "s", *tls.options))
    bad.kill()
    assert folder_bytes(tmp_path / "s/subjects") == alone
    assert "the host of tls://127.0.0.3" in said and "gets no more work" in said


def test_another_version_of_this_software_or_a_library_is_a_sentence(mimic, tls, tmp_path):
    package = shutil.copytree(ROOT / "mimic_qlora", tmp_path / "old")
    with open(package / "subjects/nesting.py", "a") as file:
        file.write("\n")
    old = tls.worker("127.0.0.4", package=package, orjson="0.1")
    tls.joined(old)
    words = r"tls://127.0.0.4.* has mimic_qlora \w+ and not \w+, orjson 0\.1 and not .*install"
    refused(Step1(mimic, tmp_path / "s", *tls.options), words)
    old.kill()


def test_workers_and_scheduler_are_killed_in_the_middle(mimic, alone, tmp_path):
    """Two of three workers while they read, then the scheduler: the same command goes on."""
    with dask_cluster(tmp_path / "cluster") as cluster:
        workers = [cluster.worker() for _ in range(3)]
        cluster.hold("read")
        run = Step1(mimic, tmp_path / "s", *cluster.options, patience=10)
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
        finished(Step1(mimic, tmp_path / "s", *cluster.options))
    assert folder_bytes(tmp_path / "s/subjects") == alone


def test_workers_that_die_at_one_piece_and_no_worker_at_all_are_sentences(mimic, alone, tmp_path):
    with dask_cluster(tmp_path / "cluster") as cluster:
        workers = [cluster.worker(dies_at=BUCKETS - 1) for _ in range(4)]
        cluster.joined(*workers)
        run = Step1(mimic, tmp_path / "s", *cluster.options)
        refused(run, "several workers died at the same piece of work, .* memory")
        run = Step1(mimic, tmp_path / "s", *cluster.options, patience=1)
        refused(run, "no worker has been there for 1 second.* the same command")
        cluster.joined(cluster.worker())
        cluster.hold("nest")
        run = Step1(mimic, tmp_path / "s", *cluster.options, patience=10)
        cluster.wait_for("nest", cluster.running[-1:], run)
        cluster.running[-1].kill()
        refused(run, "no worker has been there for 10 seconds.* the same command")
        cluster.let_go("nest")
        cluster.worker()
        finished(Step1(mimic, tmp_path / "s", *cluster.options))
    assert folder_bytes(tmp_path / "s/subjects") == alone
