"""Text of charts, models, files and people: inert where it is shown, whole where it is read."""

import codecs
import re
import unicodedata

# control, formatting, private use, surrogates, line and paragraph separators
_STEERING = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
_BY_BOM = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def printable(text: str) -> str:
    """Return the text without control, formatting and bidirectional characters. Newlines stay."""
    text = text.replace("\t", " ")
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(c for c in text if c == "\n" or unicodedata.category(c) not in _STEERING)


def inline(text: str) -> str:
    """Return the printable text on one line: a line break of any kind is a blank, an indent stays.

    For cells, labels and names, whose place allows no second line.
    """
    return printable(" ".join(text.splitlines()) if text else text)


def in_markdown(text: str) -> str:
    """Return the text on one line that Markdown shows as it stands: a name is no link, no HTML."""
    return re.sub(r"[\\`*<>|\[\]]", r"\\\g<0>", inline(text))


def unhidden(text: str) -> str:
    """Return the text with what `printable` leaves out as escapes, so that a cause is seen.

    A path that ends in a carriage return looks like one that is there.
    """
    return "".join(c if c == "\n" or printable(c) == c else ascii(c)[1:-1] for c in text)


def is_whole(text: str) -> bool:
    """Tell whether a text is Unicode: no byte of another encoding, no half of a character."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def typed(text: str) -> str:
    """Return a text that was typed or given as an argument.

    Python hides bytes that do not fit its locale in surrogates; where they are UTF-8 after all, as
    in a C locale, they are read. Raises UnicodeError where they are not.
    """
    return text if is_whole(text) else text.encode("utf-8", "surrogateescape").decode("utf-8")


def in_utf8(data: bytes, errors: str = "strict") -> bytes:
    """Return the content of a text file as UTF-8 without a byte order mark.

    A mark names the encoding: PowerShell and Excel's "Unicode text" write UTF-16. Raises
    UnicodeDecodeError where UTF-16 is cut or broken, unless `errors` is "replace"; other content is
    returned as it is.
    """
    for mark, encoding in _BY_BOM.items():
        if data.startswith(mark):
            rest = data[len(mark) :]
            return rest if mark == codecs.BOM_UTF8 else data.decode(encoding, errors).encode()
    return data
