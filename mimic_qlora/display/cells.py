"""Table cells as people read them. A table is a list of rows with the same keys, its columns."""

import math
import re
from collections.abc import Mapping, Sequence

from mimic_qlora.step.plain_text import inline

Cell = str | int | float | None
Row = Mapping[str, Cell]

_IDENTIFIERS = ("icd_version", "itemid", "seed")  # whole numbers that no one counts with
# Headings that say more than the name of the column; all others are the name with blanks.
HEADINGS = {
    "label": "diagnosis",
    "target": "diagnosis",
    "train_share": "in training",
    "test_share": "in test",
    "test_with": "test patients with it",
    "patients_share": "of all patients",
    "empty_share": "empty",
    "none_share": "with none",
    "auroc": "AUROC",
    "auroc_low": "95% from",
    "auroc_high": "to",
    "auroc_rows": "of row counts alone",
    "held_out_auroc": "AUROC, held out",
    "held_out_auroc_rows": "of row counts alone",
    "beyond_rows_low": "gain, 95% from",
    "beyond_rows_high": "to",
    "ap_low": "95% from",
    "ap_high": "to",
    "predicted_share": "predicted",
    "observed_share": "observed",
    "brier": "Brier score",
    "calibration_slope": "slope of calibration",
    "permutation_drop": "fall of AUROC",
    "drop_low": "95% from",
    "drop_high": "to",
    "selected_share": "draws above the shadows",
    "gain_share": "of the models' gain",
    "best_target": "matters most for",
    "low": "95% from",
    "high": "to",
    "icd_version": "ICD",
    "icd_code": "code",
    "of_each_record": "of each record",
}
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


def heading(column: str) -> str:
    """Return the heading of a column for people."""
    return inline(HEADINGS.get(column, column.replace("_", " ")))


def is_numeric(rows: Sequence[Row], column: str) -> bool:
    """Tell whether a column is set flush right: numbers, and text such as "<10" or "12 (34%)"."""
    values = [row[column] for row in rows if row[column] not in (None, "")]
    return bool(values) and all(
        isinstance(value, (int, float))
        or value in ("hidden", "undefined", "too few")
        or (isinstance(value, str) and _NUMBER.match(value))
        for value in values
    )
