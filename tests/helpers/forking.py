"""Processes that are forked from one that has imported the libraries, which takes a second of each.

All that are forked from one process have its hashes.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def forked(preloaded: Sequence[str], task: Callable, *arguments) -> multiprocessing.Process:
    """Start a process that does a task, from one that has imported modules, and no others."""
    from multiprocessing import forkserver  # which Windows has not

    context = multiprocessing.get_context("forkserver")
    if forkserver._forkserver._preload_modules != [*preloaded]:
        stop_forking()
        context.set_forkserver_preload([*preloaded])
    with pytest.MonkeyPatch.context() as patch:  # else it finds no helper, and says nothing of it
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    process = context.Process(target=task, args=arguments)
    process.start()
    return process


def begin(output: Path, errors: Path | None = None) -> None:
    """Let a forked process end with its parent, and print to a file, or to two."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the forking process ignores it
    for number, path in ((1, output), (2, errors or output)):
        log = open(path, "ab", buffering=0)
        os.dup2(log.fileno(), number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))


def stop_forking() -> None:
    """End the process to fork from, which holds what it has imported."""
    from multiprocessing import forkserver

    forkserver._forkserver._stop()
