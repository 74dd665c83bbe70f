"""What can be removed: old results in /tmp, what dead runs left, what audits read, copies of the
embedded model.
"""

import os
import shutil
import stat
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mimic_qlora.llm.embedded import EMBEDDED, is_as_converted
from mimic_qlora.review import database
from mimic_qlora.step import step_commands, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import file_sha256
from mimic_qlora.step.manifests import read
from mimic_qlora.study import running_now
from mimic_qlora.study.state import folder_bytes, is_left_over
from mimic_qlora.training.memorisation import audited
from mimic_qlora.validation import delivery, results

_RESULTS, _DEAD = "copies of results of step 7", "folders of runs that ended before their time"
_DIFFERENT = "results of step 7 that differ from those in the storage folder"
_STOPPED = "answers of step 6's --batch that was stopped"
_AUDITS = "what audits read and their controls (made again when needed)"
_MODELS = "copies of the embedded model (made again when needed)"
_BY_RUN = ("adapters", "exports", "privacy")  # a folder for each run
_AT_TOP = (*step_commands.COMMANDS, "synthetic")  # what steps write into the storage folder itself
_LEAST_AGE = 600  # seconds; a run that goes on may be about to write it
_OF_KILLED = (".training-prompts.", ".canaries.")  # begin the names of folders of single commands
_LONGEST = 3600  # seconds that such a folder may be in use
_COPYING = 60  # seconds between two files of one copy at most


@dataclass(frozen=True)
class Leftover:
    """A folder or file that can be removed; `note` says what is lost with it."""

    kind: str
    path: Path
    bytes: int
    age: float  # seconds since it was changed last
    note: str = ""


def of_storage(store: Path) -> list[Leftover]:
    """Return what can be removed, of all storage folders in /tmp and of this one elsewhere."""
    model = store / "models" / EMBEDDED
    note = "" if is_as_converted(model) else "weights that no sum shows to be a copy: yours, or old"
    models = _leftovers(_MODELS, [model], note)
    return [*_results(store), *_dead(store), *_stopped(store), *_of_audits(store), *models]


def _results(store: Path) -> list[Leftover]:
    """Return the copies of results in /tmp that are this user's, of whichever storage folder."""
    temporary = delivery.TEMPORARY or Path(tempfile.gettempdir())
    kept: dict[str, list[Path]] = {}
    try:
        there = results.in_order(store)
    except UserError:  # their disk is away: of no copy can be said that they are kept
        return []
    for made in there:
        kept.setdefault(_sum_of(made), []).append(made)
    return [
        _compared(one, kept.get(_sum_of(one.path), []))
        for one in _leftovers(_RESULTS, sorted(temporary.glob("mimic_qlora_*")))
        if one.age > _LEAST_AGE and _is_copy(one.path)
    ]


def _compared(one: Leftover, kept: list[Path]) -> Leftover:
    """Return a copy with what is lost with it; `kept` are the results with the same answers.

    Times do not tell who filled label.csv: `scp -r` gives all files one time.
    """
    if not kept:
        note = "the results, unless they are in another storage folder: they are not in this one"
        return replace(one, kind=_DIFFERENT, note=note)
    names = sorted(path.name for path in one.path.iterdir())
    own = [n for n in names if not any(delivery.is_same(one.path / n, made / n) for made in kept)]
    note = f"{', '.join(own)}, which the results in the storage folder have otherwise or not at all"
    return replace(one, kind=_DIFFERENT, note=note) if own else one


def _sum_of(made: Path) -> str:
    """Return the SHA-256 of the table of some results, which nobody edits; "" of none."""
    with suppress(OSError):
        return file_sha256(made / "output.csv")
    return ""


def _is_copy(folder: Path) -> bool:
    """Tell whether a folder holds a copy of results, into which nobody has written since.

    A user may have given such a name to a folder, or have filled label.csv or rated in a copy.
    """
    try:
        status = {path.name: path.lstat() for path in folder.iterdir()}
    except OSError:
        return False
    written = [one.st_mtime for one in status.values()]
    is_flat = all(stat.S_ISREG(one.st_mode) for one in status.values())
    is_rated = any(name.startswith(database.FILE) for name in status)
    is_whole = is_flat and "output.csv" in status and not is_rated
    return is_whole and max(written) - min(written) < _COPYING


