"""What took long to compute, kept as JSON lines: a run that was killed goes on from there.

Several processes share the work, each by its place in the plan, so that all of them know who does
what. Each one keeps its entries in a part beside the file, and reads those of the others as they
come; the parts go into the file at the end, or at the beginning of the next run.
"""

import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from mimic_qlora.processes.meeting import POLL, Team
from mimic_qlora.step import files, terminal

Entry = dict[str, Any]  # a line; all but the first have a "key"
Known = dict[str | None, Entry]  # by key
T = TypeVar("T")


class Journal(NamedTuple):
    """A file of entries, and the processes that share the work of filling it."""

    path: Path
    team: Team = Team()


@dataclass(frozen=True)
class Work(Generic[T]):
    """Something to compute: what it is `of`, the keys of its entries, and how they are made."""

    of: T
    keys: Sequence[str]
    make: Callable[[], list[Entry]]


@dataclass(frozen=True)
class Done(Generic[T]):
    """What was computed, and whether an earlier run had done it."""

    of: T
    entries: list[Entry]
    from_before: bool = False


def begin(path: Path, identity: dict[str, Any], anew: bool) -> None:
    """Create the file if it is missing, or `anew`; its first line holds the identity.

    The parts of a run that was killed go into it. What it held before it is made anew is aside
    until `gather` puts back what was not made again: a small run costs a large one nothing.
    """
    before = _before(path)
    if before.exists() and not path.exists():  # killed between the two steps below
        before.replace(path)
    if path.exists():
        _put(path, [*_parts(path), *([before] if anew else [])])
        if anew:
            path.replace(before)
    if not path.exists():
        path.write_text(json.dumps({"by": identity}) + "\n", encoding="utf-8")
        for part in _parts(path):
            part.unlink(missing_ok=True)


def gather(path: Path) -> None:
    """Put the entries of all parts, and of before the file was made anew, into it; remove them."""
    _put(path, [*_parts(path), _before(path)])


def _put(path: Path, sources: Sequence[Path]) -> None:
    """Put the entries of other files, if they are there, into a file that lacks them."""
    if not any(source.exists() for source in sources):
        return
    known = kept(path)
    for source in filter(Path.exists, sources):
        new = {entry.get("key"): entry for entry in _Part(source).new()}
        for key, entry in new.items():
            if key not in known:
                known[key] = add(path, entry)
        source.unlink()


def _before(path: Path) -> Path:
    """Return the file of what was known before the entries were made anew."""
    return path.with_name(f"{path.stem}.before")


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.*.part"))


def part_of(path: Path, team: Team, rank: int) -> Path:
    """Return the file of what one process has made."""
    return path.with_name(f"{path.stem}.{team.run}-{rank}.part")


def kept(path: Path) -> Known:
    """Return the entries by their key.

    Takes lines out of the file that are not as they were written: the last one that a killed run
    left unfinished, and damaged ones, which it tells of.
    """
    found, odd = _read(path)
    if odd:
        with open(path, "rb") as file:
            good = [line for line in file if _entry(line) is not None]
        files.atomic_write(path, b"".join(good))
    if damaged := sum(line.endswith(b"\n") for line in odd):
        terminal.say_aside(f"note: {damaged} of the lines of {path} are damaged, and made again")
    return found


def _read(path: Path) -> tuple[Known, list[bytes]]:
    """Return the entries by their key, and the lines that are not as they were written."""
    found: Known = {}
    odd = []
    with open(path, "rb") as file:
        for line in file:
            if (entry := _entry(line)) is None:
                odd.append(line)
            else:
                found[entry.get("key")] = entry
    return found, odd


def _entry(line: bytes) -> Entry | None:
    """Return the entry of a line that is as it was written; earlier versions wrote no sum."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    expected = entry.pop("sum", None)
    return entry if expected is None or expected == files.digest(entry) else None


def add(path: Path, entry: Entry) -> Entry:
    """Append an entry with its sum, on the disk when this returns, and return it."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({**entry, "sum": files.digest(entry)}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return entry


def once(path: Path, key: str, make: Callable[[], Any]) -> Any:
    """Return what `make` returns, or returned when this key was kept; it must fit into JSON."""
    return (kept(path).get(key) or add(path, {"key": key, "value": make()}))["value"]


class _Part:
    """A part that another process writes, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path, self.read = path, 0

    def new(self) -> list[Entry]:
        """Return the entries that have come since the last time."""
        found: list[Entry] = []
        if not self.path.exists():
            return found
        with open(self.path, "rb") as file:
            file.seek(self.read)
            for line in file:
                if not line.endswith(b"\n"):  # being written, or left so by a kill
                    break
                self.read += len(line)
                if (entry := _entry(line)) is not None:
                    found.append(entry)
        return found


def each(works: Iterable[Work[T]], journal: Journal) -> Iterator[Done[T]]:
    """Yield all works with their entries, made unless an earlier run has made them.

    Of several processes each makes every n-th, and yields those of the others when they have come;
    one process alone yields them in their order. Raises GoesOn when a process is gone.
    """
    path, team = journal
    before = known_to(journal)
    others = [_Part(part_of(path, team, r)) for r in range(team.n) if r != team.rank]
    own = part_of(path, team, team.rank) if others else path
    known, waiting, to_do = dict(before), list[Work[T]](), 0
    for work in works:
        if _are_in(work, before):
            yield _done(work, before, from_before=True)
            continue
        if to_do % team.n == team.rank:
            team.check()
            known |= {entry["key"]: add(own, entry) for entry in work.make()}
            yield _done(work, known)
        else:
            waiting.append(work)
        to_do += 1  # of what `before` lacks, which all processes count alike
        waiting = yield from _arrived(waiting, others, known)
    while waiting:
        team.check()
        time.sleep(POLL)
        waiting = yield from _arrived(waiting, others, known)


def known_to(journal: Journal) -> Known:
    """Return the entries by their key; of several processes none changes the file meanwhile."""
    path, team = journal
    return kept(path) if team.n == 1 else _read(path)[0]


def idle(works: Sequence[Work[T]], journal: Journal) -> int:
    """Return how many processes have nothing of the works to do, though there is something."""
    before = known_to(journal)
    to_do = sum(not _are_in(work, before) for work in works)
    return max(0, journal.team.n - to_do) if to_do else 0


def exchanged(made: Mapping[str, int], n: int) -> list[str]:
    """Return for each of n processes the key of what another one has made, to be made once more.

    `made` maps keys to processes. Returns none where one process has made all.
    """
    if len(set(made.values())) < 2:
        return []
    return [min(key for key, by in made.items() if by != rank) for rank in range(n)]


def in_order(dones: Iterable[Done[int]]) -> Iterator[Done[int]]:
    """Yield works that are of the numbers from 0 in their order, each as soon as it can be."""
    early: dict[int, Done[int]] = {}
    number = 0
    for done in dones:
        early[done.of] = done
        while number in early:
            yield early.pop(number)
            number += 1


def _are_in(work: Work[T], known: Known) -> bool:
    return all(key in known for key in work.keys)


def _done(work: Work[T], known: Known, from_before: bool = False) -> Done[T]:
    return Done(work.of, [known[key] for key in work.keys], from_before)


def _arrived(
    waiting: list[Work[T]], others: Sequence[_Part], known: Known
) -> Generator[Done[T], None, list[Work[T]]]:
    """Yield what other processes have done since the last time, and return what is left."""
    for part in others:
        known |= {entry["key"]: entry for entry in part.new()}
    yield from (_done(work, known) for work in waiting if _are_in(work, known))
    return [work for work in waiting if not _are_in(work, known)]
