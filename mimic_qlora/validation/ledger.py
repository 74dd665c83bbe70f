"""The ledger: which plan was frozen, each look at validation patients, and when the test patients
were opened.

Each line holds its number and the hash of the one before, and the head, which is kept apart in the
storage folder, the number of lines and the hash of the last: no line can be changed or taken away
unseen.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mimic_qlora.step import files, locks
from mimic_qlora.step.errors import UserError

HEAD = ".ledger-head.json"
WAIT = 60.0  # seconds that a run waits for another one's line
Entry = dict[str, Any]  # see _Line


class _Line(BaseModel):
    """The fields that each line has; `adapters` maps a run to its weights' hash when opened."""

    model_config = ConfigDict(strict=True)

    event: str  # "frozen", "opened" or "looked"; with the hash of the `content`, but in old ones
    time: str  # ISO 8601
    plan_sha256: str  # "" of a look without a plan
    before: str  # hash of the line before, "" in the first


class Head(BaseModel):
    """The number of lines of the ledger and the hash of the last one."""

    model_config = ConfigDict(strict=True)

    lines: int
    sha256: str


def path_of(store: Path) -> Path:
    """Return the place of the ledger."""
    return store / "validation" / "ledger.jsonl"


def ledger(store: Path) -> list[Entry]:
    """Return the entries, oldest first.

    Raises UserError at the first line that does not hold the hash of the one before, and when lines
    are gone, or the disk that a link leads to.
    """
    files.check_link(store / "validation")
    path, head = path_of(store), _head(store)
    before, entries = "", []
    lines = _lines(path, head)
    for number, line in enumerate(lines, 1):
        entry = _entry(line)
        if entry is None or entry["before"] != before:
            raise _edited(store, f"was edited at line {number}")
        entries.append(entry)
        before = _sha256(line)
    # a run that was killed between the two writes leaves one line more than the head tells
    if head is None and any(entry.get("line") for entry in entries):
        raise _edited(store, f"has lost its head ({store / HEAD}), which counts its lines")
    if head and (len(lines) < head.lines or head.sha256 != _sha256(*lines[: head.lines][-1:])):
        raise _edited(store, f"has {len(lines)} lines and not the {head.lines} that were written")
    return entries


def alone(store: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the ledger, for which runs of other adapters wait: each takes it for a moment."""
    files.private_folder(store / "validation")
    return locks.hold(path_of(store), "cd run_files && ./run.sh", wait=WAIT)


def _settled(store: Path) -> list[Entry]:
    """Return the ledger, which this process holds, once its head tells of a killed run's line."""
    entries, head = ledger(store), _head(store)
    if head and head.lines < len(entries):
        _write_head(store, _lines(path_of(store), head))
    return entries


def _write_head(store: Path, lines: Sequence[bytes]) -> None:
    files.write_json(store / HEAD, {"lines": len(lines), "sha256": _sha256(*lines[-1:])})


def enter(store: Path, event: str, **facts: object) -> None:
    """Add a line to the ledger. Raises UserError when it was edited."""
    with alone(store):
        _settled(store)
        _enter(store, event, **facts)


def _enter(store: Path, event: str, **facts: object) -> None:
    """Add a line to the ledger, which this process holds, and which is whole."""
    path, lines = path_of(store), _lines(path_of(store), _head(store))
    before = _sha256(*lines[-1:])
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    if _head(store) is None:  # before a line with a number, which earlier versions did not write
        _write_head(store, lines)
    number = len(lines) + 1
    entry = {"line": number, "event": event, "time": now, **facts, "before": before}
    line = json.dumps(entry).encode()
    whole = b"".join(one + b"\n" for one in lines)
    if path.is_file() and path.read_bytes() != whole:  # a line that a killed run left unfinished
        files.atomic_write(path, whole)
    with open(path, "ab") as file:
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    _write_head(store, [*lines, line])


def opening(store: Path, sha256: str, adapters: Mapping[str, str], content: str) -> str:
    """Enter that the test patients are opened under this plan, by adapters with these hashes, with
    the questions and rules of the hash `content`.

    Returns a sentence for the results that says how often they were opened before. The same plan
    with the same adapters and content, resumed or done again, opens nothing new.
    """
    this: Entry = {"plan_sha256": sha256, "adapters": dict(adapters), "content": content}
    with alone(store):
        before = [e for e in _settled(store) if e["event"] == "opened"]
        if not any(_is_of(e, this) for e in before):
            _enter(store, "opened", **this)
    others = [e for e in before if not _is_of(e, this)]
    plan = f"Test patients, by the plan {sha256[:12]} frozen before"
    if not others:
        return f"{plan}; they were not opened under another plan or for another adapter."
    return (
        f"{plan}, but they had been opened before under another plan, with other questions or "
        f"rules, or for another adapter ({len(others)} in the ledger, first on "
        f"{others[0]['time'][:10]}): read this as exploration, not as a test."
    )


def opened_otherwise(store: Path, sha256: str, content: str) -> list[Entry]:
    """Return the openings under another plan than this, or with other questions or rules."""
    opened = [entry for entry in ledger(store) if entry["event"] == "opened"]
    this = {"plan_sha256": sha256, "content": content}
    return [entry for entry in opened if not _is_of(entry, this)]


def looked(
    store: Path, adapters: Mapping[str, str], trials: Mapping[str, object], content: str
) -> str:
    """Enter that validation patients were looked at, with these adapters, trials and content.

    Returns a sentence that says the how manieth look it is. The same once more shows nothing new.
    """
    this: Entry = {"plan_sha256": "", "adapters": dict(adapters), "trials": dict(trials)}
    this["content"] = content
    with alone(store):
        before = [e for e in _settled(store) if e["event"] == "looked"]
        place = next((n for n, e in enumerate(before, 1) if _is_of(e, this)), None)
        if place is None:
            _enter(store, "looked", **this)
            place = len(before) + 1
    return (
        f"No frozen plan: look {place} at validation patients (ledger). What is chosen after "
        "several looks is fitted to them."
    )


def _is_of(entry: Entry, this: Entry) -> bool:
    """Tell whether an entry is of the same as this one; earlier versions noted no content."""
    return {"content": this["content"], **entry}.items() >= this.items()


def _lines(path: Path, head: Head | None) -> list[bytes]:
    """Return the lines, without one that a killed run left unfinished after those of the head."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    unfinished = lines.pop()
    if unfinished and (head is None or len(lines) < head.lines):
        lines.append(unfinished)
    return lines


def _entry(line: bytes) -> Entry | None:
    """Return the content of a line; None if it is none of a ledger."""
    try:
        found = json.loads(line)
        _Line.model_validate(found)
    except (ValueError, RecursionError):  # among them ValidationError and UnicodeDecodeError
        return None
    return dict(found)


def _head(store: Path) -> Head | None:
    """Return the head; None where there is none, as in folders of earlier versions.

    Raises UserError when it cannot be read.
    """
    try:
        return Head.model_validate_json((store / HEAD).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise _edited(store, f"has no head that can be read ({store / HEAD})") from None


def _sha256(*line: bytes) -> str:
    """Return the hash of a line, "" of none."""
    return hashlib.sha256(line[0]).hexdigest() if line else ""


def _edited(store: Path, how: str) -> UserError:
    return UserError(
        f"{path_of(store)} {how}: put the original back, or say so in your report and begin anew "
        f"without it and {store / HEAD}"
    )
