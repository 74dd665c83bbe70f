"""The state of each step in a storage folder: done, stale and why, damaged, unreadable, running
or missing.

Nothing is written, and no lock is taken, so that a folder of a run that goes on can be looked at.
"""

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mimic_qlora.clinical import content
from mimic_qlora.features import inputs as feature_inputs
from mimic_qlora.prompts import records
from mimic_qlora.step import faults, files, manifests
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.version import VERSION
from mimic_qlora.study import running_now, runs
from mimic_qlora.subjects import manifest as subjects_manifest
from mimic_qlora.training.settings import DRAFT
from mimic_qlora.validation import results

DONE, STALE, DAMAGED, MISSING = "done", "stale", "damaged", "missing"
RUNNING, STOPPED, UNREADABLE = "running", "stopped", "unreadable"
STEPS = ("subjects", "summary", "features", "prompts", "adapters", "qa", "validation")
_DAMAGED_PARTS = {"subjects": subjects_manifest.damaged_parts}
_TO_REDO = (STALE, DAMAGED, MISSING, STOPPED)
_UNTYPED = f"rename it: --run takes {files.FOLDER_NAME}"
_LATER = "later steps take it as it is, and the step would do it again"


@dataclass(frozen=True)
class StepState:
    """A step's folder: `state` is one of the words above, `why` a sentence that explains it.

    `id` is that of the content, `finished` ISO 8601; both are "" where there is no manifest.
    """

    step: str  # "adapters/default"
    state: str
    why: str = ""
    id: str = ""
    finished: str = ""
    seconds: float = 0.0
    bytes: int = 0

    @property
    def number(self) -> int:
        """Return the number of the step, 1 to 7."""
        return STEPS.index(self.step.split("/")[0]) + 1

    @property
    def is_to_do(self) -> bool:
        """Return whether the step is missing or would be done again."""
        return self.state in _TO_REDO

    @property
    def holds_for_later(self) -> bool:
        """Return whether the later steps take the folder as it is."""
        return self.state == DONE or self.state == STALE and _LATER in self.why


def of_storage(store: Path, system_prompt: str) -> list[StepState]:
    """Return the state of each step, and of each adapter, in their order.

    `system_prompt` is that of step 4, which its records hold.
    """
    found: dict[str, StepState] = {}
    for step in STEPS[:4]:
        found[step] = _of_folder(store, step, found, _content_now(step, system_prompt))
    _tell_outdated(store, found)
    before = found | {"canaries": _of_folder(store, "canaries", found, {})}  # of some adapters
    adapters = _adapters(store)
    for run in adapters or [""]:
        step = f"adapters/{run}" if run else "adapters"
        found[step] = _of_folder(store, step, before, {}) if run else _kept_back(store / step)
        if run and not files.is_folder_name(run):
            found[step] = replace(found[step], why=_UNTYPED)
    found["qa"] = _of_many(store / "qa", "*.jsonl", "transcript")
    found["validation"] = _of_results(store, found)
    return list(found.values())


def _content_now(step: str, system_prompt: str) -> dict[str, str]:
    """Return the hashes of this software's content that a run of the step would record."""
    if step == "summary":
        return {"clinical content": content.content_sha256()}
    if step == "features":
        return {k: v for k, v in feature_inputs.of_step("").items() if k != "subjects"}
    if step == "prompts":
        return {"clinical_content": records.content_sha256(system_prompt)}
    return {}


def _tell_outdated(store: Path, found: dict[str, StepState]) -> None:
    """Say of step 1 what this software makes otherwise, and of step 2 that it has older flags."""
    one, two = (manifests.read_any(files.linked_place(store / step)) for step in STEPS[:2])
    state, summary = found["subjects"], found["summary"]
    if state.state == DONE and (older := subjects_manifest.outdated(one)):
        found["subjects"] = replace(state, why="; ".join(filter(None, [state.why, older])))
    had = files.part_of(two, "inputs").get(subjects_manifest.FLAGS)
    if summary.state == DONE and had not in (None, subjects_manifest.flags_sha256(one)):
        found["summary"] = replace(summary, state=STALE, why="has the flags of quality of before")


