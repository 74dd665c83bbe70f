"""What this process may use: cores, memory, open files and GPUs of the job, not of the node.

A batch job or container has less than its node. Its limits stand in control groups (of version 1
or 2, at any level above the process), in the scheduler's variables, in the affinity of the process
and in `ulimit`. The least of them holds.
"""

import contextlib
import math
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.step.errors import UserError

ROOT = Path("/")  # holds proc/ and sys/; tests put another in its place
# with less, OpenBLAS asks for its memory for ever as scipy is imported, and hears no SIGTERM
LEAST_ADDRESSES = 1_000_000_000
ENOUGH_ADDRESSES = 3_000_000_000  # for step 1, which needs most: what every refusal tells
OPEN_FILES = 4096  # enough for all buckets of step 1 and all files of a table
MIB = 1 << 20
CORES = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "NSLOTS", "LSB_DJOB_NUMPROC", "PBS_NCPUS")
_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}  # Slurm's are MiB
_UNLIMITED = 1 << 60  # version 1 writes "no limit" as a number of about 2^63


class Files(NamedTuple):
    """The files of one version of control groups."""

    limits: tuple[str, ...]
    used: str
    reclaimable: str  # the line of memory.stat with the cached pages that the system takes back


MEMORY_FILES = {
    1: Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
    2: Files(("memory.max", "memory.high"), "memory.current", "inactive_file"),
}


class Gpus(NamedTuple):
    """The GPUs of the machine as nvidia-smi lists them."""

    listed: int
    broken: bool  # there is a GPU, but its driver does not answer or fit
    says: str  # the first line of nvidia-smi


def prepare() -> None:
    """Raise the limit on open files, keep thread pools to the cores of the job, and name a home.

    To be called before OpenMP is loaded, which reads its settings once.
    """
    raise_open_files()
    if "OMP_WAIT_POLICY" not in os.environ:
        # two threads that spin while they wait slow each other down tenfold on a busy machine;
        # some microseconds of it save half of the millions of times that a thread is woken up
        os.environ["OMP_WAIT_POLICY"] = "passive"  # of "PASSIVE" a Turkish libgomp complains
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if cores() < affinity():  # OpenMP sees the affinity, but no quota and no scheduler
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    if os.path.expanduser("~") == "~":  # a user id of a container alone: libraries fail without
        os.environ["HOME"] = "/"  # as Docker has it


def thread_refused() -> RuntimeError | None:
    """Return the error of a thread that cannot be started, None where one can."""
    try:
        threading.Thread(target=int).start()
    except RuntimeError as error:
        return error
    return None


# ---------------------------------------------------------------- control groups


def _groups(controller: str) -> Iterator[tuple[int, Path]]:
    """Yield version and folder of each control group above this process, its own first."""
    for version, mounted, root in _mounts(controller):
        inside = _own_group(controller, version)
        if inside is None:
            continue
        below = Path(inside).relative_to(root) if Path(inside).is_relative_to(root) else Path()
        folder = mounted if ".." in below.parts else mounted / below
        while True:
            yield version, folder
            if folder == mounted:
                break
            folder = folder.parent


def _mounts(controller: str) -> Iterator[tuple[int, Path, str]]:
    """Yield version, place and root of each hierarchy that may hold the controller."""
    for line in _lines(ROOT / "proc/self/mountinfo"):
        before, _, behind = line.partition(" - ")
        fields, kind = before.split(" "), behind.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        place = ROOT / re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields[4]).lstrip("/")
        if kind[0] == "cgroup2":
            yield 2, place, fields[3]
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            yield 1, place, fields[3]


