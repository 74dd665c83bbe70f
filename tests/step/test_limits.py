"""What a job may use: control groups of both versions, the scheduler, affinity, `ulimit`, GPUs.

Where no group can be made here, its files stand in a folder as data: what the kernel would show.
"""

import os
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import pytest

from helpers.paths import ROOT
from mimic_qlora.step import limits

GIB = 1 << 30
OURS = [*limits.CORES, "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU"]
SHOW = "from mimic_qlora.step import limits; print(limits.memory(), limits.free_memory())"
V1 = "36 25 0:31 {root} {at} rw - cgroup cgroup rw,{controller}"
V2 = "42 25 0:38 {root} {at} rw,nosuid - cgroup2 cgroup2 rw"


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch):
    for name in OURS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(mounts, groups, files): a /proc and /sys as a job of that kind would see them."""

    def make(mounts, groups, files):
        contents = {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}
        for name, text in contents.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        monkeypatch.setattr(limits, "ROOT", tmp_path)

    return make


def v1(controller: str, root: str = "/") -> str:
    return V1.format(root=root, at=f"/sys/fs/cgroup/{controller}", controller=controller)


def v2(root: str = "/") -> str:
    return V2.format(root=root, at="/sys/fs/cgroup")


MEMORY = {
    "slurm, version 1: the job has the limit, the step below has none": (
        v1("memory"),
        "4:memory:/slurm/uid_7/job_9/s",
        {
            "sys/fs/cgroup/memory/slurm/uid_7/job_9/memory.limit_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/slurm/uid_7/job_9/s/memory.limit_in_bytes": str(2**63 - 4096),
        },
    ),
    "slurm, version 2: far below /sys/fs/cgroup": (
        v2(),
        "0::/system.slice/slurmstepd.scope/job_9/step_0/user",
        {
            "sys/fs/cgroup/system.slice/slurmstepd.scope/job_9/memory.max": str(GIB),
            "sys/fs/cgroup/system.slice/slurmstepd.scope/job_9/step_0/user/memory.max": "max",
        },
    ),
    "systemd-run -p MemoryHigh": (
        v2(),
        "0::/user.slice/run-1.scope",
        {
            "sys/fs/cgroup/user.slice/run-1.scope/memory.max": "max",
            "sys/fs/cgroup/user.slice/run-1.scope/memory.high": str(GIB),
        },
    ),
    "a container that sees its own group as the root": (
        v2(),
        "0::/",
        {"sys/fs/cgroup/memory.max": str(GIB)},
    ),
    "a container of version 1, its group mounted at the root, its path that of the host": (
        v1("memory", "/docker/abc"),
        "4:memory:/docker/abc",
        {"sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB)},
    ),
    "a container of version 1 whose limit stands above what it sees": (
        v1("memory", "/docker/abc"),
        "4:memory:/docker/abc",
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096),
            "sys/fs/cgroup/memory/memory.stat": f"cache 1\nhierarchical_memory_limit {GIB}",
        },
    ),
    "a group outside what is mounted": (
        v2(),
        "0::/../../other",
        {"sys/fs/cgroup/memory.max": str(GIB)},
    ),
    "both versions mounted, memory in the first": (
        v1("memory") + "\n" + V2.format(root="/", at="/sys/fs/cgroup/unified"),
        "4:cpu,memory:/job\n0::/",
        {"sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(GIB)},
    ),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_the_least_limit_above_the_process_counts(machine, kind):
    machine(*MEMORY[kind])
    assert limits.memory() == GIB and limits.free_memory() <= GIB


@pytest.mark.parametrize("groups", ["", "nonsense", "0::/gone", "4:memory:/gone"])
def test_without_a_limit_it_is_the_machines(machine, groups):
    import psutil

    machine(v1("memory") + "\n" + v2(), groups, {"sys/fs/cgroup/memory.max": "max"})
    assert limits.memory() == psutil.virtual_memory().total


def test_what_the_group_has_taken_is_not_free_but_its_cached_files_are(machine):
    here = "sys/fs/cgroup/job"
    stat = f"anon 5\ninactive_file {GIB // 4}"
    files = {"memory.max": str(GIB), "memory.current": str(GIB // 2), "memory.stat": stat}
    machine(v2(), "0::/job", {f"{here}/{name}": text for name, text in files.items()})
    assert limits.free_memory() == GIB - GIB // 4


@pytest.mark.parametrize(
    ("variables", "gib"),
    [
        ({"SLURM_MEM_PER_NODE": "2048"}, 2),
        ({"SLURM_MEM_PER_NODE": "2G"}, 2),
        ({"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_ON_NODE": "4"}, 2),
        ({"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_PER_TASK": "4"}, 2),
        ({"SLURM_MEM_PER_GPU": "1024", "SLURM_GPUS_ON_NODE": "2"}, 2),
    ],
)
def test_the_memory_that_slurm_gives_counts_where_no_group_enforces_it(
    machine, monkeypatch, variables, gib
):
    machine("", "", {})
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert limits.memory() == gib * GIB


def test_all_of_a_nodes_memory_and_odd_variables_are_no_limit(machine, monkeypatch):
    machine("", "", {})
    before = limits.memory()
    for value in ("0", "", "all", "-5", "9" * 5000):
        monkeypatch.setenv("SLURM_MEM_PER_NODE", value)
        assert limits.memory() == before


CORES = {
    "version 2": (v2(), "0::/a/b", {"sys/fs/cgroup/a/cpu.max": "150000 100000"}),
    "version 1": (
        v1("cpu"),
        "1:cpu,cpuacct:/a/b",
        {
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "200000",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us": "100000",
        },
    ),
}


@pytest.mark.parametrize("kind", CORES)
def test_a_quota_on_time_counts_as_cores(machine, monkeypatch, kind):
    monkeypatch.setattr(limits, "affinity", lambda: 64)
    machine(*CORES[kind])
    assert limits.cores() == 2


@pytest.mark.parametrize("name", limits.CORES)
def test_the_cores_that_a_scheduler_gives_count(machine, monkeypatch, name):
    monkeypatch.setattr(limits, "affinity", lambda: 64)
    machine(v2(), "0::/", {"sys/fs/cgroup/cpu.max": "max 100000"})
    assert limits.cores() == 64
    monkeypatch.setenv(name, "3")
    assert limits.cores() == 3
    for no_number in ("many", "9" * 5000):
        monkeypatch.setenv(name, no_number)
        assert limits.cores() == 64


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the affinity of Linux")
def test_the_affinity_of_the_process_counts():
    show = "from mimic_qlora.step import limits; print(limits.cores())"
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); {show}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "1\n"


def group_of_its_own() -> Path | None:
    """Make a memory group below this process's own; None where that is not allowed."""
    version, folder = next(limits._groups("memory"), (0, Path("/nowhere")))
    try:
        made = folder / f"test_limits_{os.getpid()}"
        made.mkdir()
        (made / limits.MEMORY_FILES[version].limits[0]).write_text(str(GIB))
    except (OSError, KeyError):
        return None
    return made


