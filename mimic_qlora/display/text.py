"""Text of charts and models as a terminal may show it: inert, on one line, within a width."""

import unicodedata

from mimic_qlora.step.plain_text import inline, printable

__all__ = ["columns", "folded", "inline", "one_line", "printable"]


def folded(text: str) -> str:
    """Return the printable text as one line, with single spaces between the words."""
    return " ".join(inline(text).split())


def one_line(text: str, width: int) -> str:
    """Return the text in quotation marks on one line, cut to `width` terminal columns."""
    text = folded(text)
    room, kept = width - 2, ""
    if columns(text) > room:
        for character in text:
            if columns(kept + character) > room - 1:
                break
            kept += character
        text = kept.rstrip() + "…"
    return f'"{text}"'


def columns(text: str) -> int:
    """Return the terminal columns that the text takes.

    East Asian wide characters and emoji take two, combining marks none.
    """
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
