"""The commands of a study: which script each step runs, with which options."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from mimic_qlora.step.step_commands import COMMANDS
from mimic_qlora.study.study_file import EMBEDDED, StudyFile

_SPREAD = ("tasks", "multiline")  # options that take several words; others take a,b,c
_OF_STUDY = ("source", "fetch_demo", "plan", "n")  # fields that become other words
_LOG = "train.log"  # what step 5 prints, in the storage folder


@dataclass(frozen=True)
class Command:
    """A command of a study; `log` is a file that keeps what it prints."""

    number: int  # of the step, 1 to 7
    step: str  # its folder in the storage, as in COMMANDS
    options: tuple[str, ...]
    log: Path | None = None

    @property
    def words(self) -> list[str]:
        """Return the words of the command, the script's first, after the folder to run it in."""
        return [*COMMANDS[self.step].split(" && ")[-1].split(), *self.options]

    @property
    def folder(self) -> str:
        """Return the folder in which it runs, from that of the scripts."""
        return "run_files" if self.step == "validation" else "."

    @property
    def in_words(self) -> str:
        """Return the command as it is typed."""
        return " ".join([COMMANDS[self.step], *map(shlex.quote, self.options)])


def of(file: StudyFile, store: Path) -> list[Command]:
    """Return the commands of a study, in their order.

    `store` is its storage folder, which each step is given, so that the commands that it ends with
    name it where they must.
    """
    study = file.study
    place = ("--storage", str(store))
    model = () if study.model == EMBEDDED else ("--model", model_of(file))
    adapters = ",".join(study.training.runs)
    named = () if adapters == "default" else ("--run", adapters)
    first = () if adapters == "default" else ("--run", study.training.runs[0])
    recipe = {"recipe": _recipe(file)} if study.training.recipe else {}
    subjects = study.data.subjects_file
    by_file = {"subjects_file": str(file.near(subjects))} if subjects else {}
    asking = (*options(study.asking), "--once", *first, *model)
    return [
        Command(1, "subjects", (*_data(file), *options(study.data, by_file), *place)),
        Command(2, "summary", (*options(study.summary), *place)),
        Command(3, "features", (*options(study.features), *place)),
        Command(4, "prompts", (*options(study.prompts), *model, *place)),
        Command(5, "adapters", (*options(study.training, recipe), *model, *place), store / _LOG),
        Command(6, "qa", (*asking, *place)),
        *(
            Command(7, "validation", (*one, *place))
            for one in _validation(file, store, named, model)
        ),
    ]


def model_of(file: StudyFile) -> str:
    """Return the model as the scripts take it: a folder by its path, else the name of the hub."""
    return _folder(file, file.study.model)


def judge_of(file: StudyFile) -> str | None:
    """Return the judge of step 7 as the scripts take it; None without one."""
    name = file.study.validation.judge
    return None if name is None else _folder(file, name)


def _folder(file: StudyFile, name: str) -> str:
    near = file.near(name)
    return str(near.resolve()) if near.is_dir() else name


def _recipe(file: StudyFile) -> str:
    """Return the recipe as step 5 takes it: a file beside the study by its path, else the name."""
    name = str(file.study.training.recipe)
    near = file.near(name)
    return str(near.resolve()) if near.is_file() else name


def plan_of(file: StudyFile) -> Path | None:
    """Return the file of the plan, if the study has one."""
    plan = file.study.validation.plan
    return file.near(plan).resolve() if plan else None


def mimic_of(file: StudyFile) -> Path:
    """Return the folder of MIMIC-IV."""
    return file.near(file.study.data.source).resolve()


def _data(file: StudyFile) -> Iterator[str]:
    data = file.study.data
    if not data.is_synthetic:
        yield "--fetch-demo" if data.fetch_demo else "--mimic-dir"
        yield str(mimic_of(file))


def _validation(
    file: StudyFile, store: Path, runs: tuple[str, ...], model: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    """Yield the options of each run of step 7: on validation patients, then by the plan."""
    validation, judge = file.study.validation, judge_of(file)
    instead = {"judge": judge} if judge else {}
    if validation.n is not None or not validation.plan:
        trials = () if validation.n is None else (str(validation.n),)
        yield (*trials, *options(validation, instead), *runs, *model)
    if plan := plan_of(file):
        if not is_frozen(plan, store):
            yield ("--freeze", str(plan))
        by_plan = {"arms": None, "max_new_tokens": None, "seed": None}
        yield ("--final", *options(validation.model_copy(update=by_plan), instead), *model)


def is_frozen(plan: Path, store: Path) -> bool:
    """Return whether a plan is the one that was frozen last in the storage folder."""
    frozen = frozen_plan(store)
    return frozen.is_file() and frozen.read_bytes() == plan.read_bytes()


def frozen_plan(store: Path) -> Path:
    """Return the place of the frozen plan."""
    return store / "validation" / "plan.yaml"


def options(section: BaseModel, instead: dict[str, str] | None = None) -> Iterator[str]:
    """Yield the options that the fields of a section stand for; `instead` are other values."""
    for name, field in type(section).model_fields.items():
        value = (instead or {}).get(name, getattr(section, name))
        option = f"--{name.replace('_', '-')}"
        if name in _OF_STUDY or value is None:
            continue
        if isinstance(value, bool):
            if value != (field.default is True):
                yield option if value else option.replace("--", "--no-", 1)
        elif isinstance(value, list):
            yield option
            yield from map(str, value) if name in _SPREAD else [",".join(map(str, value))]
        elif str(value).startswith("-"):
            yield f"{option}={value}"
        else:
            yield option
            yield str(value)
