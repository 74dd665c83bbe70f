"""The study file: what all seven steps of a study are run with, in YAML.

A section for each step, named for what it makes. A field is an option of the step's script, with
`_` for `-`; one that is left out has the script's default.
"""

import difflib
import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mimic_qlora.step import yaml_files
from mimic_qlora.step.errors import UserError
from mimic_qlora.study import values as v
from mimic_qlora.training import settings as training
from mimic_qlora.validation.arms import ARMS

SYNTHETIC = "synthetic"
EMBEDDED = "embedded"
TASKS = ("guidance", "chart_qa", "diagnoses", "urgency")
USUAL_TASKS = TASKS[:3]  # of step 4 where none are named
QUESTION = "I have had a bad headache since this morning. What should I do?"
_REASONS = {  # what YAML says of common mistakes -> the same in words
    "mapping values are not allowed here": "a colon in a text without quotes, or a line too far in",
    "found character '\\t' that cannot start any token": "a tab: indent by blanks",
}
Path_ = tuple[str | int, ...]  # keys from the top of the file to a value


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(_Section):
    """Step 1: `source` ("from" in the file) is "synthetic" or the folder of MIMIC-IV."""

    source: v.Text = Field(alias="from")
    fetch_demo: v.YesNo = False  # download the open demo into that folder
    synthetic_patients: v.Patients | None = None
    synthetic_emergency: v.YesNo = False
    sample: v.Share | None = None
    subjects_file: v.Text | None = None
    seed: v.Seed | None = None
    memory: v.PositiveNumber | None = None
    workers: v.PositiveInt | None = None
    scheduler: v.Text | None = None  # of a Dask cluster
    scheduler_file: v.Text | None = None
    certificates: v.Text | None = None
    max_rejects: v.Rejects | None = None
    multiline: Annotated[list[str], v.list_of(v.TEXT)] | None = None
    verify: v.YesNo = False
    verify_checksums: v.YesNo = False

    @property
    def is_synthetic(self) -> bool:
        """Return whether the patients are the built-in ones."""
        return self.source == SYNTHETIC


class Summary(_Section):
    """Step 2."""

    min_cell: v.Count | None = None
    all: v.YesNo = False


class Features(_Section):
    """Step 3."""

    targets: Annotated[str, v.one_of(("phenotypes", "codes"))] | None = None
    n_targets: v.PositiveInt | None = None
    landmark_hours: v.Hours | None = None
    seeds: v.PositiveInt | None = None
    margin: v.Margin | None = None
    device: Annotated[str, v.one_of(("auto", "cpu", "cuda"))] | None = None


class Prompts(_Section):
    """Step 4."""

    tasks: Annotated[list[str], v.list_of(v.one_of(TASKS))] | None = None
    pairs_per_subject: v.Pairs | None = None
    max_total: v.PositiveInt | None = None
    token_budget: v.PositiveInt | None = None
    landmark_hours: v.Hours | None = None
    seed: v.Seed | None = None


class Training(_Section):
    """Step 5."""

    recipe: v.Text | None = None
    run: v.FolderName | None = None
    seeds: Annotated[list[int], v.list_of(v.SEED)] | None = None
    seed: v.Seed | None = None
    epochs: v.PositiveNumber | None = None
    max_steps: v.PositiveInt | None = None
    lr: v.LearningRate | None = None
    rank: v.Rank | None = None
    alpha: v.PositiveNumber | None = None
    rslora: v.YesNo = False
    dropout: v.Rate | None = None
    max_length: v.PositiveInt | None = None
    batch_tokens: v.PositiveInt | None = None
    accumulate: v.PositiveInt | None = None
    checkpointing: v.Checkpointing | None = None
    compute: Annotated[str, v.one_of(training.COMPUTE)] | None = None
    optimizer: Annotated[str, v.one_of(training.OPTIMIZERS)] | None = None
    validations: v.PositiveInt | None = None
    patience: v.Count | None = None
    limit: v.PositiveInt | None = None
    save_minutes: v.Minutes | None = None
    device: v.Device | None = None

    @model_validator(mode="after")
    def _one_way_of_seeds(self) -> "Training":
        if self.seed is not None and self.seeds is not None:
            raise ValueError("gives both seed and seeds: leave one of them out")
        return self

    @property
    def runs(self) -> list[str]:
        """Return the names of the adapters that are trained."""
        name = self.run or "default"
        return [name] if self.seeds is None else [f"{name}-seed{seed}" for seed in self.seeds]


class Asking(_Section):
    """Step 6: one question about one patient, asked of the first adapter."""

    subject_id: v.PatientName = "random"
    question: v.Text = QUESTION
    as_of: v.Time | None = None
    arm: Annotated[str, v.one_of(("base", "adapter", "both"))] | None = None
    max_new_tokens: v.PositiveInt | None = None
    seed: v.Seed | None = None
    device: v.Device | None = None


class Validation(_Section):
    """Step 7: `n` trials of validation patients, and the test patients by a `plan`, if it is given.

    With a plan and without `n` the validation patients are not looked at.
    """

    n: v.Trials | None = None
    plan: v.Text | None = None
    arms: Annotated[list[str], v.list_of(v.one_of((*ARMS, "all")))] | None = None
    judge: v.Text | None = None
    tasks: Annotated[str, v.one_of(("questions", "urgency"))] | None = None
    max_new_tokens: v.PositiveInt | None = None
    batch_size: v.PositiveInt | None = None
    strict: v.YesNo = False
    knowledge: v.YesNo = True
    twins: v.Count | None = None
    records: v.YesNo = True
    forgetting: v.YesNo = False
    seed: v.Seed | None = None
    processes: v.PositiveInt | None = None
    jump: v.Host | None = None
    device: v.Device | None = None


