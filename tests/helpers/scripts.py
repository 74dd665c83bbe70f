"""Run the scripts as a user does, and what a step leaves."""

import contextlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from helpers.paths import ROOT
from mimic_qlora.step import command_line
from mimic_qlora.step.files import file_sha256

OF_THE_USER = ("MIMIC_DIR", "STORAGE_DIR")  # variables that stand in for arguments


def run_script(
    script: str, *args: object, storage: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in its own process, as a user would, and capture its text."""
    variables = {k: v for k, v in os.environ.items() if k not in OF_THE_USER}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**variables, "STORAGE_DIR": str(storage), **environment},
        timeout=1200,  # for a busy machine; a run that hangs is found all the same
    )


def load_script(path: Path) -> ModuleType:
    """Return a script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Written(io.BytesIO):
    """What a script wrote: still there when its standard stream has been closed."""

    def close(self) -> None:
        """Keep it."""


@contextlib.contextmanager
def as_it_was() -> Iterator[None]:
    """Give back what `command_line.run` changes in a process: its umask and signal handlers."""
    numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    handlers = {number: signal.getsignal(number) for number in numbers if number is not None}
    mask = os.umask(0o077)
    os.umask(mask)
    try:
        yield
    finally:
        os.umask(mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run_here(
    script: str, *args: object, storage: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script as `run_script` does, but in this process, which has its libraries loaded."""
    command, out, err = [script, *map(str, args)], _Written(), _Written()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "argv", command)
        patch.chdir(ROOT)
        for name in OF_THE_USER:
            patch.delenv(name, raising=False)
        for name, value in {"STORAGE_DIR": str(storage), **environment}.items():
            patch.setenv(name, value)
        stack.enter_context(as_it_was())
        end = stack.enter_context(pytest.raises(SystemExit))
        stack.enter_context(contextlib.redirect_stdout(io.TextIOWrapper(out, "utf-8")))
        stack.enter_context(contextlib.redirect_stderr(io.TextIOWrapper(err, "utf-8")))
        try:
            command_line.run(load_script(ROOT / script).main)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    texts = [stream.getvalue().decode() for stream in (out, err)]
    return subprocess.CompletedProcess(command, end.value.code, *texts)


def folder_bytes(folder: Path) -> dict[str, str]:
    """Return every file of a step's output but the manifest, which holds times: its length and sum.

    So a comparison that fails names the files that differ, and prints no megabytes.
    """
    return {
        path.relative_to(folder).as_posix(): f"{path.stat().st_size} bytes, {file_sha256(path)}"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
