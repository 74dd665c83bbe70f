"""A Dask cluster that does the tasks of a step, through its executor (`concurrent.futures`).

Results pass through the shared folder; tasks return counts. A worker that dies is replaced by
Dask; what else may happen (a host whose disk is full, a straggler, a scheduler that is gone) is met
here, since a task may be given again at any time.
"""

import asyncio
import contextlib
import logging
import shlex
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from mimic_qlora.step import faults, terminal
from mimic_qlora.step.errors import GoesOn, UserError
from mimic_qlora.step.files import given_path, read_json
from mimic_qlora.work import certificates, remote
from mimic_qlora.work.certificates import NEEDED
from mimic_qlora.work.engine import Again, Engine, Given

CONNECT_SECONDS = 20
PATIENCE_SECONDS = 60.0  # without a worker, its answer, the scheduler or its file
LATE_SECONDS, LATE_TIMES = 30.0, 3.0  # a task is late after so long, and so many times its share


@dataclass(frozen=True)
class Target:
    """A cluster as the command line names it."""

    address: str  # of the scheduler, such as tls://host:8786
    certificates: certificates.Files | None  # None on this host alone


def target(scheduler: str | None, scheduler_file: str | None, folder: str | None) -> Target | None:
    """Return the cluster that the command line names, None where it names none.

    Raises UserError when its scheduler may be reached by others without TLS, or cannot be found.
    """
    if scheduler and scheduler_file:
        raise UserError("--scheduler and --scheduler-file name one cluster: give one of them")
    if not (scheduler or scheduler_file):
        return None
    address = scheduler or _address_in(given_path(str(scheduler_file)))
    check_address(address, "the scheduler")
    if not address.startswith("tls://"):
        return Target(address, None)
    if not folder:
        raise UserError(
            f"{address} takes certificates: give their folder by --certificates "
            "(--make-certificates DIR writes new ones)"
        )
    return Target(address, certificates.checked(given_path(folder).absolute()))


def _address_in(path: Path) -> str:
    """Return the address in the file that `dask scheduler --scheduler-file` writes.

    Waits for it a while, as a batch job starts the scheduler and the command together.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    try:
        while not (path.exists() and path.stat().st_size):
            if time.monotonic() > until:
                raise UserError(
                    f"there is no {path}, or it is empty: start "
                    f"`dask scheduler --scheduler-file {shlex.quote(str(path))}` first"
                )
            time.sleep(0.2)
        return str(read_json(path)["address"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} is not what `dask scheduler --scheduler-file` writes: start it again"
        ) from None


def check_address(address: str, whose: str) -> None:
    """Raise UserError unless an address is encrypted, or of this host alone."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if parts.scheme not in ("tcp", "tls") or not host or not port:
        raise UserError(f"--scheduler must be an address such as tls://host:8786, not {address}")
    if parts.scheme == "tcp" and not remote.is_here(host):
        raise UserError(
            f"{whose} at {address} is not encrypted, and whoever reaches it can run code beside "
            "the data: start all with TLS (--make-certificates DIR writes what it takes), or on "
            "127.0.0.1"
        )