def _adapters(store: Path) -> list[str]:
    """Return the names of the adapters, finished or not."""
    names = set()
    for path in _entries(store / "adapters"):
        if path.name.startswith("."):
            names |= {path.name[1:].removesuffix(end) for end in _unfinished(path.name)}
        elif re.search(rf"{re.escape(files.KEPT)}\d+$", path.name):
            continue
        elif path.is_dir() or path.is_symlink():
            names.add(path.name)
    return sorted(names)


def _unfinished(name: str) -> list[str]:
    return [end for end in (".training", ".partial", ".old") if name.endswith(end)]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _kept_back(folder: Path) -> StepState:
    """Return the state of a folder in which nothing was found: missing, or kept from this user."""
    if away := _away(folder, folder.name):
        return away
    try:
        os.listdir(folder)
    except OSError as error:
        if faults.of_the_machine(error):
            return StepState(folder.name, UNREADABLE, _unreadable(error))
    return StepState(folder.name, MISSING, bytes=folder_bytes(folder))


def _away(folder: Path, step: str) -> StepState | None:
    """Return the state of a folder to which a link leads whose disk is away; None for another."""
    try:
        files.check_link(folder)
    except UserError as error:
        return StepState(step, UNREADABLE, str(error))
    return None


def _unreadable(error: OSError) -> str:
    return f"{error.filename} cannot be read ({error.strerror}): fix that, and it may be whole"