def test_a_real_group_is_seen_by_the_process_in_it():
    group = group_of_its_own()
    if group is None:
        pytest.skip("no control group can be made here")
    try:
        joined = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0'); {SHOW}"
        command = [sys.executable, "-c", joined]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        total, free = map(int, done.stdout.split())
        assert total == GIB and GIB // 2 < free < GIB
    finally:
        group.rmdir()


# ---------------------------------------------------------------- ulimit


def limited(code: str, **soft: int) -> subprocess.CompletedProcess:
    """Run code with soft limits, such as NOFILE=256."""
    import resource

    def apply():
        for name, value in soft.items():
            which = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(which, (value, resource.getrlimit(which)[1]))

    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, preexec_fn=apply)


@pytest.mark.skipif(os.name == "nt", reason="the limits of POSIX")
def test_a_limit_on_addresses_counts_less_those_in_use():
    done = limited(SHOW, AS=GIB)
    total, free = map(int, done.stdout.split())
    assert 0 < free < total < GIB


@pytest.mark.skipif(os.name == "nt", reason="the limits of POSIX")
def test_the_soft_limit_on_open_files_is_raised_as_far_as_it_goes():
    code = "from mimic_qlora.step import limits; limits.prepare(); print(limits.open_files())"
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = limits.OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, limits.OPEN_FILES)
    assert int(limited(code, NOFILE=256).stdout) == most


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="user ids")
def test_a_user_id_without_a_home_gets_one():
    code = (
        "import os; os.getuid = lambda: 2**31 - 7; "  # nobody's, as in a container
        "from mimic_qlora.step import limits; limits.prepare(); "
        "from mimic_qlora.validation.scoring import likeness; print(likeness.rouge_l('a', 'a'))"
    )
    bare = {name: value for name, value in os.environ.items() if name != "HOME"}
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True)
    assert done.stdout == "1.0\n", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp, which tells its settings")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, ["OMP_WAIT_POLICY = 'PASSIVE'", "GOMP_SPINCOUNT = '2000'"]),
        # where this locale is not installed it is C
        ({"LC_ALL": "tr_TR.UTF-8"}, ["OMP_WAIT_POLICY = 'PASSIVE'", "GOMP_SPINCOUNT = '2000'"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["OMP_WAIT_POLICY = 'ACTIVE'"]),
    ],
)
def test_threads_that_wait_hardly_spin_unless_the_user_asks_for_it(given, told, monkeypatch):
    (library,) = [file for file in files("scikit-learn") if file.name.startswith("libgomp")]
    code = (
        "from mimic_qlora.step import limits; limits.prepare(); "
        f"import ctypes; ctypes.CDLL({str(library.locate())!r})"  # as scikit-learn loads it
    )
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **given, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(line in done.stderr for line in told)
    assert ("'2000'" in done.stderr) is ("OMP_WAIT_POLICY" not in given)
    assert "Invalid value" not in done.stderr


