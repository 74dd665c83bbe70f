"""Manifests: what identifies the content of a step's folder, and which files it holds.

The `id` of a finished manifest names the content: a hash of the files (docs/data_contract.md, "What
identifies an output"). A step is skipped when its folder is of the same run: equal settings, inputs
and software, paths and times apart.
"""

import functools
import hashlib
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TypedDict

from mimic_qlora.step import faults
from mimic_qlora.step.files import (
    check_link,
    digest,
    file_sha256,
    misfits,
    read_json,
    read_kept,
    read_object,
    unchanged_sha256,
)
from mimic_qlora.step.plain_text import inline
from mimic_qlora.step.version import VERSION

NAME = "manifest.json"
RUN_ID = ".run.json"  # in a folder that is being written: the id of the run that writes it
SCHEMA_VERSION = 1
STUDY = "MIMIC_QLORA_STUDY"  # variable: the copy of the study file under which the steps run
STUDY_HASH = 12  # digits of its SHA-256 sum, at the end of the copy's name

_CARD = "README.md"
_FOR_PEOPLE = (RUN_ID, _CARD)  # users may edit the card, and the manifest still holds
_BESIDE = (_CARD, "audit.json")  # of a step, and not among the files of its manifest
_LITTER = re.compile(
    r"__pycache__|\.ipynb_checkpoints|\.DS_Store|\._.*|\.nfs.*|\.fuse_hidden.*|\.directory"
    r"|\..*\.(sw[a-p]|lock|new)|\.run\.json"
)
_PAGE = ".html"  # a page names the folder of its data, which is no part of the content
_FINGERPRINT = "fingerprint"  # of a base model: older manifests have its first 16 digits
_COMPUTING = "computing"  # of a base model: how its config.json uses the weights
_TOKENIZER = "tokenizer"  # the input of step 4 that tells which model counted the tokens
# Settings that say where a run read and how it worked, and nothing of what it made.
_WHERE, _HOW = {"folder", "subjects_file"}, {"bucket_bytes", "device"}
_LIBRARIES = {  # those that shape a result
    "accelerate",
    "bitsandbytes",
    "duckdb",
    "pandas",
    "peft",
    "pyarrow",
    "torch",
    "transformers",
    "xgboost",
    "xgboost-cpu",
}


class _Sized(TypedDict):
    bytes: int


class WrittenFile(_Sized, total=False):
    """A file of a step's folder: its size and its SHA-256 sum, which parts once went without."""

    sha256: str


class Manifest(TypedDict):
    """The identity of a step's folder by its content. A step adds keys of its own (`facts`)."""

    id: str  # of the content; of the run, a hash of all that follows, until there is content
    step: str
    schema_version: int
    software: str
    settings: dict[str, Any]
    inputs: dict[str, Any]  # id of each earlier step's manifest, or what identifies another input


class FinishedManifest(Manifest):
    """The manifest of a folder that is whole."""

    files: dict[str, WrittenFile]  # by the path within the folder
    finished: str  # ISO 8601
    seconds: float
    versions: dict[str, str]


@dataclass(frozen=True)
class StudyUsed:
    """The study file under which a step ran: its name, the SHA-256 of its bytes, and its text."""

    file: str
    sha256: str
    text: str


def study_used() -> StudyUsed | None:
    """Return the study under which this process runs, None without one."""
    path = Path(os.environ.get(STUDY) or "")
    try:
        data = path.read_bytes()
        text = data.decode()
    except (OSError, ValueError):  # no variable, or the copy is gone
        return None
    name = f"{path.stem[: -STUDY_HASH - 1]}{path.suffix}"
    return StudyUsed(inline(name), hashlib.sha256(data).hexdigest(), text)


def study_facts() -> dict[str, Any]:
    """Return what a manifest holds of the study: its key and value, or nothing."""
    found = study_used()
    return {"study": asdict(found)} if found else {}


def study_sentences() -> list[str]:
    """Return the sentence by which cards and reports name the study, or none."""
    found = study_used()
    return [f"Study: {found.file} (SHA-256 {found.sha256})"] if found else []


def new_manifest(step: str, settings: dict[str, Any], inputs: dict[str, Any]) -> Manifest:
    """Return the manifest of a run that begins."""
    identity = {
        "step": step,
        "schema_version": SCHEMA_VERSION,
        "software": VERSION,
        "settings": settings,
        "inputs": inputs,
    }
    return {
        "id": digest(identity),
        "step": step,
        "schema_version": SCHEMA_VERSION,
        "software": VERSION,
        "settings": settings,
        "inputs": inputs,
    }


