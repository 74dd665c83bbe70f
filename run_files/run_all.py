"""All seven steps of a study, from one file.

    python run_files/run_all.py demo.yaml
    python run_files/run_all.py study.yaml --dry-run     what it would run, and what that takes

Checks the whole file, says what it expects, then calls the scripts of the steps one after the
other, as you would. Examples lie in run_files/studies/; a name without a folder is looked for there
too. Stopped or killed, the same command goes on: a step that is up to date says so and ends. Test
patients are opened by a frozen plan alone (`plan:` in the file), and each look is in the ledger.

Exit codes: 0 done, 2 something to put right, 130 stopped by Ctrl-C; else that of the step that
failed.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the library of this checkout

from mimic_qlora.step import command_line, files, storage, terminal

if TYPE_CHECKING:
    from mimic_qlora.study.study_file import StudyFile

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
KILLED = 128 + 9  # by SIGKILL


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(__doc__)
    parser.add_argument("study", help="study file (YAML), by its path or an example's name")
    parser.add_argument(
        "--storage",
        help="storage folder (default: the file's, else $STORAGE_DIR, else ./storage)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the file, say what would run and what it would take, and end",
    )
    return parser.parse_args()


def place_of(file: "StudyFile", given: str | None) -> Path:
    """Return the storage folder of a study, which need not be there yet."""
    named = file.study.storage
    if given is None and named:
        return files.resolved_path(str(file.near(named)))
    return files.resolved_path(given or os.environ.get("STORAGE_DIR") or str(ROOT / "storage"))


def stopped(step: int, code: int) -> str:
    """Return where a study stopped, by the exit code of the step, and what to do."""
    if code < 128:
        how = f"ended with exit code {code}: put that right, and"
    elif code == KILLED:
        how = "was killed, as a system does that has no memory left:"
    else:
        how = "stopped:"
    return f"Step {step} {how} the same command goes on from there"


def main() -> int:
    """Check the study, and run its steps."""
    args = arguments()

    from mimic_qlora.study import checks, commands, expected, kept_file, running, study_file

    file = study_file.read(study_file.find(args.study, HERE / "studies"))
    store = place_of(file, args.storage)
    checks.check(file, store, ROOT)
    steps = commands.of(file, store)
    print(f"Study: {file.path.name}, SHA-256 {file.sha256}")
    takes = expected.of_study(file, store, ROOT)
    print("\n".join(expected.in_words(takes, expected.free_bytes(store))))
    if args.dry_run:
        for step in steps:
            print(f"step {step.number}:\n{terminal.pasteable(step.in_words)}")
        return 0
    storage.open_storage(str(store), create=True)
    began = time.monotonic()
    ended = running.run_all(steps, ROOT, kept_file.keep(store, file.path.name, file.text))
    if ended:
        terminal.say_aside(f"\n{stopped(ended.command.number, ended.code)}")
        return ended.code
    seconds = time.monotonic() - began
    print(f"\nAll seven steps took {seconds:.0f} s; what they left is in {store}")
    if (ROOT / ".venv" / "bin" / "activate").is_file():
        print("To go on from here, in this folder: source .venv/bin/activate")
    return 0


if __name__ == "__main__":
    command_line.run(main)
