"""The command line that the scripts share: parser, types of arguments, exit codes, signals.

A type (`positive_int`, `number(0, 1)`, ...) is what argparse's `type=` takes: it reads the text of
one argument and raises ArgumentTypeError with the end of a sentence ("must be ..., not 0"), which
`Parser` completes with the name of the argument.
"""

import argparse
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from mimic_qlora.step import faults, limits, streams, terminal
from mimic_qlora.step.errors import UpToDate, UserError
from mimic_qlora.step.files import FOLDER_NAME, is_folder_name
from mimic_qlora.step.plain_text import printable, typed, unhidden

GREATEST = 10**12  # of any count; more than 64 bits fails deep in a library
MOST = 1_000_000  # the greatest count that makes sense in any argument without a limit of its own


class Parser(argparse.ArgumentParser):
    """An argument parser whose help keeps its line breaks and whose errors are one sentence."""

    def __init__(self, description: str | None, prog: str | None = None, epilog: str | None = None):
        """Make the parser; `description` is the script's docstring."""
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, formatter_class=formatter)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Read what was given for an option. Raises UserError for an empty text.

        A shell makes one of a variable that is not set, and the default would silently stand in
        for what the user meant.
        """
        values = super()._get_values(action, arg_strings)  # a type may say more of what it takes
        if action.option_strings and "" in arg_strings:
            name = _as_typed(action.option_strings)
            self.error(f"{name} is empty: give it a value, or leave it out")
        return values

    def error(self, message: str) -> NoReturn:
        """Raise UserError with argparse's message, which `run` prints with exit code 2."""
        message = re.sub(
            r"^argument (\S+): ", lambda found: f"{_as_typed(found[1].split('/'))}: ", message
        )
        message = message.replace(": must ", " must ", 1)
        raise UserError(f"{message} (--help lists the arguments)")


def _as_typed(names: Sequence[str]) -> str:
    """Return the one of an option's names that stands in the command, else the first."""
    typed = [word.partition("=")[0] for word in sys.argv]
    return next(filter(typed.__contains__, names), names[0])


def add_arguments(parser: argparse.ArgumentParser, force: bool = True) -> None:
    """Add `--storage`, which every step has, and `--force`, where the step can be redone."""
    parser.add_argument(
        "--storage",
        help="storage folder shared by the steps (default: $STORAGE_DIR, else ./storage, "
        "for the scripts of run_files/ also that of the folder above them)",
    )
    if force:
        parser.add_argument(
            "--force", action="store_true", help="redo the step even if nothing has changed"
        )


def check_alone(
    parser: argparse.ArgumentParser, read: Mapping[str, object], option: str, others: Iterable[str]
) -> None:
    """Raise UserError where an option is given with others that it leaves without effect.

    `read` maps an option to what was read for it. What a user asks for and does not get is told.
    """

    def is_given(name: str) -> bool:
        return bool(read[name] != parser.get_default(name))

    idle = [name for name in others if is_given(name)] if is_given(option) else []
    if idle:
        words = ", ".join(_in_words(name, read[name]) for name in idle)
        which = _in_words(option, True)
        raise UserError(f"{which} leaves {words} without effect: give one or the other")


