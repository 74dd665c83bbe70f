"""Check a study before its first step: what its file names must be there and fit together."""

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mimic_qlora.clinical import content
from mimic_qlora.llm import finding
from mimic_qlora.mimic import passed_over, tables
from mimic_qlora.step import files, manifests, step_commands, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.study import commands
from mimic_qlora.study.study_file import EMBEDDED, StudyFile
from mimic_qlora.subjects import replacement
from mimic_qlora.training import recipes
from mimic_qlora.validation import plan as plans
from mimic_qlora.validation.judge import judge as judging

T = TypeVar("T")


def check(file: StudyFile, store: Path, root: Path) -> None:
    """Raise UserError, with line and field, for what would stop a step or replace real patients.

    `root` is the folder of the scripts.
    """
    _check_variables(file)
    _check_data(file, store)
    _check_model(file, store)
    _check_recipe(file, root / "recipes")
    _check_plan(file, store, root / "run_files")
    _check_validation(file)


def _check_variables(file: StudyFile) -> None:
    """Raise UserError for a path that names a variable of the shell which is not set."""
    study = file.study
    paths = {
        ("storage",): study.storage,
        ("model",): study.model,
        ("data", "from"): study.data.source,
        ("data", "subjects_file"): study.data.subjects_file,
        ("training", "recipe"): study.training.recipe,
        ("validation", "plan"): study.validation.plan,
        ("validation", "judge"): study.validation.judge,
    }
    for place, path in paths.items():
        for name in re.findall(r"\$\{?(\w+)", path or ""):
            if name not in os.environ:
                raise file.mistake(f"${name} is not set: `export {name}=...` first", *place)


def _check_data(file: StudyFile, store: Path) -> None:
    data = file.study.data
    if data.subjects_file and not file.near(data.subjects_file).is_file():
        there = file.near(data.subjects_file)
        raise file.mistake(f"there is no file {there}", "data", "subjects_file")
    if data.is_synthetic:
        if data.fetch_demo:
            raise file.mistake("needs a folder in data.from", "data", "fetch_demo")
        _check_replaced(file, store)
        return
    for field in ("synthetic_patients", "synthetic_emergency"):
        if getattr(data, field):
            raise file.mistake("needs data.from: synthetic", "data", field)
    folder = commands.mimic_of(file)
    if data.fetch_demo and not folder.exists():
        return
    if not folder.is_dir():
        what = "give the one that holds hosp/ and icu/ of MIMIC-IV, or synthetic"
        raise file.mistake(f"there is no folder {folder}: {what}", "data", "from")
    sources = _as_field(file, ("data", "from"), tables.find, folder, data.multiline or [])
    found = manifests.read_any(files.linked_place(store / "subjects"))
    inputs = {
        source.key(path): files.file_identity(path)
        for source in sources.values()
        for path in source.files
    }
    check, empty = replacement.check_folder, passed_over.without_rows(sources)
    _as_field(file, ("data", "from"), check, store, folder, inputs, sources, empty, found)


def _check_replaced(file: StudyFile, store: Path) -> None:
    """Raise UserError if the built-in patients would replace real ones, or drop their conversion.

    Step 1 looks again, under its lock.
    """
    place = files.linked_place(store / "subjects")
    source = replacement.part(manifests.read_any(place), "source")
    unfinished = replacement.part(storage.interrupted_run(place) or {}, "settings").get("folder")
    is_there = files.has_entries(place)
    if (is_there and source.get("kind") != replacement.SYNTHETIC) or (
        storage.is_unrecorded(place)
        or unfinished
        and Path(unfinished).name != replacement.SYNTHETIC
    ):
        raise UserError(
            f"{store} holds real patients, which the synthetic ones of {file.path} would replace: "
            "give another folder with --storage (make demo STORAGE=storage-demo)"
        )


def _check_model(file: StudyFile, store: Path) -> None:
    if file.study.model != EMBEDDED:
        _as_field(file, ("model",), finding.model_path, commands.model_of(file), store)
    judge = commands.judge_of(file)
    if judge not in (None, judging.BASE, judging.EMBEDDED):
        _as_field(file, ("validation", "judge"), finding.model_path, judge, store)


def _check_recipe(file: StudyFile, folder: Path) -> None:
    if file.study.training.recipe:
        near = file.near(file.study.training.recipe)
        name = str(near) if near.is_file() else file.study.training.recipe
        _as_field(file, ("training", "recipe"), recipes.read_recipe, name, folder)


def _check_plan(file: StudyFile, store: Path, questions: Path) -> None:
    path = commands.plan_of(file)
    if path is None:
        return
    at = ("validation", "plan")
    if not path.is_file():
        raise file.mistake(f"there is no file {path}", *at)
    plan = _as_field(file, at, plans.load, path)
    _as_field(file, at, plans.check_runs, path, plan)
    _as_field(file, at, plans.check_power, path, plan, content.load_questions(questions))
    if sorted(plan.runs) != sorted(file.study.training.runs):
        runs, names = ", ".join(plan.runs), ", ".join(file.study.training.runs)
        raise file.mistake(f"its runs are {runs}, and the study trains {names}", *at)
    frozen = commands.frozen_plan(store)
    if frozen.exists() and not commands.is_frozen(path, store):
        step_7 = step_commands.from_here(step_commands.COMMANDS["validation"])
        raise file.mistake(
            f"another plan is frozen ({frozen}): name that one, or freeze this by hand "
            f"(`{step_7} --freeze {shlex.quote(str(path))}"
            f"{step_commands.storage_option(store)}`)",
            *at,
        )


def _check_validation(file: StudyFile) -> None:
    """Raise UserError for what step 7 would refuse, hours later."""
    asked = file.study.validation
    if asked.strict and asked.batch_size:
        raise file.mistake("strict answers one by one: leave it out", "validation", "batch_size")
    for field in ("judge", "twins", "forgetting", "arms", "processes"):
        if asked.tasks == "urgency" and getattr(asked, field) not in (None, False, 0, 1):
            raise file.mistake("tasks: urgency takes none: leave it out", "validation", field)


def _as_field(
    file: StudyFile, place: tuple[str, ...], find: Callable[..., T], *inputs: object
) -> T:
    """Return what `find(*inputs)` gives. Its UserError gets the file and the field in front."""
    try:
        return find(*inputs)
    except UserError as error:
        raise file.mistake(str(error), *place) from None
