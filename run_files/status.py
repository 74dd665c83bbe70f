"""What is in the storage folder, what is stale, and what comes next.

    python run_files/status.py
    python run_files/status.py --json            for programs
    python run_files/status.py --clean           remove leftovers, after asking
    python run_files/status.py --methods         a methods section, as far as manifests can fill it
    python run_files/status.py --paper FOLDER    Table 1, the forest plot and the methods as files

Shows the data, each step (done, stale and why, damaged, unreadable, running, stopped or missing),
the audit of the records, the adapters with their losses, what the ledger holds, the disk,
leftovers, and the next command with the options that carry over. It reads only: run it while a step
runs.

Exit codes: 0 done, 2 something to put right.
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the library of this checkout

from mimic_qlora.step import command_line, faults, files, storage, terminal
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.step_commands import remember_storage, step_1

ROOT = Path(__file__).resolve().parents[1]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(__doc__)
    command_line.add_arguments(parser, force=False)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print all of it as one JSON object")
    how.add_argument(
        "--clean",
        action="store_true",
        help="list old results in /tmp, what dead runs left, what audits read and copies of the "
        "embedded model, and remove them after asking",
    )
    how.add_argument(
        "--methods",
        action="store_true",
        help="print a methods section; what no manifest knows is left in square brackets",
    )
    how.add_argument(
        "--paper",
        metavar="FOLDER",
        help="write Table 1 (CSV, LaTeX), the forest plot (SVG, PDF) and the methods into a folder",
    )
    return parser.parse_args()


def find(given: str | None) -> Path:
    """Return the storage folder. Raises UserError if it is missing or another user's."""
    store = files.storage_path(given, ROOT)
    if not store.is_dir():
        raise UserError(
            f"there is no storage folder {store}: run `{step_1(store)}` first or give --storage"
        )
    storage.check_owner(store)
    if not os.access(store, os.R_OK | os.X_OK):
        raise UserError(f"the storage folder {store} cannot be read: give another --storage")
    remember_storage(store)
    return store


def asked(question: str) -> bool:
    """Return whether the user says yes."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def main() -> int:
    """Look at the storage folder, and tell."""
    args = arguments()
    store = find(args.storage)

    from mimic_qlora.study import leftovers, methods, overview, paper

    if args.clean:
        if not terminal.is_terminal(sys.stdin):
            raise UserError("--clean asks before it removes anything: run it in a terminal")
        found = leftovers.of_storage(store)
        print(overview.clean(found, asked) if found else "Nothing is left over")
        return 0
    if args.methods:
        lines = methods.text(store).split("\n")
        print("\n".join(terminal.fitted(line, terminal.width()) for line in lines))
        return 0
    if args.paper:
        place = files.resolved_path(args.paper)
        faults.remember_folder(place)
        print("\n".join(map(str, paper.write(store, place))))
        return 0
    of = overview.of_storage(store, ROOT, os.access(store, os.W_OK))
    if args.json:
        print(json.dumps(of.as_json(), indent=1, ensure_ascii=False))
    else:
        print("\n".join(overview.lines(of)))
    return 0


if __name__ == "__main__":
    command_line.run(main)
