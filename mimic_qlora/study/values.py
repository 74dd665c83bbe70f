"""Values of a study file, read as the scripts read the same ones from their command lines."""

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator

from mimic_qlora.step import command_line, ssh
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import settings as training

T = TypeVar("T")


def read_as(kind: Callable[[str], T]) -> PlainValidator:
    """Return a check that a value is one that the type of an argument takes."""

    def read(value: Any) -> T:
        if isinstance(value, (dict, list)):
            raise ValueError(f"must be one value, not a {_name(value)}")
        if isinstance(value, bool):  # else `run: on` would be a run of the name True
            raise ValueError(f"is {value} to YAML: write a number, or a name between quotes")
        try:
            return kind(str(value))
        except argparse.ArgumentTypeError as error:
            raise ValueError(str(error)) from None

    return PlainValidator(read)


def one_of(choices: Sequence[str]) -> PlainValidator:
    """Return a check that a value is one of the texts that are allowed."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {shown(value)}")
        return value

    return PlainValidator(read)


def list_of(kind: PlainValidator) -> PlainValidator:
    """Return a check that a value is a list, without repeats, of values of a kind."""

    def read(value: Any) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise ValueError(f"must be a list such as [a, b], not {shown(value)}")
        found = [kind.func(one) for one in value]  # type: ignore[call-arg]
        if len(set(found)) < len(found):
            raise ValueError("names something twice")
        return found

    return PlainValidator(read)


def shown(value: Any) -> str:
    """Return a value of a file as a sentence can hold it."""
    if value in (None, "", [], {}):
        return "nothing"
    return f"a {_name(value)}" if isinstance(value, (dict, list)) else str(value)


def _name(value: dict[Any, Any] | list[Any]) -> str:
    return "list" if isinstance(value, list) else "group of settings"


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"must be a text, not {shown(value)}: put it between quotes")
    if "\0" in value:  # no path and no argument of a command holds one
        raise ValueError("holds a NUL character: write it without")
    return value


def _patient(value: Any) -> str:
    if not re.fullmatch(r"random|[0-9]{1,18}", str(value)):
        raise ValueError(f"must be a number such as 10014729, or random, not {shown(value)}")
    return str(value)


def _time(value: Any) -> str:
    from mimic_qlora.qa import patient  # half a second, which few files need

    try:
        patient.parse_time(_text(value))
    except UserError as error:
        raise ValueError(str(error)) from None
    return str(value)


def _checkpointing(value: Any) -> str:
    if isinstance(value, bool) or not training.is_checkpointing(str(value)):
        raise ValueError(f"must be none, all, auto, or a number of layers, not {shown(value)}")
    return str(value)


def _yes_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {shown(value)}")
    return value


TEXT = PlainValidator(_text)
Text = Annotated[str, TEXT]
YesNo = Annotated[bool, PlainValidator(_yes_no)]
PositiveInt = Annotated[int, read_as(command_line.positive_int)]
Count = Annotated[int, read_as(command_line.whole_number(0))]
PositiveNumber = Annotated[float, read_as(command_line.positive_number)]
Share = Annotated[float, read_as(command_line.share)]
Trials = Annotated[int, read_as(command_line.whole_number(1))]
Patients = Annotated[int, read_as(command_line.whole_number(10, 10_000_000))]
Rejects = Annotated[int, read_as(command_line.whole_number(0, 10**12))]
Margin = Annotated[float, read_as(command_line.number(0.0001, 0.5))]
Pairs = Annotated[int, read_as(command_line.whole_number(1, 30))]
LearningRate = Annotated[float, read_as(command_line.number(*training.LEARNING_RATES))]
Rank = Annotated[int, read_as(command_line.whole_number(1, training.HIGHEST_RANK))]
Minutes = Annotated[float, read_as(command_line.number(0, command_line.MOST))]
Rate = Annotated[float, read_as(command_line.rate)]
SEED = read_as(command_line.seed)
Seed = Annotated[int, SEED]
Checkpointing = Annotated[str, PlainValidator(_checkpointing)]
PatientName = Annotated[str, PlainValidator(_patient)]
Time = Annotated[str, PlainValidator(_time)]
Host = Annotated[str, read_as(ssh.jump_host)]
Hours = Annotated[float, read_as(command_line.number(0.1, 10_000))]
FolderName = Annotated[str, read_as(command_line.folder_name)]
Device = Annotated[str, one_of(("auto", "cpu"))]