# ---------------------------------------------------------------- GPUs


def listing(folder: Path, monkeypatch, says: str, code: int) -> None:
    """Put an nvidia-smi on the PATH that prints this; no GPU is at hand."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


NVML = "Failed to initialize NVML: Driver/library version mismatch"
NO_DRIVER = (
    "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver. Make sure that"
)
LISTED = {
    "two": ("GPU 0: NVIDIA A100 (UUID: GPU-1)\nGPU 1: NVIDIA A100 (UUID: GPU-2)", 0, 2, False),
    "none on this node": ("No devices were found", 6, 0, False),
    "none, and exit code 0": ("No devices were found", 0, 0, False),
    "a driver that does not fit": (NVML, 18, 0, True),
    "no driver and no device": (NO_DRIVER, 9, 0, False),
}


@pytest.mark.skipif(os.name == "nt", reason="a script that is a program")
@pytest.mark.parametrize("kind", LISTED)
def test_nvidia_smi_is_asked_and_not_only_looked_for(tmp_path, monkeypatch, machine, kind):
    says, code, count, broken = LISTED[kind]
    machine("", "", {})  # without a device on the bus
    listing(tmp_path, monkeypatch, says, code)
    found = limits.gpus()
    assert (found.listed, found.broken) == (count, broken) and found.says == says.split("\n")[0]


@pytest.mark.skipif(os.name == "nt", reason="a script that is a program")
def test_a_device_on_the_bus_without_a_driver_is_a_fault(tmp_path, monkeypatch, machine):
    device = "sys/bus/pci/devices/0000:65:00.0"
    machine("", "", {f"{device}/vendor": "0x10de", f"{device}/class": "0x030200"})
    listing(tmp_path, monkeypatch, NO_DRIVER, 9)
    assert limits.gpus().broken
    listing(tmp_path, monkeypatch, "No devices were found", 6)  # kept from this job
    assert not limits.gpus().broken


@pytest.mark.parametrize(
    ("value", "hidden"),
    [
        (None, False),
        ("0", False),
        ("1,0", False),
        ("GPU-8932f937", False),
        ("MIG-1/2/3", False),
        ("", True),
        ("-1", True),
        ("NoDevFiles", True),
        (" ", True),
        ("-1,0", True),
    ],
)
def test_cuda_visible_devices_hides_gpus_as_cuda_reads_it(monkeypatch, value, hidden):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert limits.gpus_hidden() is hidden
