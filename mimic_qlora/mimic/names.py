"""Names of tables and columns that tell of a patient, as of a turned table: ids and dates.

MIMIC-IV's dates are shifted to years from 2100 on. A date of before, or a number like an id, is
somebody's where nothing else is in the name, or behind a word for an id; beside another word it is
the date of an export, or a code. `own_ids` knows the ids of the patients who are read.
"""

import re
from collections.abc import Iterator

_SHIFTED = range(2090, 2300)  # years, a few more than MIMIC-IV has
_EXPORTED = range(2000, 2090)
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_TWO = r"[0-3]?\d"  # a day or a month
_DATES = [  # each with its year
    re.compile(rf"(?<!\d){form}(?!\d)", re.ASCII | re.IGNORECASE)
    for form in (
        # the time of day may follow
        r"(\d{4})(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d{4}|\d{6})?",
        rf"(\d{{4}})[\W_]+{_TWO}[\W_]+{_TWO}",
        rf"{_TWO}[\W_]+{_TWO}[\W_]+(\d{{4}}|\d\d)",
        rf"{_TWO}[\W_]*{_MONTH}[\W_]*(\d{{4}}|\d\d)",
        rf"{_MONTH}[\W_]*{_TWO}(?:st|nd|rd|th)?[\W_]+(\d{{4}}|\d\d)",
        rf"(\d{{4}})[\W_]*{_MONTH}[\W_]*{_TWO}",
    )
]
_ID = re.compile(r"(?<!\d)[123]\d{7}(?!\d)", re.ASCII)  # of a patient, of a stay
_OF_SOMEBODY = re.compile(
    r"(?:^ids?|(?<![^\W_])(?:subject|patient|pt|p|hadm|stay|mrn)(?:[\W_]*ids?)?)[\W_]*$",
    re.IGNORECASE,
)
_NO_WORD = re.compile(rf"{_MONTH}|t|z|utc|am|pm|st|nd|rd|th", re.IGNORECASE)


def tells(name: str) -> bool:
    """Return whether a name tells an id or a date of a patient's, as far as its form shows."""
    dates = [found for form in _DATES for found in form.finditer(name)]
    if any(int(found[1]) in _SHIFTED for found in dates):
        return True
    numbers = [*dates, *_ID.finditer(name)]
    words = re.findall(r"[^\W\d_]+", name)
    if all(map(_NO_WORD.fullmatch, words)):
        return bool(numbers)
    return any(_OF_SOMEBODY.search(name[: found.start()]) for found in numbers)


def numbers(name: str) -> Iterator[str]:
    """Yield the numbers in a name that may be somebody's id: of six digits or more, and no date of
    an export's.
    """
    for found in re.finditer(r"\d{6,18}", name, re.ASCII):
        date = _DATES[0].fullmatch(found[0])
        if not (date and int(date[1]) in _EXPORTED):
            yield found[0]
