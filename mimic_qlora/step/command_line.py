"""What every script has as a command: the arguments that all share, checks of arguments, exit codes, signals."""

import argparse
import errno
import math
import os
import re
import signal
import sys

from mimic_qlora.step.errors import UpToDate, UserError
from mimic_qlora.step.storage import COMMANDS


def add_arguments(parser: argparse.ArgumentParser, force: bool = True) -> None:
    """The arguments that every step has: `--storage` and, where the step can be redone, `--force`."""
    parser.add_argument(
        "--storage",
        help="storage folder shared by the steps (default: $STORAGE_DIR, else ./storage)",
    )
    if force:
        parser.add_argument(
            "--force", action="store_true", help="redo the step even if nothing has changed"
        )


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """Raise UserError unless each of these arguments is a positive, finite number or was not given."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {value} is not a positive number")


def check_range(args: argparse.Namespace, name: str, least: float, most: float) -> None:
    """Raise UserError unless this argument is a number from `least` to `most`."""
    if not least <= getattr(args, name) <= most:
        raise UserError(
            f"--{name.replace('_', '-')} {getattr(args, name)} is out of range: give a number from {least} to {most}"
        )


def check_run(name: str) -> None:
    """Raise UserError unless the name of a run can be the name of its folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UserError(f"--run {name!r} is no folder name: use letters, digits, '-', '_' and '.'")


def run(main) -> None:
    """Run a script's `main` and leave with its exit code: 0 done, 2 the user's to mend, 130 interrupted, 141 unheard.

    Everything that the process writes is readable by its owner alone.
    """
    os.umask(0o077)
    stopped, code = [], None

    def stop(number, frame):
        stopped.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    # a closed terminal or a scheduler's SIGTERM unwinds like Ctrl-C, so that no half-written folder stays behind
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if (
            hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN
        ):  # nohup has its way
            signal.signal(getattr(signal, name), stop)
    try:
        code = main() or 0
        sys.stdout.flush()
    except UpToDate as message:
        print(message)
        code = 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("\nstopped; the output of earlier runs is as it was", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `| head` closed the pipe: nothing more to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code is None:
            print(
                "error: stopped, because what read the output has ended: run it without that",
                file=sys.stderr,
            )
            code = 141
    except Exception as error:
        if stopped:  # a library that was importing swallowed the interrupt and failed of it
            code = 128 + stopped[-1]
        elif fault := fault_of_the_machine(error):
            print(f"error: {fault}", file=sys.stderr)
            code = 2
        else:
            raise
    sys.exit(code)


def fault_of_the_machine(error: Exception) -> str | None:
    """The sentence for a full disk, too little memory or a file that cannot be used; None for the software's faults."""
    # libraries wrap a full disk in errors of their own
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(
        error
    ):
        return "the disk is full: free some space or give another --storage"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be used ({error.strerror}): mend that, or redo the step that wrote it"
    if type(error).__name__ == "BrokenProcessPool":
        return "a worker process was killed, most likely for want of memory: try fewer --workers"
    # DuckDB's, who is not imported everywhere; a bare Error is a page or footer that makes no sense to it
    library, kind = type(error).__module__, type(error).__name__
    if library == "_duckdb" and kind in ("InvalidInputException", "IOException", "Error"):
        named = re.search(r"""['"]([^'"]+\.parquet)['"]""", str(error))
        if named or kind == "Error":
            what = named[1] if named else "a Parquet file of step 1"
            return f"{what} is damaged: run `{COMMANDS['subjects']} --force` to write it anew"
    return None
