"""How another computer reaches this one by ssh and scp, in lines that are safe to paste."""

import argparse
import getpass
import ipaddress
import os
import re
import shlex
import socket
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.step.errors import UserError

_HOST = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?"
_USER = r"[A-Za-z0-9_](?:[A-Za-z0-9_.+-]{0,62}[A-Za-z0-9_.+$-])?"
_LOGIN = r"[A-Za-z0-9_][A-Za-z0-9_.+@\\-]{0,127}\$?"  # also of a Windows domain
_JUMP = rf"(?:{_USER}@)?(?:{_HOST}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?"
SUBMITTED_FROM = ("SLURM_SUBMIT_HOST", "PBS_O_HOST")


class Route(NamedTuple):
    """The way to this machine: user, host, the SSH server's port and the hosts in between.

    `port` is None for 22; `jump` is what ssh's -J takes, None where there is none.
    """

    user: str
    host: str
    port: str | None
    jump: str | None

    def scp(self, path: Path, *, whole: bool = False) -> str:
        """Return the line that copies a file, or a `whole` folder, into results/ there.

        scp makes no folder, and names a missing one's copy otherwise than that in one that is
        there; so the line makes it.
        """
        options = ["-r"] if whole else []
        words = ["scp", *options, *self._options("-P"), f"{self._at()}:{path}", "results/"]
        return f"mkdir -p results && {shlex.join(words)}"

    def tunnel(self, here: str, there: str) -> str:
        """Return the line that carries the address `here` to the address or socket `there`."""
        words = ["ssh", "-N", "-L", f"{here}:{there}", *self._options("-p"), self._at()]
        return shlex.join(words)

    def _at(self) -> str:
        return f"{self.user}@{self.host}"

    def _options(self, port: str) -> list[str]:
        jump = ["-J", self.jump] if self.jump else []
        return jump + ([port, self.port] if self.port else [])


def route(jump: str | None = None) -> Route:
    """Return the way to this machine, by way of the host `jump` where one is given.

    A job on a cluster's node is reached through the host that it was submitted from. No name server
    is asked. Raises UserError when the environment names a host that cannot be one.
    """
    _, _, address, port = [*os.environ.get("SSH_CONNECTION", "").split(), *[""] * 4][:4]
    name = socket.gethostname()
    name = name if re.fullmatch(_HOST, name) else "HOST"
    host = name if "." in name and not name.startswith("localhost") else _address(address) or name
    login = _login()
    if login and login.split(".")[0] != name.split(".")[0]:
        host = name  # the address of SSH_CONNECTION is the login host's
        jump = jump or f"{user()}@{login}"
    is_port = re.fullmatch("[0-9]{1,5}", port) and port != "22"
    return Route(user(), host, port if is_port else None, jump)


def is_remote() -> bool:
    """Return whether its user sits at another computer: over SSH, or as a cluster's job."""
    names = ("SSH_CONNECTION", "SSH_TTY", *SUBMITTED_FROM)
    return any(os.environ.get(name) for name in names)


def jump_host(text: str) -> str:
    """Read the argument --jump: hosts as ssh's -J takes them."""
    if not re.fullmatch(rf"{_JUMP}(?:,{_JUMP})*", text):
        raise argparse.ArgumentTypeError(f"must be a host such as me@login.example, not {text!r}")
    return text


def user() -> str:
    """Return the name of the user who runs this."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        name = ""
    return name if re.fullmatch(_LOGIN, name) else "USER"


def _login() -> str | None:
    """Return the host that this job was submitted from; None outside of jobs."""
    for variable in SUBMITTED_FROM:
        if login := os.environ.get(variable):
            if not re.fullmatch(_HOST, login):
                raise UserError(f"{variable} is {login!r}, which is no host name: unset it")
            return login
    return None


def _address(text: str) -> str | None:
    """Return an IP address as it stands before a colon; None if it is none."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:  # a server behind a proxy writes UNKNOWN
        return None
    return f"[{found}]" if found.version == 6 else str(found)
