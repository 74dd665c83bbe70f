"""The storage folder: where it is, who may read it, and how a step's output comes to stand in it, whole or not."""

import contextlib
import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from mimic_qlora.step import files
from mimic_qlora.step.errors import UpToDate, UserError
from mimic_qlora.step.files import digest, file_sha256, write_json
from mimic_qlora.step.version import VERSION

SCHEMA_VERSION = 1
RUN_ID = ".run.json"  # in a folder being written: which run it belongs to

# Which command leaves which folder: what an error message tells the user to run.
COMMANDS = {
    "subjects": "python convert_to_jsonl.py",
    "summary": "python summarize_jsonl.py",
    "features": "python feature_select_xgb_columns.py",
    "prompts": "python make_symptom_prompts_ctx_dxpx.py",
    "adapters": "python train_qlora.py",
    "qa": "python qa_by_subject.py",
    "validation": "cd run_files && ./run.sh",
}


def open_storage(argument: str | None = None, create: bool = False) -> Path:
    """The storage folder, readable by its owner alone. Raises UserError when it is missing and not to be made."""
    path = Path(argument or os.environ.get("STORAGE_DIR") or "storage").expanduser().resolve()
    if path.exists() and not path.is_dir():
        raise UserError(f"the storage folder {path} is a file: give another one with --storage")
    if not path.exists() and not create:
        raise UserError(
            f"there is no storage folder {path}: run `{COMMANDS['subjects']}` first or give --storage"
        )
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):
        path.chmod(0o700)
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(
            f"the storage folder {path} cannot be written: give another one with --storage"
        )
    return path


def command_for(step: str) -> str:
    return COMMANDS[step.split("/")[0]]


def read_manifest(storage: Path, step: str) -> dict:
    """The manifest of an earlier step.

    Raises UserError, naming the command to run, when the step is missing or damaged, was written by another schema
    version, or rests on an earlier step that has changed since.
    """
    place = storage / step
    if not place.exists() and _previous(place).exists():
        with locked(place, step):
            recover(place)
    path = place / "manifest.json"
    if not path.exists():
        raise UserError(f"{place} is missing: run `{command_for(step)}` first")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, inputs = manifest["schema_version"], manifest["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} cannot be read: run `{command_for(step)} --force` to write it anew"
        ) from None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{place} has schema version {version}, this software reads {SCHEMA_VERSION}: "
            f"run `{command_for(step)} --force`"
        )
    if damaged := damaged_files(place, manifest):
        raise UserError(
            f"{damaged[0]} is missing or was changed since it was written ({len(damaged):,} such in {place}): "
            f"run `{command_for(step)}` to write it anew"
        )
    for name, recorded in inputs.items():
        if (
            name.split("/")[0] in COMMANDS
            and recorded
            and read_manifest(storage, name)["id"] != recorded
        ):
            raise UserError(
                f"{place} was made from an older {name}: run `{command_for(step)}` again"
            )
    return manifest


def written(path: Path, folder: Path) -> dict:
    """What a manifest says of a file of its folder: its size and, unless it is one of many parts, its SHA-256 sum."""
    stat = path.stat()
    whole = (
        {"sha256": _sha256(path, stat.st_size, stat.st_mtime_ns)} if path.parent == folder else {}
    )
    return {"bytes": stat.st_size, **whole}


@functools.cache
def _sha256(
    path: Path, n_bytes: int, mtime_ns: int
) -> str:  # one run asks for the same file many times
    return file_sha256(path)


def damaged_files(place: Path, manifest: dict) -> list:
    """The files of a step's folder that are gone or not what the manifest says."""
    files = {place / name: recorded for name, recorded in manifest.get("files", {}).items()}
    return [
        path
        for path, recorded in files.items()
        if not path.is_file() or written(path, place) != recorded
    ]