def _in_words(name: str, value: object) -> str:
    """Return an option as it was typed; one letter is an argument without a name."""
    dashes = "" if len(name) == 1 else "--no-" if value is False else "--"
    return dashes + name.replace("_", "-")


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """Add --run and --model: an adapter of step 5, and the base that it stands beside."""
    parser.add_argument(
        "--run",
        type=folder_name,
        default="default",
        help="adapter of step 5 (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        help="its base: a folder or a hub name (default: the embedded SmolLM2-135M-Instruct)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`, for steps that use a GPU where there is one."""
    parser.add_argument(
        "--device",
        type=device,
        default="auto",
        help="cpu: use no GPU, even where there is one (default: %(default)s)",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add `--processes`, for what several processes of a host can share."""
    parser.add_argument(
        "--processes",
        type=whole_number(1, 1024),
        metavar="N",
        help="share the answers among N processes of this host, one on each GPU (several hosts: "
        "docs/scaling_out.md)",
    )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a Dask cluster (docs/scaling_out.md)."""
    add = parser.add_argument
    add("--scheduler", metavar="ADDRESS", help="Dask cluster that does the work: tls://host:8786")
    add("--scheduler-file", metavar="FILE", help="the same, as `dask scheduler` wrote it")
    add("--certificates", metavar="DIR", help="certificates of the cluster")
    add(
        "--make-certificates",
        metavar="DIR",
        help="write new certificates for a cluster into a folder, and end",
    )


def device(text: str) -> str:
    """Read auto or cpu; cpu hides the GPUs at once, since torch looks but once, at its import."""
    if text not in ("auto", "cpu"):
        raise _must("be auto or cpu", text)
    if text == "cpu":
        limits.hide_gpus()
    return text


def whole_number(least: int, most: int = MOST) -> Callable[[str], int]:
    """Return a type for whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        value = _int(text)
        if value is None or not least <= value <= most:
            raise _must(f"be a whole number from {least:,} to {most:,}", text)
        return value

    return read


def number(least: float, most: float) -> Callable[[str], float]:
    """Return a type for numbers from `least` to `most`."""

    def read(text: str) -> float:
        value = _float(text)
        if not least <= value <= most:
            raise _must(f"be a number from {least:,} to {most:,}", text)
        return value

    return read


def positive_int(text: str) -> int:
    """Read a whole number of at least 1, and no more than libraries can hold."""
    value = _int(text)
    if value is None or value < 1:
        raise _must("be a positive whole number", text)
    if value > GREATEST:
        raise _must(f"be a whole number from 1 to {GREATEST:,}", text)
    return value


def positive_number(text: str) -> float:
    """Read a number above 0, and no more than libraries can hold."""
    value = _float(text)
    if not 0 < value < math.inf:
        raise _must("be a positive number", text)
    if value > GREATEST:
        raise _must(f"be a number above 0 and up to {GREATEST:,}", text)
    return value


def share(text: str) -> float:
    """Read a share of a whole that is not empty: above 0, up to 1."""
    value = _float(text)
    if not 0 < value <= 1:
        raise _must("be a share above 0 and up to 1", text)
    return value


def rate(text: str) -> float:
    """Read a probability below 1, such as dropout: from 0 up to, but not including, 1."""
    value = _float(text)
    if not 0 <= value < 1:
        raise _must("be a number from 0 up to, but not including, 1", text)
    return value


def seed(text: str) -> int:
    """Read the seed of a random generator: a whole number of 32 bits."""
    value = _int(text)
    if value is None or not 0 <= value < 2**32:
        raise _must(f"be a whole number from 0 to {2**32 - 1}", text)
    return value


def seeds(text: str) -> tuple[int, ...]:
    """Read different seeds, separated by commas, such as "0,1,2"."""
    values = tuple(seed(part) for part in text.split(","))
    if len(set(values)) < len(values):
        raise _must("be different whole numbers, such as 0,1,2", text)
    return values


def text(given: str) -> str:
    """Read a text of people, such as a question."""
    try:
        return typed(given)
    except UnicodeError:
        raise argparse.ArgumentTypeError(
            "must be UTF-8 text: type it in a terminal that is set to UTF-8"
        ) from None


def folder_name(text: str) -> str:
    """Read a name that can be a folder's."""
    if not is_folder_name(text):
        raise _must(f"be {FOLDER_NAME}", repr(text))
    return text


def folder_names(text: str) -> tuple[str, ...]:
    """Read names of folders, separated by commas."""
    return tuple(folder_name(part) for part in text.split(","))


def _int(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:  # no number, or one of over 4,300 digits
        return None


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # out of every range


def _must(what: str, text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"must {what}, not {text}")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and leave with its exit code.

    0: done; 2: an error that the user can fix; 130 or 128 + signal: interrupted; 141: the reader
    of the output has gone. All files that the process writes are readable by their owner alone.
    """
    os.umask(0o077)
    streams.make_ready()
    limits.prepare()
    stopped: list[int] = []
    _unwind_on_signals(stopped)
    code: int | None = None
    try:
        try:
            if hasattr(signal, "pthread_sigmask"):  # not on Windows
                # run_all.py holds Ctrl-C back while a step starts; one that came comes now
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            limits.check_addresses()
            code = _code(main)
            sys.stdout.flush()
        finally:
            _end_on_signals()  # what follows tells alone: an impatient Ctrl-C more is no traceback
    except UserError as error:
        _say_error(str(error))
        code = 2
    except KeyboardInterrupt:
        if refused := limits.thread_refused():  # OpenBLAS sends itself Ctrl-C where it gets none
            _say_error(str(faults.sentence(refused)))
            code = 2
        else:
            print("\nstopped; nothing that earlier runs finished is lost", file=sys.stderr)
            code = 130
    except BrokenPipeError:  # `| head` closed the pipe: nothing more to say to it
        streams.let_go(sys.stdout)
        if code is None:
            terminal.say_aside(
                "error: stopped because the program that read the output has ended: "
                "run the command without it"
            )
            code = 141
    except Exception as error:
        refused = limits.thread_refused() if stopped else None
        if stopped and not refused:  # a library that was importing swallowed it, and failed by it
            code = 128 + stopped[-1]
        elif fault := faults.sentence(refused or error):
            _say_error(fault)
            code = 2
        else:
            raise
    sys.exit(code)


def _code(main: Callable[[], int | None]) -> int:
    """Return the exit code of a script's `main`; that nothing is to be done is told."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not re.fullmatch("[0-9]{1,11}", epoch):  # numpy and matplotlib would end in a traceback
        raise UserError(
            f"SOURCE_DATE_EPOCH is {epoch!r}, and libraries read seconds since 1970 from it: unset "
            "it, or give a whole number"
        )
    try:
        return main() or 0
    except UpToDate as message:
        print(printable(str(message)))
        return 0


def _say_error(sentence: str) -> None:
    """Print an error; a name of a file or column in it must not steer the terminal."""
    terminal.say_aside(f"error: {unhidden(sentence)}")
    streams.drop_unwritable()


def _end_on_signals() -> None:
    """Let signals end the process at once: all is done, and what Python closes unwinds nothing."""
    for known in stopping_signals():
        signal.signal(known, signal.SIG_DFL)


def stopping_signals() -> list[signal.Signals]:
    """Return the signals that stop a command, without those that are ignored, as under nohup."""
    # Windows has no SIGHUP
    known = (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP"))
    return [one for one in known if one and signal.getsignal(one) != signal.SIG_IGN]


def _unwind_on_signals(stopped: list[int]) -> None:
    """Let SIGTERM and SIGHUP unwind like Ctrl-C, so that no half-written folder stays behind.

    Each signal's number is appended to `stopped`. An ignored signal, as under nohup, stays so.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        stopped.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for known in stopping_signals():
        signal.signal(known, stop)