class Study(_Section):
    """The content of a study file."""

    storage: v.Text | None = None
    model: v.Text = EMBEDDED
    data: Data
    summary: Summary = Summary()
    features: Features = Features()
    prompts: Prompts = Prompts()
    training: Training = Training()
    asking: Asking = Asking()
    validation: Validation = Validation()


@dataclass(frozen=True)
class StudyFile:
    """A study as it was read: its file, the bytes, the study, and the line of each field."""

    path: Path
    text: str
    study: Study
    lines: Mapping[Path_, int]

    @property
    def sha256(self) -> str:
        """Return the SHA-256 sum of the file, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def mistake(self, what: str, *place: str | int) -> UserError:
        """Return the error for a field that is wrong: "study.yaml, line 3, data.sample: ..."."""
        return mistake(self.path, self.lines, place, what)

    def near(self, text: str) -> Path:
        """Return a path of the file: relative ones begin in its folder, $NAMES are replaced."""
        return self.path.parent / os.path.expanduser(os.path.expandvars(text))


def mistake(path: Path, lines: Mapping[Path_, int], place: Path_, what: str) -> UserError:
    """Return the error for a value of a file, with the line of its nearest part that is there."""
    known = next((place[:n] for n in range(len(place), -1, -1) if place[:n] in lines), ())
    line = f", line {lines[known]}" if known in lines else ""
    named = "".join(f"[{p + 1}]" if isinstance(p, int) else f".{p}" for p in place).lstrip(".")
    return UserError(f"{path}{line}{', ' * bool(named)}{named}: {what}")


def find(name: str, folder: Path) -> Path:
    """Return the path of a study file, given by its path or by its name in the folder of examples.

    Raises UserError where there is none.
    """
    given = Path(os.path.expanduser(name))
    for path in (given, folder / name, folder / f"{name}.yaml"):
        if path.is_file():
            return path
    examples = ", ".join(sorted(path.name for path in folder.glob("*.yaml")))
    kind = "a folder" if given.is_dir() else "not there"
    raise UserError(
        f"the study file {name} is {kind}: give the path of one, or an example ({examples})"
    )


def read(path: Path) -> StudyFile:
    """Read a study file.

    Raises UserError, with file, line and field, when it cannot be read or holds a mistake.
    """
    try:
        text = path.read_bytes().decode()
        root = yaml_files.compose(text, str(path))
        lines = dict(_lines(path, root))
        content = yaml_files.loads(text, str(path))
    except yaml.YAMLError as error:
        raise _not_yaml(path, error) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: this is not UTF-8 text: save it as that") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is not a study: write settings such as 'data: {{from: synthetic}}', as in the "
            "examples"
        )
    if (empty := _empty(content)) is not None:
        what = "has no value: give one, or take the line out"
        if len(empty) == 1 and _section(str(empty[0])) is not Study:
            what = "has nothing under it: indent its settings there, or take the line out"
        raise mistake(path, lines, empty, what)
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise _in_words(path, lines, error) from None
    return StudyFile(path, text, study, lines)


def _not_yaml(path: Path, error: yaml.YAMLError) -> UserError:
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}" if mark else ""
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    reason = _REASONS.get(reason, reason)
    return UserError(f"{path}{line}: this is not valid YAML ({reason}): fix it there")


def _lines(path: Path, node: yaml.Node | None, place: Path_ = ()) -> "list[tuple[Path_, int]]":
    """Return the line of each value, with its place.

    Raises UserError for a key that is doubled, and for a number that YAML misreads.
    """
    if node is None:
        return []
    found: list[tuple[Path_, int]] = [(place, node.start_mark.line + 1)] if place else []
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line, is_text = key.start_mark.line + 1, isinstance(key, yaml.ScalarNode)
            name = str(key.value) if is_text else "a list or a record"
            here = (*place, name)
            if not key.tag.endswith(":str"):
                raise mistake(path, {here: line}, here, "is no setting: their names are words")
            if name in seen:
                raise mistake(path, {here: line}, here, f"is there twice (line {seen[name]} too)")
            seen[name] = line
            found += [*_lines(path, value, here), (here, line)]
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            found += _lines(path, value, (*place, number))
    elif what := yaml_files.misread(node):
        raise mistake(path, dict(found), place, what)
    return found


def _empty(content: Any, place: Path_ = ()) -> Path_ | None:
    """Return the place of the first value that was left out after its name, or None."""
    if content is None:
        return place
    if not isinstance(content, dict):
        return None
    found = (_empty(value, (*place, str(key))) for key, value in content.items())
    return next((one for one in found if one is not None), None)


def _in_words(path: Path, lines: Mapping[Path_, int], error: ValidationError) -> UserError:
    """Return the first mistake in a file, by its lines; what is missing may be a name misspelt."""
    errors = [(mistake, tuple(mistake["loc"])) for mistake in error.errors()]
    first, place = min(errors, key=lambda one: lines.get(one[1], math.inf))
    known = Study if len(place) == 1 else _section(str(place[0]))
    names = ", ".join(field.alias or name for name, field in known.model_fields.items())
    near = difflib.get_close_matches(str(place[-1]), names.split(", "), n=1)
    instead = f"did you mean {near[0]}?" if near else f"the settings here are {names}"
    reasons = {
        "extra_forbidden": f"is no setting; {instead}",
        "missing": "is missing: give it",
        "model_type": "must be a group of settings, one a line under it",
        "invalid_key": f"is no setting; {instead}",
    }
    what = reasons.get(first["type"], first["msg"].removeprefix("Value error, "))
    return mistake(path, lines, place, what)


def _section(name: str) -> type[BaseModel]:
    """Return the model of a section of the file."""
    kind = Study.model_fields[name].annotation if name in Study.model_fields else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else Study
