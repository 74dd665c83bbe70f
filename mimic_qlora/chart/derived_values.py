"""The values that follow from a chart's lab results, by the formulas of `clinical.derived`."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from mimic_qlora.chart.rows import Row
from mimic_qlora.clinical import derived


class DerivedFact(NamedTuple):
    """The newest value that follows from lab results, with their rows."""

    value: float
    unit: str
    days_ago: int
    rows: tuple[Row, ...]


Found = tuple[float, tuple[Row, ...]]  # value, rows of one specimen


def of_history(
    history: Mapping[int, list[Row]], age: int | None, sex: str | None, as_of: datetime
) -> dict[str, DerivedFact]:
    """Return "egfr" and "neutrophils" where the results allow them, each the newest.

    `history` maps itemid to its rows, newest first. Results in other units are left out; a value
    older than a result without a number is none, as that may be far from it ("<0.1").
    """
    found = {"neutrophils": _newest(_neutrophils(history))}
    if age is not None and sex in ("F", "M"):
        rows = _measured(history, derived.CREATININE, "mg/dL")
        found["egfr"] = _newest(
            (derived.egfr(row["valuenum"], age, sex), (row,)) for row in rows if row["valuenum"] > 0
        )
    unread = {
        item: rows[0]["charttime"]
        for item, rows in history.items()
        if rows and rows[0].get("valuenum") is None
    }
    return {
        name: DerivedFact(
            best[0],
            derived.MEANINGS[name].unit,
            (as_of - best[1][0]["charttime"]).days,
            best[1],
        )
        for name, best in found.items()
        if best is not None
        and not any(
            when > best[1][0]["charttime"]
            for item, when in unread.items()
            if item in derived.MEANINGS[name].items
        )
    }


def _neutrophils(history: Mapping[int, list[Row]]) -> Iterator[Found]:
    """Yield numbers of neutrophils: as counted; white cells times percent of the same specimen;
    and fewer than 1.0 K/uL white cells, which are more than the neutrophils among them.
    """
    for row in _measured(history, derived.COUNTED, "K/uL"):
        yield row["valuenum"], (row,)
    shares = {r["charttime"]: r for r in _measured(history, {derived.NEUTROPHILS}, "%")}
    bands = {r["charttime"]: r for r in _measured(history, {derived.BANDS}, "%")}
    for row in _measured(history, derived.WHITE_CELLS, "K/uL"):
        share, young = shares.get(row["charttime"]), bands.get(row["charttime"])
        if share is not None:
            rows = (row, share, young) if young is not None else (row, share)
            percents = [one["valuenum"] for one in rows[1:]]
            yield derived.neutrophils(row["valuenum"], *percents), rows
        elif row["valuenum"] < 1.0:
            yield row["valuenum"], (row,)


def _measured(history: Mapping[int, list[Row]], items: Iterable[int], unit: str) -> Iterator[Row]:
    for item in sorted(items):
        for row in history.get(item, ()):
            if row.get("valuenum") is not None and (row.get("valueuom") or "").strip() == unit:
                yield row


def _newest(values: Iterable[Found]) -> Found | None:
    """Return the value of the newest specimen; of one specimen the first."""
    return max(values, key=lambda found: found[1][0]["charttime"], default=None)
