"""The storage folder: where it is, and how a step's output takes its place there, whole or not.

While a run writes, its output is in `.<step>.partial`; at the end that folder is renamed. A lock
beside it keeps a second run of the step out.
"""

import atexit
import contextlib
import os
import shlex
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from mimic_qlora.step import faults, files, locks, step_commands
from mimic_qlora.step.errors import GoesOn, UpToDate, UserError
from mimic_qlora.step.files import (
    gathered,
    is_folder_name,
    linked_place,
    misfits,
    partial_of,
    put_aside,
    read_json,
    write_json,
)
from mimic_qlora.step.manifests import (
    NAME,
    RUN_ID,
    SCHEMA_VERSION,
    FinishedManifest,
    Manifest,
    adapters_on,
    check_readable,
    damaged_adapters,
    damaged_files,
    finish_manifest,
    is_same_run,
    new_manifest,
    read,
    unrecorded_files,
    up_to_date,
)
from mimic_qlora.step.plain_text import is_whole
from mimic_qlora.step.step_commands import COMMANDS, command_for, step_1

UNDER_ADAPTERS = ("subjects", "features", "prompts", "canaries")  # steps on which adapters rest


@dataclass(frozen=True, slots=True)
class StepOutput:
    """A folder that a step writes its output into."""

    path: Path  # private; empty, or what an interrupted run of the same content left
    manifest: Manifest
    facts: dict[str, Any] = field(default_factory=dict)  # counts and the like, for the manifest