def finish_manifest(
    folder: Path, manifest: Mapping[str, Any], started: float, place: Path
) -> dict[str, Any]:
    """Return the manifest of a folder that is whole and about to go to its place.

    Adds the files of the folder, the time, the seconds since `started` and library versions. The id
    becomes that of the content: of the folder in the place if that holds the same, else a new one.
    """
    (folder / f".{NAME}.new").unlink(missing_ok=True)  # left by a kill during its writing
    recorded = written(folder)
    before = read(place) or {}
    same = _holds(place, before, recorded)
    return {
        **manifest,
        "id": before["id"] if same else digest([manifest["step"], _sums(recorded)]),
        "files": recorded,
        **_card_of(folder),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(time.time() - started, 1),
        "versions": versions(),
        **study_facts(),
    }


def written(folder: Path) -> dict[str, WrittenFile]:
    """Return the files of a folder as a manifest has them, each read once in a process."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in _FOR_PEOPLE
    )
    with ThreadPoolExecutor(8) as pool:  # hashing lets other threads run
        names = (path.relative_to(folder).as_posix() for path in files)
        return dict(zip(names, pool.map(_written, files), strict=True))


def _card_of(folder: Path) -> dict[str, str]:
    """Return the sum of a folder's card as its manifest has it, without what an audit tells in it;
    nothing of a folder without one.
    """
    text = read_kept(folder / _CARD)
    own = re.sub(r"<!-- (\w+) -->.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
    return {"card": digest(own)} if text else {}


def _written(path: Path) -> WrittenFile:
    return {"bytes": path.stat().st_size, "sha256": unchanged_sha256(path)}


def _sums(files: Mapping[str, WrittenFile]) -> dict[str, str]:
    """Return the SHA-256 sum of each file that is part of the content."""
    return {n: file["sha256"] for n, file in files.items() if not n.endswith(_PAGE)}


def _holds(place: Path, manifest: Mapping[str, Any], files: Mapping[str, WrittenFile]) -> bool:
    """Tell whether a step's folder with this manifest has the content of other files."""
    before: dict[str, WrittenFile] = manifest.get("files", {})
    sizes = [
        {name: file["bytes"] for name, file in some.items() if not name.endswith(_PAGE)}
        for some in (before, files)
    ]
    if "id" not in manifest or sizes[0] != sizes[1]:
        return False
    try:
        sums = {n: before[n].get("sha256") or file_sha256(place / n) for n in _sums(files)}
    except OSError:
        return False
    return sums == _sums(files)


def read(place: Path) -> dict[str, Any] | None:
    """Return the manifest in a step's folder; None where there is none that can be read.

    One that lacks a part, or has one of another kind, cannot.
    """
    found = read_any(place)
    return None if damaged_parts(found) else found


def damaged_parts(found: Mapping[str, Any]) -> list[str]:
    """Return the parts of a manifest, of whichever step, that are missing or of another kind."""
    return misfits(found, FinishedManifest)


def read_any(place: Path) -> dict[str, Any]:
    """Return what can be read of the manifest in a step's folder, in whatever shape it is."""
    return read_object(place / NAME)


def check_readable(place: Path) -> None:
    """Raise OSError where a step's manifest cannot be read now, as its folder may be whole."""
    try:
        read_json(place / NAME)
    except (OSError, ValueError) as error:
        if faults.of_the_machine(error):
            raise


@functools.cache  # reads the metadata of every package that is installed
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that shape a result."""
    found = {d.name: d.version for d in distributions() if d.name in _LIBRARIES}
    return {"python": sys.version.split()[0], **dict(sorted(found.items()))}


def damaged_files(place: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Return the files of a step's folder that are gone or differ from their record.

    One of many parts is told by its size alone; who reads it may compare its sum.
    """
    files = {place / name: recorded for name, recorded in manifest.get("files", {}).items()}
    return [path for path, recorded in files.items() if _differs(path, place, recorded)]


def _differs(path: Path, place: Path, recorded: WrittenFile) -> bool:
    if not path.is_file() or path.stat().st_size != recorded["bytes"]:
        return True
    sha256 = recorded.get("sha256")
    if path.parent != place or sha256 is None:
        return False
    return unchanged_sha256(path) != sha256


def unrecorded_files(place: Path) -> list[Path]:
    """Return the files of a step's folder that no step wrote so: somebody's notes, or a file that
    was edited, as a card or a training record.

    What systems, editors and Python leave by themselves is nobody's (`_LITTER`). Of a manifest that
    cannot be read nothing is known, and nothing is returned.
    """
    manifest = read(place) or {}
    changed = {path.relative_to(place).as_posix() for path in damaged_files(place, manifest)}
    ours = {NAME, *_BESIDE, *manifest.get("files", {})} - changed
    if _card_of(place).get("card") != manifest.get("card"):  # earlier versions noted none
        ours.discard(_CARD)
    names = (p.relative_to(place) for p in place.rglob("*") if p.is_symlink() or p.is_file())
    shown = (name for name in names if not any(map(_LITTER.fullmatch, name.parts)))
    return [place / name for name in shown if manifest and name.as_posix() not in ours]


