"""Tables of text for a terminal: numbers flush right, long text on further lines of its cell."""

from collections.abc import Sequence

from mimic_qlora.display import text
from mimic_qlora.display.cells import Row, is_numeric, shown

WIDTH = 100  # of everything that the scripts print, in terminal columns
_GAP = "  "
_INDENT = "  "  # of the further lines of a cell
_LEAST = 8  # terminal columns of text at least, where even words must be broken


def text_table(
    rows: Sequence[Row],
    title: str = "",
    columns: Sequence[str] | None = None,
    width: int = WIDTH,
) -> str:
    """Return the rows as a table of at most `width` terminal columns, under its title.

    `columns` picks and orders the columns of the rows, by default all. Text that is too long goes
    on in further lines; a word is broken only where it is wider than its column can be. Numbers
    are never cut, so a table of many numeric columns may be wider.
    """
    head = ["", title] if title else []
    if not rows:
        return "\n".join([*head, "  (none)"])
    columns = list(columns or rows[0])
    right = [is_numeric(rows, column) for column in columns]
    head_cells = [shown(column) for column in columns]
    table = [head_cells, *([shown(row[c], c) for c in columns] for row in rows)]
    widths = _widths(table, right, width)
    lines = [line for cells in table[:1] for line in _lines(cells, widths, right)]
    lines.append(_GAP.join("-" * width for width in widths))
    lines += [line for cells in table[1:] for line in _lines(cells, widths, right)]
    return "\n".join([*head, *lines])


def _widths(table: list[list[str]], right: list[bool], room: int) -> list[int]:
    """Return the width of each column, the widest text columns narrowed until the table fits."""
    places = range(len(right))
    widths = [max(text.columns(cells[i]) for cells in table) for i in places]
    words = [max(_longest_word(cells[i]) for cells in table) for i in places]
    texts = [i for i in places if not right[i]]
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - room
    for least in (words, [_LEAST] * len(words)):  # between words; then through them
        while excess > 0 and (wide := [i for i in texts if widths[i] > max(least[i], _LEAST)]):
            widths[max(wide, key=lambda i: widths[i])] -= 1
            excess -= 1
    return widths


def _longest_word(cell: str) -> int:
    """Return the width that holds each word of a cell, also on its indented further lines."""
    indent = len(cell) - len(cell.lstrip(" ")) + len(_INDENT)
    return indent + max((text.columns(word) for word in cell.split()), default=0)


def _lines(cells: list[str], widths: list[int], right: list[bool]) -> list[str]:
    """Return the lines that a row of the table takes."""
    wrapped = [
        [cell] if is_right else wrap(cell, width)
        for cell, width, is_right in zip(cells, widths, right, strict=True)
    ]
    lines = []
    for number in range(max(map(len, wrapped))):
        parts = []
        for piece, width, is_right in zip(wrapped, widths, right, strict=True):
            part = piece[number] if number < len(piece) else ""
            space = " " * (width - text.columns(part))
            parts.append(space + part if is_right else part + space)
        lines.append(_GAP.join(parts).rstrip())
    return lines


def wrap(cell: str, width: int) -> list[str]:
    """Return text as lines of at most `width` terminal columns; further lines are indented."""
    if text.columns(cell) <= width:
        return [cell]
    indent = " " * (len(cell) - len(cell.lstrip(" ")))
    lines, line = [], indent
    for word in cell.split():
        joined = f"{line} {word}" if line.strip() else line + word
        if text.columns(joined) <= width:
            line = joined
            continue
        if line.strip():
            lines.append(line)
            line = indent + _INDENT
        for character in word:
            if text.columns(line + character) > width:
                lines.append(line)
                line = indent + _INDENT
            line += character
    return [*lines, line]
