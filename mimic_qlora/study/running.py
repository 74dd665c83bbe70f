"""Run the commands of a study one after the other, each as a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mimic_qlora.processes import launch
from mimic_qlora.study.commands import Command

_OF_THE_USER = ("MIMIC_DIR", "STORAGE_DIR")  # the study file says these


@dataclass(frozen=True)
class Ended:
    """A command that did not end well, and its exit code as a shell tells it."""

    command: Command
    code: int


def run_all(commands: Sequence[Command], root: Path, variables: Mapping[str, str]) -> Ended | None:
    """Run commands with these variables, in the folder of the scripts; None if all ended well.

    The first that does not is the last that runs.
    """
    for command in commands:
        print(f"\n=== step {command.number}: {command.in_words}", flush=True)
        began = time.monotonic()
        code = _run(command, root, {**_environment(), **variables})
        if code:
            return Ended(command, code)
        print(f"=== step {command.number} took {time.monotonic() - began:.0f} s", flush=True)
    return None


def _environment() -> dict[str, str]:
    """Return the variables of a step: those of this process, with its Python in front."""
    variables = {k: v for k, v in os.environ.items() if k not in _OF_THE_USER}
    here = os.path.dirname(sys.executable)
    variables["PATH"] = os.pathsep.join([here, *filter(None, [variables.get("PATH")])])
    if sys.prefix != sys.base_prefix:
        variables["VIRTUAL_ENV"] = sys.prefix  # by which run.sh takes the same Python
    return variables


def _words(command: Command) -> list[str]:
    program, *others = command.words
    return [*([sys.executable] if program == "python" else ["bash", program]), *others]


def _run(command: Command, root: Path, variables: Mapping[str, str]) -> int:
    """Run a command to its end and return its exit code; what it prints also goes to its log.

    Ctrl-C reaches the step by the terminal, as it does in a shell, and the step says where it
    stopped. A request to end that reaches this process alone is passed on.
    """
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(command.log, "ab")) if command.log else None
        stack.enter_context(_left_to_the_step())
        with launch.held_back():
            process = subprocess.Popen(
                _words(command),
                cwd=root / command.folder,
                env=dict(variables),
                stdout=subprocess.PIPE if log else None,
            )
        with _passed_on(process):
            if log and process.stdout:
                _copy(process.stdout, log)
            code = process.wait()
            return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _left_to_the_step() -> Iterator[None]:
    """Let Ctrl-C do nothing in this process, while a step has it too and ends by it.

    Raised here it could come between the end of the step and the reading of its exit code. Then
    0 would be read, and the next step would begin. An ignored signal, as under nohup, stays so.
    """
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _passed_on(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Pass the end of this process on to another, and wait for that one's end first."""
    try:
        yield
    except BaseException:  # SystemExit by SIGTERM or SIGHUP
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(BaseException):
                process.wait()
        raise


def _copy(source: IO[bytes], log: IO[bytes]) -> None:
    """Copy what a process prints to standard output and to a file, line by line, to its end.

    On a terminal a line is folded, which the process, whose output is no terminal, leaves to this.
    A thread copies, which no signal interrupts: between reading and writing it would lose a line.
    """
    thread = threading.Thread(target=_copy_lines, args=(source, log), daemon=True)
    thread.start()
    thread.join()


def _copy_lines(source: IO[bytes], log: IO[bytes]) -> None:
    for line in source:
        try:
            log.write(line)
            log.flush()
            sys.stdout.write(line.decode(sys.stdout.encoding, "replace"))
            sys.stdout.flush()
        except OSError:  # nobody reads any more, or a disk is full: the step shall notice too
            source.close()
            return
