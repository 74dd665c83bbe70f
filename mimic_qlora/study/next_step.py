"""The next command in a storage folder, with the options that carry over from what is there."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mimic_qlora.features.settings import FeatureSettings
from mimic_qlora.llm import embedded
from mimic_qlora.step import ending, files, manifests, step_commands, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.study import commands
from mimic_qlora.study.state import DONE, RUNNING, STOPPED, UNREADABLE, StepState
from mimic_qlora.study.study_file import Data, Features, Prompts, Summary, Training
from mimic_qlora.training import recipes
from mimic_qlora.training.settings import DRAFT, TrainSettings

_SECTIONS: dict[str, type[BaseModel]] = {
    "subjects": Data,
    "summary": Summary,
    "features": Features,
    "prompts": Prompts,
    "adapters": Training,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "subjects": dict(step_commands.CARRIED["subjects"]),
    "summary": {"min_cell": 10},
    "features": asdict(FeatureSettings()),
    "prompts": dict(step_commands.CARRIED["prompts"]),
    "adapters": {f.name: f.default for f in fields(TrainSettings) if f.default is not MISSING},
}
_TRIALS = "50"  # of a first look with step 7


def command(store: Path, states: Sequence[StepState], root: Path) -> str:
    """Return the command of the first step that is to do, else of a further run of step 7.

    `root` is the folder of the scripts. "" while a step runs, or where a folder cannot be read,
    which may be whole.
    """
    if any(state.state in (RUNNING, UNREADABLE) for state in states):
        return ""
    # a folder that was renamed so that no --run can name it
    states = [s for s in states if files.is_folder_name(s.step.rpartition("/")[2])]
    begun = any(s.step.startswith("adapters/") and s.state in (DONE, STOPPED) for s in states)
    to_do = (
        state
        for state in states
        # with an adapter at hand, or a checkpoint, what later steps take as it is may stay
        if state.is_to_do and state.step != "qa" and not (begun and state.holds_for_later)
    )
    state = next(to_do, StepState("validation", ""))
    step = state.step.split("/")[0]
    model = _model(store, states)
    run = state.step.partition("/")[2] or None
    if step == "validation":
        run = ",".join(_newest_runs(states))
    words = [_TRIALS] if step == "validation" else []
    manifest, start = _manifest(store, state.step), step_commands.COMMANDS[step]
    words += _settings(manifest, step, root)
    if step == "subjects" and "--mimic-dir" not in words:
        words += step_commands.synthetic_options(store)
    processes = manifest.get("processes")
    if step == "adapters" and isinstance(processes, int) and processes > 1:
        # step 5 refuses to go on with a checkpoint of other processes
        start = start.replace("python", f"torchrun --nproc-per-node {processes}")
    planted = _canaries(manifest) if step == "adapters" else 0
    if planted and run:
        words += ["--canaries", str(planted)]
        run = run.removesuffix("-canaries")  # which step 5 adds
    if step == "adapters" and run not in (None, "default"):
        words += ["--run-name", str(run)]  # torchrun takes no --run
    words += ending.Options(str(store), model, run or None).of(step)
    return step_commands.from_here(" ".join([start, *map(shlex.quote, words)]))


def _canaries(manifest: Mapping[str, Any]) -> int:
    n = files.part_of(manifest, "settings").get("canaries")
    return n if isinstance(n, int) else 0


def _newest_runs(states: Sequence[StepState]) -> list[str]:
    """Return the adapter that was trained last, with those of its other seeds."""
    done = [s for s in states if s.step.startswith("adapters/") and s.state == DONE]
    names = [s.step.partition("/")[2] for s in sorted(done, key=lambda s: s.finished)]
    last = re.fullmatch(r"(.+-seed)\d+", names[-1]) if names else None
    if last is None:
        return names[-1:]
    return [name for name in sorted(names) if re.fullmatch(rf"{re.escape(last[1])}\d+", name)]


def _manifest(store: Path, step: str) -> Mapping[str, Any]:
    """Return the manifest of a step, or of the run that stopped before it had one."""
    place = files.linked_place(store / step)
    for folder in (place, place.with_name(f".{place.name}.old")):  # which a killed run left
        if (found := manifests.read(folder)) is not None:
            return found
    draft = files.read_object(place.with_name(f".{place.name}.training") / DRAFT)
    return draft or storage.interrupted_run(place) or {}


def _model(store: Path, states: Sequence[StepState]) -> str | None:
    """Return the model that prompts or adapters were made with; None for the embedded one."""
    for state in states:
        settings = _manifest(store, state.step).get("settings")
        if not isinstance(settings, dict) or state.step == "summary":
            continue
        base = settings.get("base_model") or {"name": settings.get("model")}
        name = base.get("name") if isinstance(base, dict) else None
        if name and name != embedded.EMBEDDED_ORIGIN:
            return str(name)
    return None


def _settings(manifest: Mapping[str, Any], step: str, root: Path) -> list[str]:
    """Return the options of the earlier run of a step that are not the defaults."""
    settings = manifest.get("settings")
    if step not in _SECTIONS or not isinstance(settings, dict):
        return []
    kind, known, words = _SECTIONS[step], dict(_DEFAULTS[step]), []
    if step == "adapters" and (recipe := manifest.get("recipe")):
        words = ["--recipe", str(recipe)]
        try:
            known |= recipes.read_recipe(str(recipe), root / "recipes").model_dump()
        except (UserError, OSError):  # gone, or not for us: all that it gave is in the settings
            words = []
    folder = settings.get("folder")
    chosen = {
        name: value
        for name, value in settings.items()
        if name in kind.model_fields
        and value is not None
        and value is not False  # 0 is a seed
        and value != known.get(name)
        and name not in ("model", "device")
    }
    if step == "subjects":
        is_synthetic = not folder or Path(str(folder)).name == "synthetic"
        words = [] if is_synthetic else ["--mimic-dir", str(folder)]
        chosen["from"] = "synthetic"
    try:
        return [*words, *commands.options(kind.model_validate(chosen))]
    except ValidationError:  # of another version, or edited
        return words
