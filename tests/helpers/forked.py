"""Runs of steps 6 and 7 in processes forked from one that has imported the libraries: 10 s less."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from helpers import launched
from helpers.forking import forked
from helpers.paths import ROOT
from helpers.scripts import load_script
from mimic_qlora.llm import generation, loading
from mimic_qlora.processes import meeting
from mimic_qlora.qa import session
from mimic_qlora.step import command_line
from mimic_qlora.validation.scoring import likeness

PRELOADED = [
    *("peft", "bitsandbytes", "scipy.stats", "rouge_score.rouge_scorer", "helpers.forked"),
    *("mimic_qlora.validation.run", "mimic_qlora.validation.asking"),
]


class Kill(NamedTuple):
    """Kill a process instead of its n-th batch of answers, counted from 0."""

    rank: int
    batch: int


NOBODY = Kill(-1, 0)


def run_main(script: str, arguments: list, output: str, environment: dict, kill: Kill) -> None:
    """Run a script as a user starts it, in float32, with its output in a file."""
    import torch

    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the forking process ignores it
    log = open(output, "wb", buffering=0)
    for number in (1, 2):
        os.dup2(log.fileno(), number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
    sys.argv = [script, *arguments]
    killed = Path(output).with_suffix(".killed")
    threading.Thread(target=give_up_soon, args=(killed,), daemon=True).start()
    loading.compute_dtype = lambda on_cpu=None: torch.float32
    # stands in for the embedder, which takes seconds
    likeness.cosines = lambda pairs: [0.5] * len(pairs)
    if made_up := os.environ.get("MADE_UP_DEVICE"):
        session.device = lambda: made_up
    answer, answered = generation.answer, []

    def counted(*args):
        if kill.rank == int(os.environ.get("RANK", 0)) and kill.batch == len(answered):
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        answered.append(args)
        return answer(*args)

    generation.answer = counted
    command_line.run(load_script(ROOT / script).main)


def give_up_soon(killed: Path) -> None:
    """Wait no minute for a process that has been killed; one that is slow is waited for."""
    while not killed.exists():
        time.sleep(0.1)
    meeting.STALLED = 2.0


def start(
    script: str,
    arguments: Sequence[object],
    log: Path,
    n: int = 1,
    kill: Kill = NOBODY,
    **variables: str,
) -> list:
    """Start a script as n processes, as the launchers of n hosts do; their output goes to log.0 ...

    Process.wait() is join(); .exitcode is what a shell would see.
    """
    started = []
    Path(f"{log}.killed").unlink(missing_ok=True)
    for rank in range(n):
        own = launched.variables(rank, n) | {"LOCAL_RANK": "0"} if n > 1 else {}
        texts, output = [str(a) for a in arguments], f"{log}.{rank}"
        environment = {**own, "COLUMNS": "100", **variables}
        started.append(forked(PRELOADED, run_main, script, texts, output, environment, kill))
    return started


def codes(started: list) -> list[int]:
    """Wait for the processes and return their exit codes."""
    for process in started:
        process.join(300)
    return [process.exitcode for process in started]
