"""Step 1 in a process that is stopped where a test wants it, on small buckets."""

import itertools
import os
import pkgutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

from helpers.forking import begin, forked
from helpers.paths import ROOT
from helpers.scripts import load_script
from mimic_qlora.step import command_line
from mimic_qlora.subjects import buckets, conversion, quality

PRELOADED = ["helpers.interrupted_step_1", conversion.__name__]


def small_buckets(change) -> None:
    """Change step 1, by setattr, so that it has many buckets; their quality others test."""
    change(buckets, "PATIENTS_PER_BUCKET", 3)
    change(quality, "flags", lambda *_, **__: [])


class Pause(NamedTuple):
    """Makes a run wait at the n-th call of a function until it is let go, killed or interrupted."""

    folder: Path
    function: str  # of mimic_qlora.subjects
    call: int

    @property
    def reached(self) -> Path:
        return self.folder / "reached"

    def begin(self) -> None:
        """Let this process wait there."""
        place, _, name = f"mimic_qlora.subjects.{self.function}".rpartition(".")
        owner, calls = pkgutil.resolve_name(place), itertools.count(1)
        whole = getattr(owner, name)

        def pausing(*arguments, **options):
            if next(calls) == self.call:
                self.reached.touch()
                while not (self.folder / "go").exists():
                    time.sleep(0.01)
            return whole(*arguments, **options)

        setattr(owner, name, pausing)

    def wait(self, run: "Run") -> None:
        """Wait until a run has come to it."""
        while not self.reached.exists():
            assert run.process.is_alive(), run.ended()
            time.sleep(0.01)

    def go(self) -> None:
        (self.folder / "go").touch()


class Run:
    """Step 1 in a process and a session of its own; `any_space` takes what it needs for nothing."""

    def __init__(
        self,
        mimic: Path,
        storage: Path,
        *options: str,
        pause: Pause | None = None,
        any_space: bool = False,
    ):
        # beside the folder of the storage, which may be on a disk that is full
        self.errors = storage.parent.with_name(f"{time.monotonic_ns()}.log")
        words = ["--mimic-dir", mimic, "--storage", storage, "--workers", "1", *options]
        arguments = ([str(word) for word in words], self.errors, pause, any_space)
        self.process = forked(PRELOADED, run_step_1, *arguments)

    def killed(self) -> None:
        """Kill it, and wait until it has ended."""
        self.process.kill()
        self.process.join()

    def ended(self) -> tuple[int, str]:
        """Wait until it has ended; return its exit code, and its errors."""
        self.process.join()
        return self.process.exitcode, self.errors.read_text()


def run_step_1(words: list[str], errors: Path, pause: Pause | None, any_space: bool) -> None:
    """Run step 1 until it comes to a pause, or to its end."""
    os.setsid()
    begin(Path(os.devnull), errors)
    small_buckets(setattr)
    if any_space:
        buckets.unpacked_bytes = lambda source: 0
    if pause:
        pause.begin()
    sys.argv = ["convert_to_jsonl.py", *words]
    command_line.run(load_script(ROOT / "convert_to_jsonl.py").main)
