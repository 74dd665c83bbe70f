"""Which process of a run this one is, by the variables that `accelerate launch` and torchrun set.

A script that nobody launched has none of them, and is the first process of one.
"""

import os
import re
import socket
from typing import NamedTuple

from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError

NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
MEETS_AT = ("MASTER_ADDR", "MASTER_PORT")
RUN_ID = "TORCHELASTIC_RUN_ID"  # of launchers that give one


class Place(NamedTuple):
    """The place of a process in its run, counted from 0, and the number of processes."""

    rank: int = 0
    local_rank: int = 0  # among those of the same host
    n: int = 1

    @property
    def in_words(self) -> str:
        """Return which process it is."""
        return f"process {self.rank} of {self.n} (counted from 0)"


def place() -> Place:
    """Return the place of this process.

    Raises UserError where the variables are not those of a launcher: one that stayed behind in a
    shell would make a run wait for others, or leave out what the first process writes.
    """
    given = [name for name in NUMBERS if name in os.environ]
    if not given:
        return Place()
    absent = [name for name in (*NUMBERS, *MEETS_AT) if not os.environ.get(name)]
    numbers = [_number(name) for name in NUMBERS]
    rank, local_rank, n = numbers
    if absent or not 0 <= local_rank <= rank < n:
        found = f"lack {', '.join(absent)}" if absent else "contradict each other"
        raise UserError(
            f"the variables of a launcher {found}, though {', '.join(given)} "
            f"{'is' if len(given) == 1 else 'are'} set: `unset {' '.join(NUMBERS)}` to run one "
            "process, or start several by `accelerate launch`"
        )
    return Place(rank, local_rank, n)


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if re.fullmatch(r"\d{1,6}", text, re.ASCII) else -1


def check_meets_at() -> None:
    """Raise UserError where no host has the name at which the processes of a launcher meet.

    PyTorch tries such a name for minutes. One that a name server cannot tell now is left to it.
    """
    host = os.environ.get(MEETS_AT[0])
    if place().n == 1 or not host:
        return
    try:
        socket.getaddrinfo(host, None)
    except UnicodeError:  # no name can be like that
        known = False
    except socket.gaierror as error:
        known = error.errno != socket.EAI_NONAME
    else:
        known = True
    if not known:
        raise UserError(
            f"{MEETS_AT[0]}={host}, where the processes of this run are to meet, is no host that "
            "this machine knows: give the launcher the address of the first host"
        )


def name_of_run() -> str:
    """Return a name that all processes of this launch have, and no other launch at this time."""
    return files.digest([os.environ.get(name) for name in (*MEETS_AT, RUN_ID, "WORLD_SIZE")])


def alone() -> str | None:
    """Return a sentence where `accelerate launch` started one process though more were asked for.

    It then sets the port at which processes meet, but neither their number nor a rank. A port may
    come from the user's shell, so the launcher's own command line goes before it.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if not launched or "WORLD_SIZE" in os.environ or asked_for() == 1:
        return None
    return (
        "`accelerate launch` was asked for several processes and started this one alone: it goes "
        "on with one. Give it --multi_gpu before --num_processes for one on each GPU"
    )


def asked_for() -> int | None:
    """Return the --num_processes on the command line that started this process, if it is there."""
    import psutil

    try:
        parent = psutil.Process().parent()
        command = " ".join(parent.cmdline()) if parent else ""
    except psutil.Error:  # gone, or another user's
        return None
    named = re.search(r"--num[-_]processes[ =](\d+)", command)
    return int(named[1]) if named else None


def take_gpu() -> None:
    """Let this process use the GPU of its number on the host, where there are GPUs.

    Raises UserError for more processes than GPUs.
    """
    import torch

    if not torch.cuda.is_available():
        return
    own, gpus = place().local_rank, torch.cuda.device_count()
    if own >= gpus:
        raise UserError(
            f"{place().in_words} finds {gpus} GPU{'s' * (gpus != 1)} on this host, and each "
            f"process needs one of its own: start {gpus} here"
        )
    torch.cuda.set_device(own)
