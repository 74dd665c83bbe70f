"""Start a script as several processes of this host: `--processes N`.

Own code, since torchrun takes seconds to import, and ends in a table of thirty lines whatever
stopped a process; `accelerate launch` is there for several hosts.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from mimic_qlora.processes import environment, meeting
from mimic_qlora.step import command_line, limits
from mimic_qlora.step.errors import GoesOn, UserError

POLL = 0.1  # seconds between looks at the processes
FEW = 8  # processes that may be started whatever the cores, as of a host with so many GPUs
PATIENCE = 60.0  # seconds that a process may take to end; the first one may write its report

Started = Sequence["subprocess.Popen[bytes]"]


def wanted(processes: int | None) -> bool:
    """Tell whether this process is to start others.

    Raises UserError where a launcher has started several already, and for more than have a core
    each: every one loads the model.
    """
    if processes is None or meeting.BY_LAUNCHER in os.environ:
        return False
    if environment.place().n > 1:
        raise UserError("a launcher started this process: leave --processes out")
    if processes > (most := max(FEW, limits.cores())):
        raise UserError(
            f"--processes {processes} is more than this job has cores: give {most} or fewer"
        )
    return processes > 1


def start(n: int) -> int:
    """Run the script of this process n times, with its arguments, and return its exit code.

    It is that of the first process, which speaks for all. Raises GoesOn where one was killed.
    """
    started: list[subprocess.Popen[bytes]] = []
    variables = _variables(n)
    with _noted() as noted:
        try:
            with held_back():
                for rank in range(n):
                    started.append(_one(rank, variables))
            code = _watched(started, noted)
            if code is not None:
                return code
            if noted[0] != signal.SIGINT:
                raise SystemExit(128 + noted[0])
            _signal(started, signal.SIGINT)
            _wait(started[:1], noted)
            code = started[0].poll()
            return 130 if code is None else _code(code)
        finally:
            _signal(started, signal.SIGTERM)
            _wait(started, noted)
            for process in started:
                process.kill()  # nothing where it has ended
                process.wait()


def _variables(n: int) -> dict[str, str]:
    """Return what all processes are started with: where they meet, and a share of the cores."""
    threads = max(1, limits.cores() // n)
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "WORLD_SIZE": str(n),
        "MASTER_ADDR": socket.gethostname(),
        "MASTER_PORT": "0",
        environment.RUN_ID: secrets.token_hex(8),
        meeting.BY_LAUNCHER: "1",
    }


def _one(rank: int, variables: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a process, in a session of its own: Ctrl-C comes by this one, once."""
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    return subprocess.Popen(
        [sys.executable, *sys.argv], env={**variables, **own}, start_new_session=True
    )


def _watched(started: Started, noted: Sequence[int]) -> int | None:
    """Return the exit code of the first process when it ends, or None when a signal comes.

    Raises GoesOn where another one fails.
    """
    while started[0].poll() is None:
        if noted:
            return None
        for rank, process in enumerate(started):
            # where the first has ended meanwhile, it has said why, and the others ended after it
            if process.poll() and started[0].poll() is None:
                raise GoesOn(_fault(rank, process.returncode, len(started)))
        time.sleep(POLL)
    code = started[0].returncode
    if code < 0:
        raise GoesOn(_fault(0, code, len(started)))
    return code


def _fault(rank: int, code: int, n: int) -> str:
    how = f"was killed (signal {-code})" if code < 0 else f"ended with exit code {code}"
    return f"process {rank} of {n} {how}: {meeting.GOES_ON}"


def _code(code: int) -> int:
    """Return an exit code as a shell tells it."""
    return code if code >= 0 else 128 - code


def _signal(started: Started, number: int) -> None:
    for process in started:
        if process.poll() is None:
            process.send_signal(number)


def _wait(started: Started, noted: Sequence[int]) -> None:
    """Wait for the ends of processes, but not for long, and not after one signal more."""
    until, before = time.monotonic() + PATIENCE, len(noted)
    while any(process.poll() is None for process in started):
        if time.monotonic() > until or len(noted) > before:
            return
        time.sleep(POLL)


@contextlib.contextmanager
def _noted() -> Iterator[list[int]]:
    """Yield a list to which signals that stop a command are added; they raise nothing.

    An exception within `Popen.poll` may leave its lock taken, and whoever waits for that process
    afterwards waits without end.
    """
    noted: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: noted.append(number))
        for number in command_line.stopping_signals()
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let a process begin with Ctrl-C held back, until it can say where it stopped.

    While Python starts it ends in a traceback; `command_line.run` lets it through.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
