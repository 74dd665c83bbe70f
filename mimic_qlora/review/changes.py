"""What changed in the content, and why: changes.yaml, as the review pages show it."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from mimic_qlora.clinical import content, schema
from mimic_qlora.clinical.schema import Caution, Change, Entry
from mimic_qlora.step.errors import UserError

FILE = "changes"


def load() -> list[Change]:
    """Return the changes of changes.yaml, in file order; none where it is not there.

    Raises UserError for a mistake, with the number of the change and the field.
    """
    path = content.DATA / f"{FILE}.yaml"
    return list(_read(content.DATA, path.stat().st_mtime_ns)) if path.is_file() else []


@lru_cache(maxsize=4)
def _read(folder: Path, _changed: int) -> tuple[Change, ...]:
    found = []
    for number, values in enumerate(schema.raw(folder, FILE), 1):
        try:
            found.append(Change.model_validate(values))
        except ValidationError as error:
            raise UserError(f"{FILE}.yaml, entry {number}: {schema.mistake(error)}.") from None
    return tuple(found)


def by_entry(changes: Iterable[Change]) -> dict[str, list[Change]]:
    """Return "kind/id" -> its changes, the most harmful first."""
    found: dict[str, list[Change]] = {}
    for change in sorted(changes, key=lambda one: -one.severity):
        for key in change.entries:
            found.setdefault(key, []).append(change)
    return found


def severity(key: str, entry: Entry, changed: Mapping[str, list[Change]]) -> tuple[int, int, int]:
    """Return how much it matters to read an entry: by its worst changes, whether one of them asks
    something, and by the entry itself.

    The first and the last run from 0 to 3. A caution matters as much as leaving it out harms where
    it matters most.
    """
    own = max(entry.severities.values()) if isinstance(entry, Caution) else 0
    worst = max((change.severity for change in changed.get(key, ())), default=0)
    asks = any(change.ask for change in changed.get(key, ()) if change.severity == worst)
    return worst, int(asks), own