def _dead(store: Path) -> list[Leftover]:
    """Return the partial folders that no run writes any more."""
    found = []
    for parent in (store, *(store / name for name in _BY_RUN)):
        for path in sorted(parent.glob(".*")):
            name, _, end = path.name[1:].rpartition(".")
            if parent == store and name not in _AT_TOP:  # a folder of the user's own
                continue
            if end in ("partial", "training") and not running_now.holder(parent / name):
                note = "what it has done so far; the same command would go on from it"
                if end == "training" and is_left_over(parent / name, read(parent / name) or {}):
                    note = "nothing: its adapter is finished"
                found += _leftovers(_DEAD, [path], note)
    for name in _OF_KILLED:
        old = _leftovers(_DEAD, sorted(store.glob(f"{name}*")), "nothing: it is made again")
        found += [one for one in old if one.age > _LONGEST]
    partial = sorted((store / "validation").glob(".*.partial"))
    note = "half a report; the answers are kept, and the same command makes it anew"
    return found + [one for one in _leftovers(_DEAD, partial, note) if one.age > _LEAST_AGE]


def _stopped(store: Path) -> list[Leftover]:
    """Return the journals of batches that no run goes on with."""
    note = "what was answered so far; the same command would go on from it"
    found = _leftovers(_STOPPED, sorted((store / "qa" / ".answers").glob("*.jsonl")), note)
    return [one for one in found if not running_now.holder(one.path)]


def _of_audits(store: Path) -> list[Leftover]:
    """Return what audits left beside their pages, while none runs."""
    folder = store / "privacy"
    if any(running_now.holder(folder / run) for run in _locked_in(folder)):
        return []
    note = "hours of reading and training, if the same adapter is audited again"
    paths = [folder / audited.READINGS, *sorted(folder.glob(f"{audited.CONTROL}*"))]
    return _leftovers(_AUDITS, paths, note)


def _locked_in(folder: Path) -> list[str]:
    return [path.name[1:].removesuffix(".lock") for path in folder.glob(".*.lock")]


def _leftovers(kind: str, paths: list[Path], note: str = "") -> list[Leftover]:
    """Return the folders and files of these paths that are this user's own."""
    found = []
    for path in paths:
        try:
            status = path.lstat()
        except OSError:
            continue
        own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        is_wanted = stat.S_ISREG if kind == _STOPPED else stat.S_ISDIR
        if own and is_wanted(status.st_mode):
            age = time.time() - status.st_mtime
            size = folder_bytes(path) if path.is_dir() else status.st_size
            found.append(Leftover(kind, path, size, age, note))
    return found


def remove(one: Leftover) -> None:
    """Remove a leftover. Raises UserError if a run has begun to write it, or if it cannot be."""
    parent, name = one.path.parent, one.path.name[1:].rpartition(".")[0]
    if one.kind == _STOPPED:
        with storage.locked(one.path, "qa"):
            for path in parent.glob(f"{one.path.stem}.*"):
                _remove(path)
            with suppress(OSError):  # Windows removes no open file
                one.path.with_name(f".{one.path.name}.lock").unlink()
    elif one.kind == _AUDITS:
        with ExitStack() as held:  # an audit that has begun since would lose what it reads
            for run in _locked_in(parent):
                held.enter_context(storage.locked(parent / run, f"privacy/{run}"))
            _remove(one.path)
    elif one.kind == _DEAD and parent.name != "validation":
        step = (
            f"{parent.name}/{name}" if parent.name in ("adapters", "exports", "privacy") else name
        )
        with storage.locked(parent / name, step):
            _remove(one.path)
    else:
        _remove(one.path)


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        # shutil gives the name of a file without its folder
        inside = f"{name}: " if (name := error.filename) not in (None, path, str(path)) else ""
        raise UserError(f"{path} cannot be removed ({inside}{error.strerror})") from None