def is_same_run(found: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Tell whether the run of a manifest made what another run would: paths and times apart."""
    try:
        pair = found, asked
        by_sum = _by_sum(pair)
        inputs, now = [
            {k: v for k, v in run["inputs"].items() if by_sum or k != _TOKENIZER} for run in pair
        ]
        settings = [digest(settings) for settings in comparable_settings(found, asked)]
        return (
            all(found[key] == asked[key] for key in ("step", "schema_version", "software"))
            and settings[0] == settings[1]
            and inputs.keys() == now.keys()
            and all(_is_same_input(inputs[name], now[name]) for name in inputs)
        )
    except (KeyError, AttributeError, TypeError):
        return False  # the manifest is damaged, or there is none


def comparable_settings(
    found: Mapping[str, Any], asked: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of two runs that decide what they make, as far as both manifests tell.

    Raises KeyError, AttributeError or TypeError where a manifest is damaged.
    """
    bases = [_base(run) or {} for run in (found, asked)]
    unlike = [] if all(_COMPUTING in base for base in bases) else [_COMPUTING]
    digits = min(len(base.get(_FINGERPRINT, "")) for base in bases)
    by_sum = _by_sum((found, asked))
    was, now = (_what(run["settings"], by_sum, unlike, digits) for run in (found, asked))
    return was, now


def _by_sum(pair: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a model is known by its tokenizer: where both have its sum, else by its name."""
    return all(_TOKENIZER in run["inputs"] for run in pair)


def _base(run: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = run["settings"].get("base_model")
    return found if isinstance(found, Mapping) else None


def _what(
    settings: Mapping[str, Any], by_sum: bool, unlike: Sequence[str], digits: int
) -> dict[str, Any]:
    """Return the settings that decide what a run makes. A base model is its weights, not a name.

    With `by_sum` the name of the model that counts tokens does not, as its sum is an input. What is
    known of one base model alone, `unlike`, is left out, as are further `digits` of a fingerprint.
    """
    what = {key: value for key, value in settings.items() if key not in _WHERE | _HOW}
    if by_sum:
        what.pop("model", None)
    if isinstance(base := what.get("base_model"), Mapping):
        known = {k: v for k, v in base.items() if k not in ("name", *unlike)}
        if _FINGERPRINT in known:
            known[_FINGERPRINT] = known[_FINGERPRINT][:digits]
        what["base_model"] = known
    return what


def _is_same_input(found: Any, asked: Any) -> bool:
    """Tell whether an input is the recorded one, by the sum of its content where both have it."""
    if (
        isinstance(found, dict)
        and isinstance(asked, dict)
        and "sha256" in found
        and "sha256" in asked
    ):
        return bool(found["sha256"] == asked["sha256"])
    return digest(found) == digest(asked)


def up_to_date(place: Path, manifest: Manifest) -> dict[str, Any] | None:
    """Return the manifest of the folder that holds what this run would write, undamaged, or None.

    It has the paths and times of this run, at which the inputs were seen last.
    """
    found = read(place) or {}
    if not is_same_run(found, manifest):
        return None
    damaged = damaged_files(place, found)
    if damaged:
        print(
            f"{damaged[0]} is missing or was changed since it was written: the step is done again",
            flush=True,
        )
        return None
    where = {k: v for k, v in manifest["settings"].items() if k in _WHERE}
    seen = {"settings": found["settings"] | where, "inputs": manifest["inputs"]}
    if isinstance(found.get("source"), dict) and "folder" in where:
        seen["source"] = found["source"] | {"folder": where["folder"]}
    return found | seen | study_facts()


def adapters_on(store: Path, step: str) -> list[str]:
    """Return the runs whose adapters rest on the present output of a step, at once or not.

    Raises OSError or UserError where that of one cannot be told now, as its disk is away.
    """
    check_link(store / "adapters")
    folders = sorted((store / "adapters").glob("[!.]*"))
    for folder in folders:
        check_link(folder)
        check_readable(folder)
    return [folder.name for folder in folders if _rests(store, read(folder) or {}, step)]


def damaged_adapters(store: Path) -> list[str]:
    """Return the runs of whose adapters the manifest is there and cannot be read."""
    folders = sorted((store / "adapters").glob("[!.]*"))
    return [one.name for one in folders if (one / NAME).exists() and read(one) is None]


def _rests(store: Path, manifest: Mapping[str, Any], step: str) -> bool:
    """Tell whether the output with a manifest was made from the present one of a step."""
    inputs = manifest.get("inputs")
    for name, recorded in inputs.items() if isinstance(inputs, dict) else ():
        found = read(store / name) if isinstance(recorded, str) else None
        if found and found.get("id") == recorded and (name == step or _rests(store, found, step)):
            return True
    return False
