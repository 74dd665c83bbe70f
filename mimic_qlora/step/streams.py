"""Standard input, output and error made fit for any terminal: nothing printed can end a run."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import IO

from mimic_qlora.step import terminal
from mimic_qlora.step.plain_text import printable

# what a stream does with a character or byte that its encoding does not have
ERRORS = {"stdin": "surrogateescape", "stdout": "replace", "stderr": "backslashreplace"}

STDOUT = "standard output"

# streams that were replaced: the end of one would close the buffer that its successor shares
_replaced: list[io.TextIOWrapper] = []


class Inert(io.TextIOWrapper):
    """Standard output on which no text of a chart, a model or a file name steers the terminal.

    On a terminal, lines that are too long for it are folded between words.
    """

    def write(self, text: str, /) -> int:
        """Write a text without its control characters; return its length."""
        shown = printable(text)
        if terminal.is_terminal(self):
            shown = terminal.fitted(shown, terminal.width())
        with _named():
            super().write(shown)
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        with _named():
            super().flush()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Let an error of the system name standard output, as those of files name the file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or STDOUT
        raise


def make_ready() -> None:
    """Open those that are closed on nothing, and let the others replace what they cannot show.

    Under Windows code pages, in a Latin-1 or C locale and in pipes a stream refuses characters of
    charts and models; no work may be lost for a line on the screen. A closed stream's number would
    be given to the next file that is opened, and what a library prints would go into it.
    """
    for number in range(len(ERRORS)):  # all of them first: each takes the lowest free number
        _open_if_closed(number)
    for name in ERRORS:
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            nowhere = open(os.devnull, mode, encoding="utf-8", errors=ERRORS[name])
            setattr(sys, name, nowhere)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS[name])
            if name == "stdout" and type(stream) is io.TextIOWrapper:
                _replaced.append(stream)
                sys.stdout = Inert(
                    stream.buffer,
                    stream.encoding,
                    stream.errors,
                    line_buffering=stream.line_buffering,
                    write_through=stream.write_through,
                )


def _open_if_closed(number: int) -> None:
    """Open the null device as a standard stream that is closed; the lowest free number is taken."""
    try:
        os.fstat(number)
    except OSError:
        with contextlib.suppress(OSError):
            taken = os.open(os.devnull, os.O_RDWR)
            if taken != number:
                os.dup2(taken, number)
                os.close(taken)
            os.set_inheritable(number, True)


def let_go(stream: IO[str]) -> None:
    """Send what a stream still holds, and all that follows, nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def drop_unwritable() -> None:
    """Let go of standard output if it cannot write what it holds.

    Python would try once more when it ends, and print a traceback.
    """
    try:
        sys.stdout.flush()
    except OSError:
        let_go(sys.stdout)
