"""Recipes: the YAML files that give a run the settings which the command line leaves open."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError

from mimic_qlora.step import yaml_files
from mimic_qlora.step.command_line import GREATEST
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import read_text
from mimic_qlora.training.settings import (
    COMPUTE,
    LEARNING_RATES,
    OPTIMIZERS,
    TrainSettings,
    is_checkpointing,
)


def _positive_number(value: Any) -> float:
    # returned as it is: a whole number and the same float have different manifest ids
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"must be a positive number, not {value!r}")
    if value > GREATEST:
        raise ValueError(f"must be a number above 0 and up to {GREATEST:,}, not {value!r}")
    return value


def _positive_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"must be a positive whole number, not {value!r}")
    if value > GREATEST:
        raise ValueError(f"must be a whole number from 1 to {GREATEST:,}, not {value!r}")
    return value


def _checkpointing(value: Any) -> str:
    if isinstance(value, bool) or not is_checkpointing(str(value)):
        raise ValueError(f"must be none, all, auto, or a number of layers, not {value!r}")
    return str(value)


def _one_of(choices: Sequence[str]) -> PlainValidator:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}")
        return value

    return PlainValidator(read)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {value!r}")
    return value


def _learning_rate(value: Any) -> float:
    least, most = LEARNING_RATES
    value = _positive_number(value)
    if not least <= value <= most:
        raise ValueError(f"must be a number from {least:g} to {most:g}, not {value!r}")
    return value


PositiveNumber = Annotated[float, PlainValidator(_positive_number)]
PositiveInt = Annotated[int, PlainValidator(_positive_int)]


class Recipe(BaseModel):
    """The settings that a recipe may give; the command line goes before them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, PlainValidator(_text)] | None = None
    epochs: PositiveNumber | None = None
    max_steps: PositiveInt | None = None
    lr: Annotated[float, PlainValidator(_learning_rate)] | None = None
    batch_tokens: PositiveInt | None = None
    accumulate: PositiveInt | None = None
    checkpointing: Annotated[str, PlainValidator(_checkpointing)] | None = None
    compute: Annotated[str, _one_of(COMPUTE)] = "auto"
    optimizer: Annotated[str, _one_of(OPTIMIZERS)] | None = None
    validations: PositiveInt | None = None
    limit: PositiveInt | None = None


def read_recipe(name: str, folder: Path) -> Recipe:
    """Read a recipe by its name in a folder, or by its path.

    Raises UserError, with file and setting, when it is missing or holds a mistake.
    """
    path = next((p for p in (folder / f"{name}.yaml", Path(name)) if p.is_file()), None)
    if path is None:
        names = ", ".join(
            sorted(p.stem for p in folder.glob("*.yaml") if "accelerate" not in p.stem)
        )
        raise UserError(
            f"there is no recipe {name}: give one of {names}, or the path of a YAML file"
        )
    try:
        content = yaml_files.loads(read_text(path), str(path))
    except (yaml.YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not valid YAML ({reason}): fix it there") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a recipe: write one setting a line, such as 'epochs: 1'")
    try:
        return Recipe.model_validate({str(key): value for key, value in content.items()})
    except ValidationError as error:
        raise UserError(f"{path}: {_in_words(error)}") from None


def _in_words(error: ValidationError) -> str:
    """Return the first mistake in a recipe: its setting and what it must be."""
    first = error.errors()[0]
    setting = first["loc"][0]
    if first["type"] == "extra_forbidden":
        return f"{setting} is not a setting of recipes, which are {', '.join(Recipe.model_fields)}"
    return f"{setting} {first['msg'].removeprefix('Value error, ')}"


def complete(given: dict[str, Any], recipe: Recipe, name: str) -> TrainSettings:
    """Return the settings: those given on the command line, where None the recipe's.

    Raises UserError when neither gives a setting that has no default.
    """
    settings = dict(given)
    for setting, value in recipe.model_dump(exclude={"model"}).items():
        if settings.get(setting) is None:
            settings[setting] = value
    optional = ("max_steps", "limit")
    if missing := [k for k, value in settings.items() if value is None and k not in optional]:
        raise UserError(
            f"neither the recipe {name} nor the command line gives {', '.join(missing)}"
        )
    return TrainSettings(**settings)