def _of_folder(
    store: Path, step: str, before: Mapping[str, StepState], now: Mapping[str, str]
) -> StepState:
    """Return the state of a folder with a manifest; `before` are the earlier steps."""
    if away := _away(store / step, step):
        return away
    place = files.linked_place(store / step)
    who = running_now.holder(place)
    size = folder_bytes(place)
    if not place.exists():
        return _not_there(place, step, who)
    try:
        raw = files.read_json(place / manifests.NAME)
        version = raw["schema_version"]
        damaged_parts = _DAMAGED_PARTS.get(step, manifests.damaged_parts)
        if version == manifests.SCHEMA_VERSION and damaged_parts(raw):
            raise ValueError
        inputs = dict(raw["inputs"])
        content_id, finished, seconds = str(raw["id"]), str(raw["finished"]), float(raw["seconds"])
        damaged = manifests.damaged_files(place, raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and faults.of_the_machine(error):
            return StepState(step, UNREADABLE, _unreadable(error), bytes=size)
        why = f"its {manifests.NAME} cannot be read"
        return StepState(step, DAMAGED, why, bytes=size)
    state, why = DONE, ""
    if who:
        state, why = RUNNING, f"{who} writes it anew"
    elif version != manifests.SCHEMA_VERSION:
        state, why = STALE, f"its files have schema version {version}"
    elif damaged:
        state, why = DAMAGED, f"{damaged[0].name} is missing or was changed since it was written"
        why += f" ({len(damaged):,} such)" if len(damaged) > 1 else ""
    elif older := _older(inputs, before):
        state, why = STALE, older
    elif changed := [name for name, sha256 in now.items() if inputs.get(name, sha256) != sha256]:
        named = ", ".join(name.replace("_content", " content") for name in changed)
        state, why = STALE, f"{named} of this software differs from what it was made with: {_LATER}"
    elif raw.get("software") != VERSION:
        state, why = STALE, f"made by version {raw.get('software')} of this software: {_LATER}"
    elif is_left_over(place, raw):
        why = "finished; what its training left goes with the same command, or by --clean"
    elif left := _left(place):
        why = f"{left}: the same command goes on"
    return StepState(step, state, why, content_id, finished, seconds, size)


def _older(inputs: Mapping[str, Any], before: Mapping[str, StepState]) -> str:
    """Return why a step is older than one that it rests on; "" if it is not."""
    for name, recorded in inputs.items():
        if name in before and recorded:
            earlier = before[name]
            if earlier.state in (DAMAGED, MISSING, STOPPED, UNREADABLE):
                return f"rests on {name}, which is {earlier.state}"
            if earlier.id != recorded:
                return f"made from an older version of {name}"
            if not earlier.holds_for_later and earlier.state != RUNNING:
                return f"rests on {name}, which is stale"
    return ""


def _not_there(place: Path, step: str, who: str) -> StepState:
    """Return the state of a step without its folder."""
    if who:
        return StepState(step, RUNNING, f"{who} writes it", bytes=_left_bytes(place))
    if place.with_name(f".{place.name}.old").exists():
        return StepState(step, STOPPED, "stopped between two renames: the next step puts it back")
    if left := _left(place):
        why = f"{left}: the same command goes on or begins anew"
        return StepState(step, STOPPED, why, bytes=_left_bytes(place))
    return StepState(step, MISSING)


def is_left_over(place: Path, finished: Mapping[str, Any]) -> bool:
    """Tell whether the folder of a training beside an adapter is of the run that made the adapter.

    A kill came as it was removed, its draft last.
    """
    work = place.with_name(f".{place.name}.training")
    if not work.is_dir():
        return False
    draft = files.read_object(work / DRAFT)
    return manifests.is_same_run(draft, finished) if draft else not any(work.iterdir())


def _left(place: Path) -> str:
    """Return what a run that did not end has left beside a folder; "" if nothing."""
    training = place.with_name(f".{place.name}.training")
    if training.exists():
        numbers = [path.name.rpartition("-")[2] for path in training.glob("checkpoint-*")]
        steps = max((int(number) for number in numbers if number.isdecimal()), default=0)
        return f"a training stopped, its last checkpoint after step {steps}"
    return "a run stopped" if files.partial_of(place).exists() else ""


def _left_bytes(place: Path) -> int:
    names = (f".{place.name}.training", f".{place.name}.partial")
    return sum(folder_bytes(place.with_name(name)) for name in names)


def _of_many(folder: Path, pattern: str, what: str) -> StepState:
    """Return the state of a folder that grows by a file or folder a run."""
    try:
        times = sorted(path.stat().st_mtime for path in folder.glob(pattern))
    except OSError:
        times = []
    if not times:
        return _kept_back(folder)
    n = len(times)
    told = f"{n:,} {what}{'s' * (n != 1)}"
    return StepState(folder.name, DONE, told, finished=_iso(times[-1]), bytes=folder_bytes(folder))


def _of_results(store: Path, before: Mapping[str, StepState]) -> StepState:
    """Return the state of step 7: stale where an adapter or the data are newer than its results."""
    state = _of_many(store / "validation", f"[!.]*/{results.FILE}", "result")
    newest = results.newest(store) if state.state == DONE else None
    if newest is None:
        return state
    made = (newest / results.FILE).stat().st_mtime  # labels and ratings come into the folder later
    compared = runs.compared(newest)  # none where results of an early version do not tell
    for earlier in before.values():
        folder, _, run = earlier.step.partition("/")
        is_read = folder == "prompts" or (folder == "adapters" and run in (compared or {run}))
        if is_read and earlier.finished and _seconds(earlier.finished) > made:
            why = f"{state.why}, the last one older than {earlier.step}"
            return StepState("validation", STALE, why, finished=state.finished, bytes=state.bytes)
    if other := runs.of_other(store, newest):  # a copy may have lost the times
        why = f"{state.why}, the last one of {other}"
        return StepState("validation", STALE, why, finished=state.finished, bytes=state.bytes)
    return state


def folder_bytes(folder: Path) -> int:
    """Return the size of all files in a folder, links not followed; 0 if there is none."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:  # a run that goes on has removed it
                continue
    return total


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def _seconds(iso: str) -> float:
    """Return a time of a manifest in seconds; 0 where it is none."""
    try:
        return datetime.strptime(iso, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return 0.0
