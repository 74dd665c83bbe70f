"""What a person sees of a run: lines that fit the terminal, broken between words."""

import os
import re
import shlex
import sys
import textwrap
import unicodedata
from typing import IO

from mimic_qlora.step.plain_text import printable

WIDTH = 100  # columns of what the scripts print at most, and where nobody's terminal is known
LEAST = 40  # narrower terminals break words after all
INDENT = "  "  # of the further lines of a long one


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


def is_terminal(stream: IO[str] | None) -> bool:
    """Return whether a stream is a terminal; a closed or missing one is none."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def width() -> int:
    """Return the columns that lines and tables may take, from LEAST to WIDTH.

    They are those of the terminal, also where standard output goes through `tee`, of $COLUMNS
    where there is none, and else WIDTH.
    """
    return max(LEAST, min(WIDTH, _columns_of(_seen()) or WIDTH))


def _seen() -> IO[str] | None:
    """Return the stream at which somebody looks, None where output goes into files alone."""
    return next((s for s in (sys.stdout, sys.stderr) if is_terminal(s)), None)


def _columns_of(stream: IO[str] | None) -> int:
    """Return the columns of a terminal, of $COLUMNS without one, 0 where neither tells."""
    if stream is not None:
        try:
            return os.get_terminal_size(stream.fileno()).columns
        except (OSError, ValueError, AttributeError):
            pass
    named = os.environ.get("COLUMNS", "")
    return int(named) if named.isdecimal() and len(named) < 6 else 0


def fitted(text: str, room: int) -> str:
    """Return the text with each line that is wider than `room` folded between its words.

    Further lines are indented under the first one. What has no blank, such as a path, stays whole.
    """
    if columns(text) <= room:
        return text
    return "\n".join(_folded(line, room) for line in text.split("\n"))


def _folded(line: str, room: int) -> str:
    if columns(line) <= room or " " not in line.strip():  # such as a path that was folded before
        return line
    indent = re.match(" *", line)[0] + INDENT  # type: ignore[index]  # it always matches
    if room <= len(indent) + LEAST // 2:
        return line
    # each wide character takes a column more than textwrap counts
    spare = room - max(0, columns(line) - len(line)) * room // columns(line)
    return textwrap.fill(
        line,
        spare,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )


def say_aside(text: str) -> None:
    """Print a text to standard error, folded where that is a terminal."""
    print(fitted(text, width()) if is_terminal(sys.stderr) else text, file=sys.stderr)


def pasteable(command: str) -> str:
    """Return a shell command, indented; on a narrow terminal in lines that can be pasted as one."""
    command = shown(command)
    room = width() - len(INDENT) - len(" \\")
    if columns(command) <= room or _seen() is None:
        return INDENT + command
    lines, line = [], ""
    for word in _words(command):
        if line and columns(f"{line} {word}") > room - len(INDENT):
            lines.append(line)
            line = _cut(word, room - len(INDENT))
        else:
            line = f"{line} {word}" if line else word
    return f" \\\n{INDENT * 2}".join([INDENT + (lines + [line])[0], *(lines + [line])[1:]])


def shown(command: str) -> str:
    """Return a command so that standard output can carry it: in bash's bytes where it must be.

    A character that the encoding lacks would come out as "?", and the command name another folder.
    """
    if _is_carried(command):
        return command
    return " ".join(word if _is_carried(word) else _in_bytes(word) for word in _words(command))


def _is_carried(text: str) -> bool:
    if printable(text) != text:  # which would be left out, as a soft hyphen is
        return False
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _in_bytes(word: str) -> str:
    """Return a word of a command with the bytes of its name; as it is where it is no file's."""
    try:
        data = os.fsencode("".join(shlex.split(word)))
    except ValueError:  # a quote that is not closed, or what no file system here can name
        return word
    plain = (chr(b) if 32 <= b < 127 and b not in b"\\'" else f"\\x{b:02x}" for b in data)
    return f"$'{''.join(plain)}'"


def _cut(word: str, room: int) -> str:
    """Return a quoted word that is too long in lines that a shell reads as one word.

    What follows a line's end must begin at the very left, else it would be another word.
    """
    if columns(word) <= room or not re.fullmatch("'[^']*'", word):
        return word
    wrapper = textwrap.TextWrapper(
        room - len("''"),
        expand_tabs=False,
        replace_whitespace=False,
        drop_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
    pieces = "'\\\n'".join(wrapper.wrap(word[1:-1]))
    return f"'{pieces}'"


def _words(command: str) -> list[str]:
    """Return the words of a command as they are written, with their quotes."""
    try:
        shlex.split(command)
    except ValueError:  # a quote that is not closed
        return [command]
    return re.findall(r"(?:'[^']*'|\"[^\"]*\"|\\.|[^\s'\"\\])+", command)


class Flow:
    """A text that comes in pieces, such as a model's answer, folded between words as it comes.

    A word is shown when the blank after it has come, since it may have to go onto the next line.
    """

    def __init__(self, room: int | None = None) -> None:
        """Fold at `room` columns, by default those of the terminal; without one, nowhere."""
        self._room = room or (width() if is_terminal(sys.stdout) else 0)
        self._column, self._word = 0, ""

    def add(self, piece: str) -> str:
        """Return what is to be shown now that this piece has come."""
        if not self._room:
            return piece
        *whole, self._word = re.split(r"(?<=\s)", self._word + piece)
        return "".join(map(self._placed, whole))

    def end(self) -> str:
        """Return the last word."""
        last, self._word = self._word, ""
        return self._placed(last)

    def _placed(self, word: str) -> str:
        """Return a word with the blank after it, behind a line break where it needs one."""
        taken = columns(word.rstrip())
        broken = self._column > 0 and self._column + taken > self._room
        self._column = 0 if word.endswith("\n") else columns(word) + (0 if broken else self._column)
        return f"\n{word}" if broken else word
