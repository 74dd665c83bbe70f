"""The entries of the clinical content files: what each field may hold, and how a file is read.

A slip in an edit is reported by file, entry and field before anything runs on it.
"""

import re
from pathlib import Path

from mimic_qlora.step.errors import UserError

SECTIONS = {
    "try": "What you can try now",
    "urgent": "When to seek urgent care",
    "track": "What to track or share with a clinician",
}

# Each check returns what is wrong with a value, or None.


def _text(value):
    return None if isinstance(value, str) and value.strip() else "must be a text"


def _flag(value):
    return None if isinstance(value, bool) else "must be true or false"


def _regex(value):
    if not isinstance(value, str) or not value.strip():
        return "must be a regular expression"
    try:
        return (
            "matches an empty text, so it would match everything"
            if re.compile(value).search("")
            else None
        )
    except re.error as error:
        return f"is not a regular expression ({error}): {value}"


def _one_of(*choices):
    return lambda value: (
        None if value in choices else f"must be one of {', '.join(map(str, choices))}"
    )


def _list_of(check, at_least=0):
    def check_list(value):
        if not isinstance(value, list) or len(value) < at_least:
            return f"must be a list of at least {at_least}"
        return next(
            (f"item {i}: {wrong}" for i, item in enumerate(value, 1) if (wrong := check(item))),
            None,
        )

    return check_list


def _record(required, optional=None):
    def check_record(value):
        if not isinstance(value, dict):
            return f"must have the fields {', '.join(required)}"
        known = required | (optional or {})
        unknown = [field for field in value if field not in known]
        missing = [field for field in required if field not in value]
        if unknown or missing:
            return (
                f"unknown field '{unknown[0]}'" if unknown else f"field '{missing[0]}' is missing"
            )
        return next(
            (
                f"field '{field}' {wrong}"
                for field in value
                if (wrong := known[field](value[field]))
            ),
            None,
        )

    return check_record


def _prefix(value):
    return (
        None
        if isinstance(value, str) and re.fullmatch("[A-Z0-9]+", value)
        else "must be an ICD code prefix in quotes, upper case, without a dot"
    )


def _number(value):
    return (
        None
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        else "must be a number"
    )


def _integer(value):
    return (
        None if isinstance(value, int) and not isinstance(value, bool) else "must be a whole number"
    )


def _unit(value):
    return None if isinstance(value, str) else "must be a text ('' where the lab has no unit)"


def _url(value):
    return (
        None
        if isinstance(value, str) and value.startswith("https://")
        else "must be an https:// address"
    )


def _day(value):
    correct = isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value)
    return None if correct else 'must be a day in quotes, like "2026-01-31"'


def _say(value):
    """A plain sentence, or {say, unless: [caution ids]}."""
    return (
        _text(value)
        if isinstance(value, str)
        else _record({"say": _text, "unless": _list_of(_text, 1)})(value)
    )


def _lab(value):
    wrong = _record(
        {"itemid": _list_of(_integer, 1), "unit": _unit, "within_days": _number},
        {"above": _number, "below": _number},
    )(value)
    return wrong or (
        None if ("above" in value) != ("below" in value) else "needs either 'above' or 'below'"
    )


def _age(value):
    wrong = _record({}, {"at_least": _number, "below": _number})(value)
    return wrong or (None if value else "needs 'at_least' or 'below'")


def _when(value):
    if not isinstance(value, dict) or len(value) != 1:
        return "must be one condition, like {phenotype: id} or {any: [...]}"
    kind, item = next(iter(value.items()))
    if kind not in CONDITIONS:
        return f"unknown condition '{kind}'"
    wrong = CONDITIONS[kind](item)
    return f"condition '{kind}': {wrong}" if wrong else None


_PREFIXES = _list_of(_prefix)
CONDITIONS = {  # of a caution: what its value may be; clinical.HOLDS says when it is met
    "any": lambda items: _list_of(_when, 1)(items),
    "all": lambda items: _list_of(_when, 1)(items),
    "none": lambda items: _list_of(_when, 1)(items),
    "phenotype": _text,
    "drug_class": _text,
    "lab": _lab,
    "age": _age,
    "sex": _one_of("F", "M"),
    "procedure": _record({"icd9": _PREFIXES, "icd10": _PREFIXES, "within_days": _number}),
}

_TEXTS = _list_of(_text, 1)
_COMMON = {
    "id": lambda value: (
        None
        if isinstance(value, str) and re.fullmatch("[a-z0-9_]+", value)
        else "must be lower-case words joined by _"
    ),
    "sources": _list_of(_record({"title": _text, "url": _url}), 1),
    "reviewed_by": lambda value: None if value is None else _text(value),
}
_REVIEWED_ON = {"reviewed_on": lambda value: None if value is None else _day(value)}


def _entry(required, optional=None):
    return _record(_COMMON | required, _REVIEWED_ON | (optional or {}))


_RED_FLAG = _record({"say": _text, "pattern": _regex})
SCHEMA = {
    "phenotypes": _entry(
        {
            "name": _text,
            "kind": _one_of("condition", "status", "acute"),
            "icd9": _PREFIXES,
            "icd10": _list_of(_prefix, 1),
        },
        {"exclude9": _PREFIXES, "exclude10": _PREFIXES},
    ),
    "drugs": _entry(
        {
            "name": _text,
            "ingredients": _TEXTS,
            "exclude": _list_of(_text),
            "routes": _list_of(_text),
        }
    ),
    "symptoms": _entry(
        {
            "name": _text,
            "tags": _TEXTS,
            "held_out": _flag,
            "phrasings": _list_of(_text, 5),
            "try": _list_of(_say, 6),
            "urgent": _list_of(_RED_FLAG, 6),
            "track": _list_of(_text, 6),
        }
    ),
    "cautions": _entry(
        {
            "severity": _one_of(1, 2, 3),
            "section": _one_of(*SECTIONS),
            "when": _when,
            "symptoms": _TEXTS,
            "say": _text,
            "pattern": _list_of(_regex, 1),
            "forbid": _list_of(_regex),
            "held_out": _flag,
        }
    ),
    "questions": _entry(
        {
            "symptom": _text,
            "question": _text,
            "ideal": _text,
            "red_flags": _list_of(_record({"name": _text, "pattern": _regex}), 1),
        },
        {"tags": _TEXTS},
    ),
    "knowledge": _entry(
        {
            "question": _text,
            "ideal": _text,
            "key_points": _list_of(_record({"point": _text, "pattern": _regex}), 1),
        }
    ),
}


def read(folder, name):
    """id -> entry of one content file, checked, in file order. Raises UserError like `load`."""
    import yaml

    path = Path(folder) / f"{name}.yaml"
    try:
        entries = yaml.load(
            path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(
            f"{path.name} is not valid YAML"
            f"{f' near line {mark.line + 1}' if mark else ''}: check its indents and quotes."
        ) from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path.name} must hold a list of entries.")
    by_id = {}
    for number, entry in enumerate(entries, 1):
        entry_id = entry.get("id") if isinstance(entry, dict) else None
        where = f"{path.name}, entry {number}" + (
            f" ({entry_id})" if isinstance(entry_id, str) else ""
        )
        wrong = SCHEMA[name](entry)
        if wrong:
            raise UserError(f"{where}: {wrong}.")
        if entry_id in by_id:
            raise UserError(f"{where}: field 'id' is used by an earlier entry.")
        by_id[entry_id] = entry
    return by_id
