"""Tables of text for a terminal."""

import math
import re

WIDTH = 100


def shown(value, column: str = "") -> str:
    """One cell as people read it: thousands apart, decimals to some three digits, shares as percentages, None empty."""
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
    return (
        f"{value:,}"
        if isinstance(value, int) and column not in ("icd_version", "itemid", "seed")
        else str(value)
    )


def _numeric(rows: list, column: str) -> bool:
    """Numbers, and what stands for one, such as "<10" or "12 (34%)", are set flush right."""
    values = [row[column] for row in rows if row[column] not in (None, "")]
    return bool(values) and all(
        isinstance(v, (int, float)) or v in ("hidden", "undefined") or _NUMBER.match(v)
        for v in values
    )


_NUMBER = re.compile(r"^[<+-]?\d[\d,.]*%?( [(\[].*)?$")


def terminal(rows: list, title: str, width: int = WIDTH, columns: list | None = None) -> str:
    """A table of text no wider than `width`: text columns are cut, the widest first, numbers never."""
    if not rows:
        return f"\n{title}\n  (none)"
    columns = columns or list(rows[0])
    lines = [columns] + [[shown(row[c], c) for c in columns] for row in rows]
    right = [_numeric(rows, c) for c in columns]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    texts = [i for i in range(len(columns)) if not right[i]]
    while sum(widths) + 2 * (len(widths) - 1) > width and any(widths[i] > 8 for i in texts):
        widths[max(texts, key=lambda i: widths[i])] -= 1
    lines.insert(1, ["-" * w for w in widths])
    fitted = [
        [_fit(cell, w, r) for cell, w, r in zip(line, widths, right, strict=True)] for line in lines
    ]
    return "\n".join(["", title, *("  ".join(line).rstrip() for line in fitted)])


def _fit(text: str, width: int, right: bool) -> str:
    text = text if len(text) <= width else text[: width - 1] + "…"
    return text.rjust(width) if right else text.ljust(width)
