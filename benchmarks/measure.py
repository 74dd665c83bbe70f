"""Run a command; measure its process tree: wall and CPU seconds, peak memory (Linux, macOS)."""

import contextlib
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil

# the open 100-patient demo of MIMIC-IV; `convert_to_jsonl.py --fetch-demo FOLDER` downloads it
DEMO = Path(
    os.environ.get(
        "MIMIC_DEMO_DIR", Path(__file__).resolve().parents[2] / "shared/data/mimic-iv-demo-2.2"
    )
)


class Cost(NamedTuple):
    wall_s: float
    cpu_s: float  # user and system, children included
    peak_mb: float  # unique memory of all processes together, sampled ten times a second
    code: int


def measure(command: list, **options) -> Cost:
    """Measure a command with all its children; its standard output is discarded."""
    began = time.time()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    ended, peak = threading.Event(), [0]

    def watch():
        root = psutil.Process(process.pid)
        while not ended.wait(0.1):
            with contextlib.suppress(psutil.Error):
                members = [root, *root.children(recursive=True)]
                peak[0] = max(peak[0], sum(member.memory_full_info().uss for member in members))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    ended.set()
    watcher.join()
    return Cost(
        time.time() - began, usage.ru_utime + usage.ru_stime, peak[0] / 1e6, process.returncode
    )