def open_storage(
    argument: str | None = None, create: bool = False, checkout: Path | None = None
) -> Path:
    """Return the storage folder. One that is made is readable by its owner alone.

    Where it is: see `files.storage_path`.
    A folder that was there keeps its mode; what the steps put into it is private all the same. One
    that is made goes at the end of the process if nothing was put into it: the command was refused.
    Raises UserError if it is missing and not to be made, is another user's, or cannot be written,
    or if every user can write to it: they could replace what the steps leave.
    """
    path = files.storage_path(argument, checkout)
    if not is_whole(str(path)):  # DuckDB opens no such path
        raise UserError(
            f"the path of the storage folder {path} is not text in this locale: "
            "set LC_ALL=C.UTF-8, or give another one with --storage"
        )
    if "::" in str(path):  # datasets would write outside of it, and read one split for another
        raise UserError(
            f"the path of the storage folder {path} holds `::`, which stands for a chain of file "
            "systems: give another one with --storage"
        )
    if any(ord(c) < ord(" ") for c in str(path)):  # no message could tell where the output is
        raise UserError(
            f"the path of the storage folder {path} holds a control character, as a settings file "
            "with the line ends of Windows (\\r\\n) leaves at its end: give it without"
        )
    if path.exists() and not path.is_dir():
        raise UserError(f"the storage folder {path} is a file: give another one with --storage")
    if not path.exists() and not create:
        named = os.environ.get("STORAGE_DIR", "")
        relative = argument is None and named and not os.path.isabs(files.given_path(named))
        where = f" (STORAGE_DIR is '{named}', from the folder you are in)" if relative else ""
        raise UserError(
            f"there is no storage folder {path}{where}: run `{step_1(path)}` first or give "
            "--storage"
        )
    if not path.exists():
        new = [one for one in (path, *path.parents) if not one.exists()]
        with contextlib.suppress(FileExistsError):  # another step was quicker
            path.mkdir(mode=0o700, parents=True)
        atexit.register(_remove_empty, new)
    check_owner(path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(
            f"the storage folder {path} cannot be written: give another one with --storage"
        )
    faults.remember_storage(path)
    step_commands.remember_storage(path)
    return path


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that are empty, each before the one around it."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def check_owner(path: Path) -> None:
    """Raise UserError if the storage folder is another user's, or open to all users' writing."""
    if not hasattr(os, "getuid"):  # Windows has no such modes
        return
    status = path.stat()
    own = "give a folder of your own with --storage"
    if status.st_uid != os.getuid():
        raise UserError(f"the storage folder {path} belongs to another user: {own}")
    if status.st_mode & stat.S_IWOTH:
        close = f", or run `chmod 700 {shlex.quote(str(path))}` if nobody else uses it"
        if status.st_mode & stat.S_ISVTX:  # as /tmp, which others do use
            close = ""
        raise UserError(
            f"every user of this machine can write to the storage folder {path}: {own}{close}"
        )


def verified_manifest(
    storage: Path, step: str, kind: type[FinishedManifest] = FinishedManifest
) -> FinishedManifest:
    """Return the manifest of an earlier step after checking that its folder can be relied on.

    All its files must be as they were written, and so must the earlier steps that it rests on.
    Raises UserError, with the command to run, if the step is missing, damaged, older than a step
    that it rests on, of another schema version, or if its manifest has not the shape of `kind`.
    """
    place = files.output_place(storage, step)
    if not place.exists() and _previous(place).exists():
        with locked(place, step):
            recover(place)
    manifest = _read(place, step, kind)
    if damaged := damaged_files(place, manifest):
        raise UserError(
            f"{damaged[0]} is missing or was changed since it was written "
            f"({len(damaged):,} such in {place}): run `{command_for(step)}` to write it again"
        )
    for name, recorded in manifest["inputs"].items():
        is_step = name.split("/")[0] in COMMANDS
        if is_step and recorded and verified_manifest(storage, name)["id"] != recorded:
            raise UserError(
                f"{place} was made from an older version of {name}: run `{command_for(step)}` again"
            )
    return manifest


def check_adapters(storage: Path, runs: Sequence[str]) -> None:
    """Raise UserError when an adapter of step 5 is missing or stale; name the others where there
    are any.
    """
    found = [path.parent.name for path in (storage / "adapters").glob(f"[!.]*/{NAME}")]
    there = sorted(filter(is_folder_name, found))
    for run in runs:
        if there and run not in there and not (storage / "adapters" / run).exists():
            train = f"run `{command_for(f'adapters/{run}')}` first"
            raise UserError(
                f"there is no adapter '{run}': give --run {' or '.join(there)}, or {train}"
            )
        verified_manifest(storage, f"adapters/{run}")


def _read(place: Path, step: str, kind: type[FinishedManifest]) -> FinishedManifest:
    """Return the manifest in a step's folder. Raises UserError if it cannot be read."""
    path = place / NAME
    if not path.exists():
        missing = path if place.is_dir() else place
        raise UserError(f"{missing} is missing: run `{command_for(step)}` first")
    try:
        manifest = read_json(path)
        version = manifest["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if faults.of_the_machine(error):
            raise
        raise UserError(
            f"{path} cannot be read: run `{command_for(step)} --force` to write it again"
        ) from None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{place} has schema version {version}, this software reads {SCHEMA_VERSION}: "
            f"run `{command_for(step)} --force`"
        )
    if wrong := misfits(manifest, kind):
        raise damaged_manifest(path, wrong, step)
    if manifest["step"].split("/")[0] != step.split("/")[0]:  # which may rest on this one
        raise UserError(
            f"{place} holds the output of {manifest['step']}: move it away, then run "
            f"`{command_for(step)}`"
        )
    return cast(FinishedManifest, manifest)


def damaged_manifest(path: Path, wrong: Sequence[str], step: str) -> UserError:
    """Return the error of a manifest whose parts `wrong` are missing or not as they were written.

    Nothing of what they hold is told.
    """
    return UserError(
        f"{path} cannot be read, as its {' and '.join(wrong)} is missing or of another kind: run "
        f"`{command_for(step)} --force` to write it again"
    )


def _previous(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def recover(place: Path) -> None:
    """Bring a run to its end that was killed as its output, whole, was to take its place.

    Call only while holding the step's lock. Without it, a run that is between its two renames
    looks like one that was killed.
    """
    _put_back(place)
    temp = partial_of(place)
    whole = None if (temp / RUN_ID).exists() else read(temp)
    if whole and not damaged_files(temp, whole):
        replace_folder(temp, place)


def _put_back(place: Path) -> None:
    """Put the previous output back if a run was killed between the renames of `replace_folder`."""
    old = _previous(place)
    if old.exists():
        if place.exists():
            _retire(old, place)
        else:
            old.rename(place)


def replace_folder(temp: Path, place: Path) -> None:
    """Put `temp` in the place of `place`. A kill leaves one whole folder (see `recover`).

    A folder that no step wrote, by its name or by a link in its place, is kept beside it.
    """
    old = _previous(place)
    _put_back(place)
    if place.exists():
        place.rename(old)
    temp.rename(place)
    _retire(old, place)


def _retire(old: Path, place: Path) -> None:
    """Remove the previous output of a step. Of what no step has a record may be somebody's work: it
    stays.

    A user's own folder may have a step's name, a link in the place of one may lead to it, and notes
    may lie beside what a step wrote.
    """
    is_folder = old.is_dir() and not old.is_symlink()
    # without a manifest that can be read it is not known which files are a step's
    is_output = is_folder and read(old) is not None
    kept = None
    if is_folder and not is_output and any(old.iterdir()):
        kept = put_aside(old, place)
    elif is_output and (notes := unrecorded_files(old)):
        try:
            kept = gathered(notes, old, place)
        except OSError:  # a folder of another user's in it, or no room for a new one
            kept = put_aside(old, place)
    _remove(old)
    if kept:
        print(f"note: {place} held files that were added or edited: they are now in {kept}")


def _remove(path: Path) -> None:
    """Remove a folder, or a link to one, if it is there.

    Its manifest goes last: what a kill leaves of an output is known as one.
    """
    if path.is_symlink():
        path.unlink()
        return
    with contextlib.suppress(OSError):  # it is not there, or another user's
        for inside in path.iterdir():
            if inside.is_dir() and not inside.is_symlink():
                shutil.rmtree(inside, ignore_errors=True)
            elif inside.name != NAME:
                inside.unlink()
    shutil.rmtree(path, ignore_errors=True)


def locked(place: Path, step: str) -> contextlib.AbstractContextManager[None]:
    """Hold the lock of a step's folder. The system releases it when the process ends, even killed.

    Raises UserError if another run holds it.
    """
    faults.remember_folder(place.parent)  # a link or a mount may lead to another disk
    # step 1 also writes the built-in data, which is no step
    return locks.hold(place, COMMANDS.get(step.split("/")[0], COMMANDS["subjects"]))


@contextlib.contextmanager
def step_output(
    storage: Path,
    step: str,
    settings: dict[str, Any],
    inputs: dict[str, Any],
    force: bool = False,
    resumable: bool = False,
) -> Iterator[StepOutput]:
    """Yield a folder for a step's output; it takes its place only when the block ends well.

    `inputs` maps the name of an earlier step to its manifest's id, or any other name to what
    identifies that input. With `resumable`, the folder holds what an interrupted run of the same
    content had written; the step itself knows which of it is whole.
    Raises UpToDate if the place already holds the output of an equal run, unless `force` is given.
    """
    place = files.output_place(storage, step)
    with locked(place, step):
        recover(place)
        refuse_other_output(storage, step)
        manifest = new_manifest(step, settings, inputs)
        if not force:
            check_readable(place)
            stop_if_up_to_date(place, manifest)
        if not is_same_run(read(place) or {}, manifest):
            say_orphaned(storage, step)
        temp = partial_of(place)
        stopped = (interrupted_run(place) if resumable else None) or {}
        if stopped.get("id") != manifest["id"]:
            why = "it has other settings or inputs" if stopped else ""
            if resumable and is_unrecorded(place):
                why = f"its record ({RUN_ID}) is gone or damaged"
            if why:
                print(f"note: {temp} of a stopped run goes, as {why}", flush=True)
            _remove(temp)
            _begin(temp, manifest)
        started = time.time()
        output = StepOutput(temp, manifest)
        try:
            yield output
            told = {**output.manifest, **output.facts}
            finished = finish_manifest(temp, told, started, place)
            output.manifest["id"] = finished["id"]
            write_json(temp / NAME, finished)
            (temp / RUN_ID).unlink()
            replace_folder(temp, place)
        except BaseException as error:
            full = faults.full_disk(error) if faults.is_full(error) else ""
            ended = isinstance(error, UserError) and not isinstance(error, GoesOn)
            if not resumable or ended:
                _remove(temp)
            if full:  # which disk it was can be seen until now alone
                raise UserError(full) from error
            raise


def refuse_other_output(storage: Path, step: str) -> None:
    """Raise UserError where a step would write over the output of another, by a link or a copy."""
    other = (read(storage / step) or {}).get("step")
    if isinstance(other, str) and other.split("/")[0] != step.split("/")[0]:
        raise UserError(
            f"{storage / step} holds the output of {other}, which would be replaced: move it away, "
            "or remove the link if it is one"
        )


def _begin(temp: Path, manifest: Manifest) -> None:
    """Make the folder of a run that begins; nothing of it stays where its disk is full."""
    temp.mkdir(mode=0o700)
    try:
        write_json(temp / RUN_ID, manifest)
    except BaseException:
        _remove(temp)
        raise


def stop_if_up_to_date(place: Path, manifest: Manifest) -> None:
    """Raise UpToDate when a step's folder holds what this run would write.

    Its manifest then gets the paths and times at which the inputs were found.
    """
    found = up_to_date(place, manifest)
    if found is None:
        return
    if found != read(place):
        write_json(place / NAME, found)
    raise UpToDate(f"{place} is up to date (--force redoes it)")


def say_orphaned(storage: Path, step: str) -> None:
    """Say which adapters rest on the output of a step that a run is about to replace.

    By a link it may be another storage folder's.
    """
    place = linked_place(storage / step)
    if place != storage / step and read(place):
        others = adapters_on(place.parent, step)
        whose = f", on which the adapters {', '.join(others)} of {place.parent} rest" * bool(others)
        print(f"note: {storage / step} is a link, and this run replaces {place}{whose}", flush=True)
    if step in UNDER_ADAPTERS and read(place) and (damaged := damaged_adapters(storage)):
        print(
            f"note: {', '.join(damaged)} in {storage / 'adapters'} (damaged manifest) may rest on "
            f"the {step} that this run replaces: to keep both, stop and give another --storage",
            flush=True,
        )
    if not (found := adapters_on(storage, step)):
        return
    which = f"the adapter {found[0]} was"
    if len(found) > 1:
        which = f"the adapters {', '.join(found)} were"
    print(
        f"note: {which} trained on the {step} that this run replaces, and steps 6 and 7 refuse an "
        "adapter beside others: to keep it in use, stop and give another --storage",
        flush=True,
    )


def interrupted_run(place: Path) -> dict[str, Any] | None:
    """Return the manifest of the run that left a partial folder; None if nothing can go on from it.

    Of a run of an earlier version it holds the id alone. Raises OSError where it cannot be read
    now.
    """
    try:
        found = read_json(partial_of(place) / RUN_ID)
    except (OSError, ValueError) as error:
        if faults.of_the_machine(error):
            raise
        return None
    found = found if isinstance(found, dict) else {"id": found}
    return found if isinstance(found.get("id"), str) else None


def is_unrecorded(place: Path) -> bool:
    """Tell whether a stopped run left work from which none goes on, as its record is damaged."""
    left = partial_of(place).glob("[!.]*")
    return interrupted_run(place) is None and any(left)