def _previous(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def recover(place: Path) -> None:
    """Put back the previous output if a run was killed between the two renames of `replace_folder`.

    For who holds the step's lock: to anyone else a run that is between the two renames just now looks like a dead one.
    """
    old = _previous(place)
    if old.exists():
        if place.exists():
            shutil.rmtree(old)
        else:
            old.rename(place)


def replace_folder(temp: Path, place: Path) -> None:
    """Put `temp` in the place of `place`; at any moment one whole folder can be found (see `recover`)."""
    old = _previous(place)
    recover(place)
    if place.exists():
        place.rename(old)
    temp.rename(place)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def locked(place: Path, step: str) -> Iterator[None]:
    """Hold the lock of a step's folder. The system releases it when the process ends, even killed.

    Raises UserError if another run holds it.
    """
    from filelock import FileLock, Timeout  # 50 ms that `--help` need not wait for

    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(place.with_name(f".{place.name}.lock"), timeout=0, mode=files.PRIVATE)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another run of `{command_for(step)}` is writing {place}: wait for it or stop it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def new_manifest(step: str, settings: dict, inputs: dict) -> dict:
    """A manifest whose `id` names the content: equal settings, inputs and software give an equal id."""
    identity = {
        "step": step,
        "schema_version": SCHEMA_VERSION,
        "software": VERSION,
        "settings": settings,
        "inputs": inputs,
    }
    return {"id": digest(identity), **identity}


def is_up_to_date(place: Path, manifest: dict) -> bool:
    try:
        found = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        if found["id"] != manifest["id"]:
            return False
    except (OSError, ValueError, KeyError):
        return False
    if damaged := damaged_files(place, found):
        print(
            f"{damaged[0]} is missing or was changed since it was written: the step is done again",
            flush=True,
        )
    return not damaged


def versions() -> dict:
    """The versions of Python and of the libraries that shape a result."""
    from importlib.metadata import distributions

    wanted = {
        "pyarrow",
        "pandas",
        "duckdb",
        "xgboost",
        "torch",
        "transformers",
        "peft",
        "bitsandbytes",
        "accelerate",
    }
    found = {d.name: d.version for d in distributions() if d.name in wanted}
    return {"python": sys.version.split()[0], **dict(sorted(found.items()))}


def finish_manifest(folder: Path, manifest: dict, started: float) -> dict:
    """Add what does not belong to the identity: which files are in the folder, when, how long, with which libraries."""
    (folder / ".manifest.json.new").unlink(
        missing_ok=True
    )  # all that a kill while it was written left
    for_people = {RUN_ID, "README.md"}  # into a card they may write
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in for_people
    )
    return {
        **manifest,
        "files": {path.relative_to(folder).as_posix(): written(path, folder) for path in files},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(time.time() - started, 1),
        "versions": versions(),
    }


@contextlib.contextmanager
def step_output(
    storage: Path,
    step: str,
    settings: dict,
    inputs: dict,
    force: bool = False,
    resumable: bool = False,
):
    """A folder to write a step's output into; it takes its place, with a manifest, only when the block ends well.

    `inputs` maps the name of an earlier step to its manifest id, or any other name to what identifies that input.
    Yields an object with `path` (fresh, private) and `manifest` (a dict to add counts to).
    With `resumable`, what a killed or interrupted run of the same content had written is still in `path`; the step
    says itself which of it is whole.
    Raises UpToDate when the place already holds the output of an equal run and `force` is not given.
    """
    place = storage / step
    with locked(place, step):
        recover(place)
        manifest = new_manifest(step, settings, inputs)
        if not force and is_up_to_date(place, manifest):
            raise UpToDate(f"{place} is up to date (--force redoes it)")
        temp = place.with_name(f".{place.name}.partial")
        if not (resumable and _interrupted_run(temp) == manifest["id"]):
            shutil.rmtree(temp, ignore_errors=True)
            temp.mkdir(mode=0o700)
            write_json(temp / RUN_ID, manifest["id"])
        started = time.time()
        try:
            output = SimpleNamespace(path=temp, manifest=manifest)
            yield output
            write_json(temp / "manifest.json", finish_manifest(temp, output.manifest, started))
            (temp / RUN_ID).unlink()
            replace_folder(temp, place)
        except BaseException as error:
            if not resumable or isinstance(error, UserError):
                shutil.rmtree(temp, ignore_errors=True)
            raise


def _interrupted_run(temp: Path) -> str | None:
    try:
        return json.loads((temp / RUN_ID).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def data_line(manifest: dict) -> str:
    """One line that says which data a run works on, from the manifest of step 1."""
    source = manifest["source"]
    if source["kind"] == "synthetic":
        return f"Data: built-in synthetic MIMIC-IV, {source['patients']:,} patients: for trying out, never for results"
    return f"Data: {source['version']} in {source['folder']}, {source['patients']:,} patients"
