"""Tables of text for a terminal: numbers flush right, long text on further lines of its cell."""

import re
from collections.abc import Sequence

from mimic_qlora.display import text
from mimic_qlora.display.cells import Row, heading, is_numeric, shown
from mimic_qlora.step import terminal

_GAP = "  "
_INDENT = "  "  # of the further lines of a cell
_LEAST = 8  # terminal columns of text at least, where even words must be broken
_LONG = 24  # terminal columns of a word that may be broken before a column is left out
_PARTS = re.compile(r"(?<=[._])(?=\w)")  # where the name of a column breaks before a word does
_FEWEST = 2  # columns that a table keeps, however narrow the terminal


def text_table(
    rows: Sequence[Row],
    title: str = "",
    columns: Sequence[str] | None = None,
    width: int | None = None,
) -> str:
    """Return the rows as a table of at most `width` terminal columns, under its title.

    `columns` picks and orders the columns of the rows, by default all; `width` is by default that
    of the terminal. Text that is too long, and headings of numbers, go on in further lines; a word
    is broken only where it is wider than its column can be. Numbers are never cut: where there is
    no room for all columns, the last ones are left out and named under the table.
    """
    width = width or terminal.width()
    head = ["", terminal.fitted(title, width)] if title else []
    if not rows:
        return "\n".join([*head, "  (none)"])
    columns = list(columns or rows[0])
    right = [is_numeric(rows, column) for column in columns]
    head_cells = [heading(column) for column in columns]
    table = [head_cells, *([shown(row[c], c) for c in columns] for row in rows)]
    n = len(columns)
    while (widths := _widths(table, right, width, n)) is None:
        n -= 1
    lines = [line for cells in table[:1] for line in _lines(cells[:n], widths, right, True)]
    lines.append(_GAP.join("-" * width for width in widths))
    lines += [line for cells in table[1:] for line in _lines(cells[:n], widths, right)]
    if n < len(columns):
        names = ", ".join(name.strip() for name in head_cells[n:])
        lines.append(terminal.fitted(f"(in a wider window also: {names})", width))
    return "\n".join([*head, *lines])


def _widths(table: list[list[str]], right: list[bool], room: int, n: int) -> list[int] | None:
    """Return the widths of the first n columns, the widest narrowed until the table fits.

    None where it does not, unless there are only so few columns that it must.
    """
    places = range(n)
    widths = [max(text.columns(cells[i]) for cells in table) for i in places]
    words = [_longest_word(table[0][i]) if right[i] else 0 for i in places]
    least = [
        max(words[i], *(text.columns(cells[i]) for cells in table[1:]))
        if right[i]
        else max(_LEAST, *(_longest_word(cells[i]) for cells in table))
        for i in places
    ]
    for limits in (
        [width if right[i] else least[i] for i, width in enumerate(widths)],  # text, between words
        least,  # headings of numbers too
        [w if right[i] else min(w, max(_LEAST, _LONG)) for i, w in enumerate(least)],
        [w if right[i] else _LEAST for i, w in enumerate(least)] if n <= _FEWEST else least,
    ):
        widths = _narrowed(widths, limits, room)
    fits = sum(widths) + len(_GAP) * (n - 1) <= room
    return widths if fits or n <= _FEWEST else None


def _narrowed(widths: list[int], limits: list[int], room: int) -> list[int]:
    """Return the widths, the widest taken in a column at a time, none below its limit."""
    widths = list(widths)
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - room
    while excess > 0 and (wide := [i for i, w in enumerate(widths) if w > limits[i]]):
        widths[max(wide, key=lambda i: widths[i])] -= 1
        excess -= 1
    return widths


def _longest_word(cell: str) -> int:
    """Return the width that holds each word of a cell, also on its indented further lines."""
    indent = len(cell) - len(cell.lstrip(" ")) + len(_INDENT)
    return indent + max((text.columns(word) for word in cell.split()), default=0)


def _lines(
    cells: list[str], widths: list[int], right: list[bool], is_head: bool = False
) -> list[str]:
    """Return the lines that a row of the table takes."""
    wrapped = [
        [line.strip() for line in wrap(cell, width)]
        if is_right and is_head
        else [cell]
        if is_right
        else wrap(cell, width)
        for cell, width, is_right in zip(cells, widths, right, strict=False)
    ]
    lines = []
    for number in range(max(map(len, wrapped))):
        parts = []
        for piece, width, is_right in zip(wrapped, widths, right, strict=False):
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
        for part in _PARTS.split(word):
            if line.strip() and text.columns(line + part) > width:
                lines.append(line)
                line = indent + _INDENT
            for character in part:
                if text.columns(line + character) > width:
                    lines.append(line)
                    line = indent + _INDENT
                line += character
    return [*lines, line]