class Cluster(Engine):
    """The workers of a Dask cluster."""

    def __init__(
        self, found: Target, prepare: Callable[[], None], folders: Collection[Path], memory: int
    ) -> None:
        """Take the folders that every worker must see, and the bytes of memory that it needs."""
        super().__init__(2, prepare)
        self._target, self._folders, self._memory = found, list(map(str, folders)), memory
        self._left_out: set[str] = set()  # hosts with a fault of their own
        self._there: Mapping[str, int] = {}  # threads of each worker
        self._seen = self._looked = time.monotonic()
        self._ran: dict[Future[Any], Any] = {}  # Dask's own futures, which know the worker

    def __enter__(self) -> "Cluster":
        try:
            import distributed
        except ImportError:
            raise UserError(f"--scheduler needs the package distributed: {NEEDED}") from None
        # what it would log is said below, in a sentence; its threads may log until the end
        logging.disable(logging.CRITICAL)
        files = self._target.certificates
        security = files and distributed.Security(
            tls_ca_file=str(files.ca),
            tls_client_cert=str(files.cert),
            tls_client_key=str(files.key),
            require_encryption=True,
        )
        try:
            self._client = distributed.Client(
                self._target.address,
                security=security,
                timeout=CONNECT_SECONDS,
                set_as_default=False,
            )
        except (OSError, asyncio.TimeoutError, ValueError):
            raise GoesOn(
                f"no scheduler answers at {self._target.address}, or not with these certificates: "
                "start it (docs/scaling_out.md) and give the same command"
            ) from None
        try:
            self._check()
        except BaseException:
            self._client.close(timeout=5)
            raise
        self._executor = self._client.get_executor(pure=False)
        self._look()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._executor.shutdown(wait=False)
            self._client.close(timeout=5)

    def _check(self) -> None:
        """Raise UserError when the cluster is open to others, or a worker cannot do the work."""
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):  # two kinds in Python 3.10
            raise _no_worker() from None
        pages = self._client.run_on_scheduler(remote.dashboard)
        if not remote.is_here(pages):
            raise _open_pages("the scheduler", pages)
        info = self._client.scheduler_info(n_workers=-1)["workers"]
        for address, worker in info.items():
            check_address(address, "a worker")
            if worker["nthreads"] != 1:
                raise GoesOn(
                    f"the worker at {address} has {worker['nthreads']} threads: start it with "
                    "--nthreads 1, and more of them with --nworkers"
                )
            if 0 < worker["memory_limit"] < self._memory:
                raise GoesOn(
                    f"the worker at {address} may use {worker['memory_limit'] / 1e9:.1f} GB and "
                    f"{self._memory / 1e9:.1f} are needed: start it with more --memory-limit, or "
                    "give less --memory"
                )
        found = self._client.sync(self._asked, list(info))
        silent = [address for address, about in found.items() if about is None]
        if len(silent) == len(found):
            raise GoesOn(
                f"none of {len(found)} workers answers within {PATIENCE_SECONDS:.0f} seconds: "
                "start them again and give the same command"
            )
        for address in silent:
            self._left_out.add(_host(address))
            terminal.say_aside(f"note: {address} does not answer, and its host gets no work")
        for address in found.keys() - silent:
            self._check_worker(address, found[address])

    async def _asked(self, workers: Sequence[str]) -> dict[str, Any]:
        """Return what each worker says about itself, None for one that does not answer."""

        async def ask(worker: str) -> Any:
            about = self._client.run(
                remote.about, self._folders, workers=[worker], on_error="return"
            )
            try:
                return (await asyncio.wait_for(about, PATIENCE_SECONDS)).get(worker)
            except (TimeoutError, asyncio.TimeoutError):
                return None

        return dict(zip(workers, await asyncio.gather(*map(ask, workers)), strict=True))

    def _check_worker(self, address: str, about: Any) -> None:
        """Raise UserError when a worker cannot do the work, or is open to others."""
        if not isinstance(about, remote.About):
            raise GoesOn(
                f"the worker at {address} lacks this software, or has another version: install "
                "the same on all hosts and start it again"
            )
        if differing := remote.difference(remote.versions(), about.versions):
            raise _other_versions(address, differing)
        if about.missing:
            raise GoesOn(
                f"the worker at {address} does not see {about.missing[0]}: all hosts must have "
                "the storage folder and the tables under the same path"
            )
        if not remote.is_here(about.dashboard):
            raise _open_pages(f"the worker at {address}", about.dashboard)

    def _in_flight(self) -> int:
        """Return how many tasks may be given before one has ended."""
        return max(4, 3 * len(self._there))

    def _submit(self, task: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Give a task to the cluster under a name that tells nothing but the function's."""
        name = f"{getattr(task, '__name__', 'task')}-{uuid.uuid4().hex}"
        call = (remote.versions(), self._prepare, task, arguments)
        some: dict[str, Any] = {"workers": self._fitting()} if self._left_out else {}
        submit: Any = self._executor.submit  # Dask's takes more than the standard library's
        given: Future[Any] = submit(remote.call, *call, key=name, **some)
        return given

    def _fitting(self) -> list[str]:
        """Return the workers on hosts that are not left out."""
        return [one for one in self._there if _host(one) not in self._left_out]

    def _result(self, future: Future[Any], given: Given) -> Any:
        """Return the result of a task, or raise its error; Again where another host may do it."""
        try:
            outcome = future.result()
        except CancelledError:
            self._wait_for_scheduler()
            raise Again from None
        except Exception as error:
            if type(error).__name__ == "KilledWorker":
                raise GoesOn(
                    "several workers died at the same piece of work, most likely for lack of "
                    "memory: start them with more, or give less --memory"
                ) from None
            raise GoesOn(
                "a worker cannot run this software (another version, or none): install the same "
                "on all hosts, start the workers again and give the same command"
            ) from None
        if outcome.differing:
            raise _other_versions(outcome.worker, outcome.differing)
        if outcome.error is None:
            return outcome.value
        if isinstance(outcome.error, UserError) or not faults.of_the_machine(outcome.error):
            raise outcome.error
        self._leave_out(outcome.worker, outcome.error)
        raise Again

    def _leave_out(self, worker: str, error: Exception) -> None:
        """Give a host no more work. Raises its error where that is everybody's, or no other is."""
        self._look()
        here = faults.has_no_room(Path(self._folders[0]))
        self._left_out.add(_host(worker))
        if (faults.is_full(error) and here) or not self._fitting():
            raise error
        says = faults.sentence(error) or type(error).__name__
        terminal.say_aside(f"note: the host of {worker} gets no more work: {says}")

    def _wait_for_scheduler(self) -> None:
        """Wait until the connection stands again. Raises GoesOn when it does not."""
        until = time.monotonic() + PATIENCE_SECONDS
        while self._client.status != "running":
            if self._client.status == "closed" or time.monotonic() > until:
                raise GoesOn(
                    f"the scheduler at {self._target.address} is gone: start it and the workers "
                    "again and give the same command, which goes on from here"
                )
            time.sleep(0.2)

    def _look(self) -> None:
        """See which workers are there."""
        with contextlib.suppress(Exception):  # the connection is lost: its futures will tell
            self._there = self._client.nthreads()
        self._looked = time.monotonic()
        if self._there:
            self._seen = self._looked

    def _late(self, running: Sequence[Given], pace: float | None) -> Sequence[int]:
        """Return the last tasks that take too long. Raises GoesOn when no worker is there."""
        now = time.monotonic()
        if now - self._looked > 1:
            self._look()
        if now - self._seen > PATIENCE_SECONDS:
            raise _no_worker()
        if len(running) >= self._in_flight() or pace is None:  # nobody is idle
            return ()
        numbers = [given.number for given in running]
        return [
            one.number
            for one in running
            if now - one.since > max(LATE_SECONDS, LATE_TIMES * pace * one.size)
            and numbers.count(one.number) == 1
        ]


def _host(address: str) -> str:
    return urlsplit(address).hostname or address


def _no_worker() -> GoesOn:
    return GoesOn(
        f"no worker has been there for {PATIENCE_SECONDS:.0f} seconds: start some and give the "
        "same command, which goes on from here"
    )


def _other_versions(address: str, differing: str) -> GoesOn:
    return GoesOn(
        f"the worker at {address} has {differing}, as this command has: install the same on all "
        "hosts, start it again and give the same command"
    )


def _open_pages(whose: str, pages: str) -> GoesOn:
    return GoesOn(
        f"{whose} shows its pages to other hosts, at {pages}: start it with "
        "--dashboard-address 127.0.0.1:0"
    )
