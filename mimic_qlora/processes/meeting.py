"""The processes of one run: they meet, compare what they are to do, and notice who is gone.

They meet in a private folder of the storage folder, which all of them see. Each one writes a small
file there twice a second: that it lives, what it is to do, and what stopped it. No port is opened,
and nothing of a patient is in these files. A process that is silent for a minute is gone: killed,
or with its host. Nobody waits longer.

Own code, since the collective operations of torch.distributed wait for a lost host for ten minutes
or more, end in tracebacks, and leave nothing to go on from.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mimic_qlora.processes import environment
from mimic_qlora.processes.environment import Place
from mimic_qlora.step import errors, files, terminal
from mimic_qlora.step.errors import GoesOn, UserError

BEAT = 0.5  # seconds between signs of life
POLL = 0.1  # seconds between looks while waiting
STALLED = 60.0  # seconds without a sign of life until a process is given up
ABSENT = 300.0  # seconds until one that never came is given up; libraries may load slowly
LAST = 5.0  # seconds that the first process leaves the others to end
HOUR = 3600
GOES_ON = "the same command goes on from here"
BY_LAUNCHER = "MIMIC_QLORA_LAUNCHED"  # set for processes whose launcher (launch.py) speaks itself

COMING, WORKING, STOPPED, ENDED = "coming", "working", "stopped", "ended"


class Seen(NamedTuple):
    """What another process wrote last, and when this one saw it change."""

    state: dict[str, Any]
    at: float  # seconds of the monotonic clock


class Team:
    """The processes of a run, as one of them sees it; a single process waits for nobody."""

    def __init__(self, place: Place | None = None, folder: Path | None = None) -> None:
        """Join those that meet in a folder; without one this process is alone."""
        self.place, self.folder = place or Place(), folder
        self.rank, self.n = self.place.rank, self.place.n
        self._own: dict[str, Any] = {
            "nonce": secrets.token_hex(6),
            "host": socket.gethostname(),
            "beat": 0,
            "met": 0,
            "facts": {},
            "heard": {},
            "state": COMING,
            "error": None,
        }
        self._baseline: dict[int, tuple[str, int]] = {}
        self._seen: dict[int, Seen] = {}
        self._began = time.monotonic()
        self._quit = threading.Event()

    @property
    def is_first(self) -> bool:
        """Tell whether this process writes and speaks for all."""
        return self.rank == 0

    @property
    def run(self) -> str:
        """Return a name of this run that no other one has, known once the processes have met."""
        return str((self._own if self.is_first else self._seen[0].state)["nonce"])

    def meet(self, facts: Mapping[str, str]) -> None:
        """Wait until all processes are here; they must agree on these facts, hashes by name.

        Raises UserError for one that differs, that failed or that did not come.
        """
        if self.n == 1:
            return
        self._own |= {"facts": dict(facts), "met": self._own["met"] + (not self.is_first)}
        if not self.is_first:
            self._wait(self._is_heard)
            return
        met = self._own["met"] + 1
        self._wait(lambda: all(self._has_met(other, met) for other in range(1, self.n)))
        others = {other: self._seen[other].state for other in range(1, self.n)}
        for other, state in others.items():
            differ = [name for name, fact in facts.items() if state["facts"].get(name) != fact]
            if differ:
                raise UserError(
                    f"{self._named(other)} has another {' and another '.join(differ)} than the "
                    "first: give all of them the same arguments, code and files"
                )
        heard = {str(other): state["nonce"] for other, state in others.items()}
        self._own |= {"heard": heard, "met": met, "state": WORKING}
        self._write()

    def check(self) -> None:
        """Raise where another process failed or is gone, and KeyboardInterrupt where it stopped."""
        for other in self._others():
            seen = self._seen.get(other)
            if seen is None:
                if time.monotonic() - self._began > ABSENT:
                    raise UserError(
                        f"process {other} of {self.n} did not come: start all with the same "
                        f"--storage, or `unset {' '.join(environment.NUMBERS)}` to run one alone"
                    )
            elif seen.state["error"] and self.is_first:
                raise GoesOn(f"{self._named(other)}: {seen.state['error']}")
            elif seen.state["state"] == STOPPED:
                raise KeyboardInterrupt
            elif time.monotonic() - seen.at > STALLED or (
                not self.is_first and seen.state["state"] == ENDED
            ):
                raise GoesOn(f"{self._named(other)} has ended: {GOES_ON}")

    def has_ended(self, other: int) -> bool:
        """Tell whether another process has done all that it was to do."""
        return other in self._seen and self._seen[other].state["state"] == ENDED

    def _is_done(self, other: int) -> bool:
        return other in self._seen and self._seen[other].state["state"] in (STOPPED, ENDED)

    def _others(self) -> range:
        """Return the processes that this one watches: the first all others, these the first."""
        return range(1, self.n) if self.is_first else range(1)

    def _named(self, other: int) -> str:
        return f"process {other} of {self.n} on {self._seen[other].state['host']}"

    def _has_met(self, other: int, met: int) -> bool:
        return other in self._seen and self._seen[other].state["met"] >= met

    def _is_heard(self) -> bool:
        """Tell whether the first process, and no earlier one, knows that this one is here."""
        if not self._has_met(0, self._own["met"]):
            return False
        heard = self._seen[0].state["heard"]
        return bool(heard.get(str(self.rank)) == self._own["nonce"])

    def _wait(self, until: Callable[[], bool]) -> None:
        self._write()
        while not until():
            self.check()
            time.sleep(POLL)

    # ------------------------------------------------------------ signs of life

    def _file(self, rank: int) -> Path:
        assert self.folder, "a process that is alone has no folder"
        return self.folder / f"{rank}.json"

    def _write(self) -> None:
        """Write the state of this process; where the disk refuses, the others will notice."""
        own = self._file(self.rank)
        new = own.with_suffix(f".{threading.get_ident()}.new")
        with contextlib.suppress(OSError):
            own.parent.mkdir(mode=0o700, exist_ok=True)  # it goes with another run of this name
            new.write_text(json.dumps(self._own), encoding="utf-8")
            new.replace(own)

    def _look(self) -> None:
        """Read what the others wrote.

        A file that never changes was left by a run that was killed.
        """
        for other in self._others():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                state = files.read_json(self._file(other))
                sign = (state["nonce"], state["beat"])
                if sign == self._baseline.setdefault(other, sign):
                    continue
                self._baseline[other] = sign
                self._seen[other] = Seen(state, time.monotonic())

    def _beat(self) -> None:
        while not self._quit.wait(BEAT):
            self._own["beat"] += 1
            self._write()
            self._look()

    @contextlib.contextmanager
    def living(self) -> Iterator[None]:
        """Show signs of life in the block, and at its end how it ended."""
        if self.folder is None:
            yield
            return
        files.private_folder(self.folder.parent)
        files.private_folder(self.folder)
        thread = threading.Thread(target=self._beat, daemon=True)
        thread.start()
        try:
            yield
            self._own["state"] = ENDED
        except KeyboardInterrupt:
            self._own["state"] = STOPPED
            raise
        except UserError as error:
            self._fail(str(error))
            raise
        except SystemExit:
            self._own |= {"state": ENDED, "error": f"a signal ended it, {GOES_ON}"}
            raise
        except errors.UpToDate:
            self._own["state"] = ENDED
            raise
        except Exception as error:
            if not self.is_first:
                traceback.print_exc(file=sys.__stderr__)
            self._fail(f"{type(error).__name__}, see its traceback")
            raise
        finally:
            self._quit.set()
            thread.join()
            self._own["beat"] += 1
            self._write()
            if self.is_first:
                self._tidy_up()

    def _fail(self, sentence: str) -> None:
        """Tell what stopped this process, and let the first one say it before this one ends.

        A launcher ends all processes as soon as one has failed.
        """
        self._own["error"] = sentence
        if self.is_first:
            self._own["state"] = ENDED
            return
        with contextlib.suppress(UserError, KeyboardInterrupt):
            self._wait(lambda: False)

    def _tidy_up(self) -> None:
        """Remove the files of this run once all processes have ended, and those of old runs."""
        folder = self._file(0).parent
        until = time.monotonic() + (0 if self._own["error"] else LAST)
        while not (all_ended := all(map(self._is_done, self._others()))):
            if time.monotonic() > until:
                break
            time.sleep(POLL)
            self._look()
        for other in folder.parent.iterdir():
            with contextlib.suppress(OSError):
                old = time.time() - other.stat().st_mtime > HOUR  # each beat changes it
                if old or (all_ended and other == folder):
                    shutil.rmtree(other)
        with contextlib.suppress(OSError):  # another run meets there
            folder.parent.rmdir()


@contextlib.contextmanager
def joined(store: Path) -> Iterator[Team]:
    """Yield the team of this process, whose processes meet in a storage folder.

    The first process speaks: the others print nothing, but for one error a host.
    """
    place = environment.place()
    if place.n == 1:
        yield Team()
        return
    team = Team(place, store / ".processes" / environment.name_of_run())
    try:
        with team.living(), contextlib.nullcontext() if team.is_first else _silent():
            yield team
    except UserError:
        if place.local_rank:  # the first process says it, and a launcher would end that one
            raise SystemExit(0 if team.has_ended(0) else 2) from None
        raise
    except KeyboardInterrupt:
        if not team.is_first:  # a launcher would end the first one, which has a report to write
            raise SystemExit(0) from None
        raise
    except SystemExit as end:
        if team.is_first and end.code and BY_LAUNCHER not in os.environ:
            terminal.say_aside(f"\nA signal ended this run, or a process of it: {GOES_ON}")
        raise


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Let this process print nothing, and show no progress."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
