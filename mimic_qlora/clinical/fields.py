"""Values that a field of the clinical content may hold, as pydantic types."""

import re
from functools import cache
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    StrictStr,
)


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern of the content files compiled, upper and lower case alike."""
    return re.compile(pattern, re.I)


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("must be a text")
    return value


def _pattern(value: str) -> str:
    try:
        matches_nothing = compiled(_text(value)).search("")
    except re.error as error:
        raise ValueError(f"is not a regular expression ({error}): {value}") from None
    if matches_nothing:
        raise ValueError("matches an empty text, so it would match everything")
    return value


def _number(value: object) -> int | float:
    """Return the number as the file has it: 30 stays an int, so that texts and hashes keep it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("must be a number")
    return value


def _severity(value: object) -> int | dict[str, int]:
    """Return 1, 2 or 3, or a mapping of "default" and of symptoms or tags to such numbers."""
    by_name = value if isinstance(value, dict) else {"default": value}
    if any(not isinstance(name, str) for name in by_name) or "default" not in by_name:
        raise ValueError("must be 1, 2 or 3, or a record with 'default' and symptoms or tags")
    if any(isinstance(n, bool) or n not in (1, 2, 3) for n in by_name.values()):
        raise ValueError("must be 1, 2 or 3")
    return value  # type: ignore[return-value]


def _shaped(shape: str, wrong: str) -> BeforeValidator:
    """Return a check that a value is a text and matches the pattern `shape` from end to end."""

    def check(value: object) -> object:
        if not isinstance(value, str) or not re.fullmatch(shape, value):
            raise ValueError(wrong)
        return value

    return BeforeValidator(check)


Text = Annotated[StrictStr, AfterValidator(_text)]
Pattern = Annotated[StrictStr, AfterValidator(_pattern)]
Number = Annotated[int | float, PlainValidator(_number)]
EntryId = Annotated[StrictStr, _shaped("[a-z0-9_]+", "must be lower-case words joined by _")]
EntryKey = Annotated[
    StrictStr, _shaped("[a-z]+/[a-z0-9_]+", "must be a file and an id, like cautions/inr_high")
]
Url = Annotated[StrictStr, _shaped("https://.*", "must be an https:// address")]
Day = Annotated[
    StrictStr, _shaped(r"\d{4}-\d\d-\d\d", 'must be a day in quotes, like "2026-01-31"')
]
Severity = Annotated[int | dict[str, int], PlainValidator(_severity)]
TellTag = Annotated[
    StrictStr,
    _shaped(
        "[a-z0-9_]+(:[a-z0-9_]+)?", "must be a tag of tells.yaml, like raise_legs or stop_drug:any"
    ),
]
CodePrefix = Annotated[
    StrictStr,
    _shaped(
        "[A-Z0-9][A-Z0-9?]*", "must be an ICD code prefix in quotes, upper case, without a dot"
    ),
]


@cache
def _starts(prefixes: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(prefix.replace("?", ".") for prefix in prefixes))


def begins(code: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether a code begins with one of the prefixes, in which "?" is any character."""
    return bool(prefixes) and _starts(prefixes).match(code) is not None


class Model(BaseModel):
    """A frozen record without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
