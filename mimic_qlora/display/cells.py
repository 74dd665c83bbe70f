"""Table cells as people read them. A table is a list of rows with the same keys, its columns."""

import math
import re
from collections.abc import Mapping, Sequence

from mimic_qlora.step.plain_text import inline

Cell = str | int | float | None
Row = Mapping[str, Cell]

_IDENTIFIERS = ("icd_version", "itemid", "seed")  # whole numbers that no one counts with
_NUMBER = re.compile(r"^[<+-]?\d[\d,.]*%?( [(\[].*)?$")


def shown(value: Cell, column: str = "") -> str:
    """Return a cell as text: thousands apart, about three digits of a decimal, None empty.

    Text of a chart is inert and on one line.

    Columns whose name ends in "share" hold parts of one and are shown as percentages.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        if column.endswith("share"):
            return f"{value:.1%}"
        return f"{value:,.{3 if abs(value) <= 1 else 2 if abs(value) < 10 else 1}f}"
    if isinstance(value, int) and column not in _IDENTIFIERS:
        return f"{value:,}"
    return inline(str(value))


def is_numeric(rows: Sequence[Row], column: str) -> bool:
    """Tell whether a column is set flush right: numbers, and text such as "<10" or "12 (34%)"."""
    values = [row[column] for row in rows if row[column] not in (None, "")]
    return bool(values) and all(
        isinstance(value, (int, float))
        or value in ("hidden", "undefined")
        or (isinstance(value, str) and _NUMBER.match(value))
        for value in values
    )