def _own_group(controller: str, version: int) -> str | None:
    """Return the path of this process's group in a hierarchy, None where it is in none."""
    for line in _lines(ROOT / "proc/self/cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers.split(",").count(controller) if version == 1 else not controllers:
            return path
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system than Linux, or a group that has gone
        return []


def _number(path: Path) -> int | None:
    """Return the number in a file of a control group; None for "max" and where there is none."""
    text = (_lines(path) or [""])[0].strip()
    return int(text) if text.isdecimal() and int(text) < _UNLIMITED else None


def _memory_groups() -> Iterator[tuple[int, int]]:
    """Yield the limit of each group that has one, and how much of it is taken, in bytes."""
    for version, folder in _groups("memory"):
        names = MEMORY_FILES[version]
        for name in names.limits:
            limit = _number(folder / name)
            stat = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat"))
            used = (_number(folder / names.used) or 0) - int(stat.get(names.reclaimable, 0))
            if limit is not None:
                yield limit, max(0, used)
            # a group above that a container does not show; how much it has taken is not known
            above = int(stat.get("hierarchical_memory_limit", _UNLIMITED))
            if above < _UNLIMITED:
                yield above, max(0, used)


# ---------------------------------------------------------------- cores


def affinity() -> int:
    """Return the cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores() -> int:
    """Return the cores that this process may keep busy."""
    found = [affinity()]
    for version, folder in _groups("cpu"):
        if version == 2:
            quota, _, period = (_lines(folder / "cpu.max") or ["max"])[0].partition(" ")
        else:
            quota = str(_number(folder / "cpu.cfs_quota_us") or "")
            period = str(_number(folder / "cpu.cfs_period_us") or "")
        if quota.isdecimal() and period.isdecimal() and int(period):
            found.append(math.ceil(int(quota) / int(period)))
    asked = next((n for name in CORES if (n := _variable(name))), None)
    return max(1, min([*found, asked] if asked else found))


def _variable(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


# ---------------------------------------------------------------- memory


def memory() -> int:
    """Return the bytes of memory that this process may use in all."""
    import psutil

    of_ulimit = [limit - addresses + held for _, limit, addresses, held in _address_limits()]
    groups = [limit for limit, _ in _memory_groups()]
    total: int = psutil.virtual_memory().total
    return max(0, min([total, *groups, *_scheduled_memory(), *of_ulimit]))


def free_memory() -> int:
    """Return the bytes of memory that this process may take now."""
    import psutil

    held = psutil.Process().memory_info().rss
    of_ulimit = [limit - addresses for _, limit, addresses, _ in _address_limits()]
    groups = [limit - used for limit, used in _memory_groups()]
    scheduled = [limit - held for limit in _scheduled_memory()]
    available: int = psutil.virtual_memory().available
    return max(0, min([available, *groups, *scheduled, *of_ulimit]))


def _scheduled_memory() -> list[int]:
    """Return the bytes that Slurm gives the job on this node; empty where it sets no limit."""
    on_node = next((n for name in CORES[1::-1] if (n := _variable(name))), None) or cores()
    counts = {
        "SLURM_MEM_PER_NODE": 1,
        "SLURM_MEM_PER_CPU": on_node,
        "SLURM_MEM_PER_GPU": _variable("SLURM_GPUS_ON_NODE") or 1,
    }
    found = []
    for name, count in counts.items():
        given = re.fullmatch(r"([1-9]\d{0,17})([KMGT]?)B?", os.environ.get(name, ""), re.ASCII)
        if given:  # 0 stands for all of the node's
            found.append(int(given[1]) * _UNITS[given[2]] * count)
    return found


def address_limit() -> int | None:
    """Return the bytes of address space that `ulimit -v` allows, None without a limit."""
    return next((limit for name, limit, *_ in _address_limits() if name == "RLIMIT_AS"), None)


def addresses_in_words(allowed: int) -> str:
    """Word how many bytes of address space `ulimit -v` allows."""
    return f"`ulimit -v` allows {allowed / 1e9:.1f} GB of addresses"


def check_addresses(least: int = LEAST_ADDRESSES) -> None:
    """Raise UserError where `ulimit -v` allows fewer bytes: libraries would abort the process."""
    if (allowed := address_limit()) is not None and allowed < least:
        raise UserError(
            f"{addresses_in_words(allowed)}, and the steps need {ENOUGH_ADDRESSES / 1e9:g}, most "
            "of them for memory that is not used: raise it, or ask the scheduler for memory in "
            "another way"
        )


def _address_limits() -> list[tuple[str, int, int, int]]:
    """Return name and bytes of `ulimit -v` and `-d` where set, with addresses and memory in use."""
    try:
        import resource
    except ImportError:  # Windows
        return []
    found = []
    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft not in (resource.RLIM_INFINITY, -1):
            import psutil  # here: every command comes this way, and hardly any has a limit

            taken = psutil.Process().memory_info()
            found.append((name, soft, taken.vms if name == "RLIMIT_AS" else taken.rss, taken.rss))
    return found


# ---------------------------------------------------------------- open files


def raise_open_files(wanted: int = OPEN_FILES) -> None:
    """Raise the soft limit on open files to `wanted`, as far as the hard limit goes."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows; macOS may refuse
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft not in (resource.RLIM_INFINITY, -1) and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def open_files() -> int:
    """Return how many files this process may have open at once."""
    try:
        import resource
    except ImportError:  # Windows: the limit of its C library is 8,192
        return OPEN_FILES
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if soft in (resource.RLIM_INFINITY, -1) else soft


def has_file_limit() -> bool:
    """Tell whether `ulimit -f` holds the size of a file down."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] not in (resource.RLIM_INFINITY, -1)


# ---------------------------------------------------------------- GPUs


def hide_gpus() -> None:
    """Let no library of this process see a GPU. Call it before torch is imported."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def gpus_hidden() -> bool:
    """Tell whether the user or the scheduler hides all GPUs from this process."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = "0" if shown is None else shown.split(",")[0].strip()
    # CUDA takes the devices in front of the first entry that names none
    return re.fullmatch(r"\d+|(GPU|MIG)-.+", first) is None


def gpus(run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run) -> Gpus | None:
    """Return what nvidia-smi lists, None where it is not installed.

    The program alone says nothing: login nodes and CPU jobs have it without a GPU.
    """
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--list-gpus"]
    try:
        listed = run(command, capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.SubprocessError):
        return Gpus(0, _nvidia_device(), "nvidia-smi does not answer")
    lines = [line.strip() for line in (listed.stdout + listed.stderr).splitlines() if line.strip()]
    count = sum(line.startswith("GPU ") for line in lines)
    says = lines[0] if lines else f"it ends with exit code {listed.returncode}"
    mismatch = "mismatch" in says
    # "No devices were found" is no fault; another one is, if the machine has a device
    silent = not count and "No devices" not in says and listed.returncode != 0
    return Gpus(count, mismatch or (silent and _nvidia_device()), says)


def _nvidia_device() -> bool:
    """Tell whether a graphics processor of NVIDIA is on the PCI bus."""
    for device in (ROOT / "sys/bus/pci/devices").glob("*"):
        vendor, kind = (_lines(device / name) or [""] for name in ("vendor", "class"))
        if vendor[0] == "0x10de" and kind[0].startswith("0x03"):
            return True
    return False
