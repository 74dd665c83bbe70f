"""A page on which clinicians judge step 7's answers blind and review the ideals and rules.

    python run_files/review.py --raters anna,ben

Prints one line for the rater's own computer (an SSH tunnel) and one link per rater. All stays on
this machine: the page is served on 127.0.0.1 only, marks are kept in ratings.sqlite beside the
results. Stop it with Ctrl-C and start it again at any time. --report says what the marks show, and
is the only thing that tells which model wrote what; --export writes approvals into the YAML files.
"""

import difflib
import os
import re
import socket
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the library of this checkout

from mimic_qlora.step import command_line, faults, files, storage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mimic_qlora.review.items import Item, Items
    from mimic_qlora.review.store import Store

HERE = Path(__file__).resolve().parent
ALONE = "review"  # folder of judgements on ideals and rules without results of step 7


class Arguments(NamedTuple):
    """The command line, checked and typed."""

    storage: str | None
    results: str | None
    raters: list[str]
    port: int
    socket: Path | None
    report: bool
    export: bool


class Folder(NamedTuple):
    """The folder of the review, and whether it holds results of step 7."""

    path: Path
    has_results: bool


def arguments() -> Arguments:
    """Read the command line."""
    parser = command_line.Parser(__doc__)
    add = parser.add_argument
    newest = "results folder of step 7 (default: the newest in the storage folder)"
    add("--results", metavar="FOLDER", help=newest)
    names = "who rates, like anna,ben (default: those of last time, else 'reviewer')"
    add("--raters", metavar="NAMES", type=rater_names, default=[], help=names)
    port = command_line.whole_number(1024, 65535)
    where = "port on 127.0.0.1, here and on the laptop (default: %(default)s)"
    add("--port", type=port, default=8377, help=where)
    private = "listen on a private Unix socket instead, which no other user can reach"
    add("--socket", metavar="PATH", type=socket_path, help=private)
    unblind = "unblind: write ratings.csv and ratings_report.json, then print them"
    add("--report", action="store_true", help=unblind)
    write = "write approvals, edits and rejections into the YAML files"
    add("--export", action="store_true", help=write)
    command_line.add_arguments(parser, force=False)
    args = parser.parse_args()
    for ends in ("report", "export"):
        command_line.check_alone(parser, vars(args), ends, ["raters", "port", "socket"])
    command_line.check_alone(parser, vars(args), "results", ["storage"])
    return Arguments(**vars(args))


def rater_names(text: str) -> list[str]:
    """Read different names, separated by commas."""
    names = [name.strip() for name in text.split(",")]
    wrong = [name for name in names if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", name)]
    if wrong or len(set(names)) != len(names):
        shape = "different names of letters, digits, '-', '_' and '.', like anna,ben"
        raise ArgumentTypeError(f"must be {shape}, not {text!r}")
    return names


def socket_path(text: str) -> Path:
    """Read the path of a socket."""
    return files.given_path(text).absolute()


def main() -> None:
    """Open the review, then export its decisions, report its marks, or serve its page."""
    args = arguments()
    from mimic_qlora.review import items as review_items
    from mimic_qlora.review.store import Store

    folder = results_folder(args)
    found = review_items.Items({}, "")
    if folder.has_results:
        found = review_items.read(folder.path)
    faults.remember_folder(folder.path)
    if args.report or args.export:
        tell(folder.path, found, args)
        return
    from mimic_qlora.review import guard

    listener = guard.listen(args.port, args.socket)  # a refused start leaves no file of marks
    try:
        folder.path.mkdir(mode=0o700, exist_ok=True)
        store = Store(folder.path)
        raters = args.raters or store.tasks.raters() or ["reviewer"]
        store.tasks.prepare(raters, list(found.items), found.sha256)
        serve(store, found.items, raters, args, listener)
    finally:
        listener.close()
        if args.socket:
            args.socket.unlink(missing_ok=True)


def tell(folder: Path, found: "Items", args: Arguments) -> None:
    """Export the decisions that were made, or report the marks."""
    from mimic_qlora.review import report
    from mimic_qlora.review.database import FILE
    from mimic_qlora.review.store import Store

    if not os.path.lexists(folder / FILE):
        nothing = "No file changed: nothing" if args.export else "Nothing"
        print(f"{nothing} was judged in {folder} yet: --raters NAME starts the page")
        return
    store = Store(folder)
    store.tasks.prepare([], list(found.items), found.sha256)
    if args.export:
        export(store)
    if args.report:
        print(report.write(store, found.items, folder))


def results_folder(args: Arguments) -> Folder:
    """Return the folder to review; without results of step 7, one for ideals and rules alone."""
    from mimic_qlora.review.database import FILE
    from mimic_qlora.validation import results

    if args.results:
        path = files.resolved_path(args.results)
        has_none = path.name == ALONE and not (path / results.FILE).exists()
        return Folder(path, not (has_none and (path / FILE).exists()))
    create = not (args.report or args.export)
    store = storage.open_storage(args.storage, create, checkout=HERE.parent)
    alone = store / ALONE
    if newest := results.newest(store):
        if (alone / FILE).exists():
            print(f"Ideals and rules were judged before: --results {alone} goes on with those")
        for path in results.in_order(store):
            if path != newest and (path / FILE).exists():
                print(f"Earlier results have ratings too: --results {path} goes on with those")
        return Folder(newest, True)
    print(f"No results of step 7 in {store}: only ideals and rules can be reviewed")
    return Folder(alone, False)


def export(store: "Store") -> None:
    """Write what was decided about the clinical content into its files, and show it as a diff."""
    from mimic_qlora.review import content

    decisions = store.decisions.all()
    changes = content.export(HERE, decisions)
    for path, change in changes.items():
        before, after, name = change.before.splitlines(), change.after.splitlines(), str(path)
        print("\n".join(difflib.unified_diff(before, after, name, name, n=1, lineterm="")))
        files.rewrite(path, change.after)
    for line in content.left_to_settle(HERE, decisions):
        print(line)
    if changes:
        print(f"{len(changes)} files changed: read the difference with `git diff` and commit it")
    else:
        print("No file changed: no wording was approved or rejected that the files do not have yet")


def serve(
    store: "Store",
    items: "Mapping[int, Item]",
    raters: list[str],
    args: Arguments,
    listener: socket.socket,
) -> None:
    """Print the tunnel and the links, and answer until Ctrl-C."""
    # FastAPI exports traces where the environment names a collector
    os.environ |= {"OTEL_SDK_DISABLED": "true", "FASTAPI_OTEL_AUTO_CONFIGURE": "false"}
    from mimic_qlora.review import server

    print(f"{len(items)} pairs of answers to judge, for each of {', '.join(raters)}")
    print(f"Marks are kept in {store.database.path}")
    for line in server.way_in(store, raters, args.port, args.socket):
        print(line)
    print("What the page shows of MIMIC-IV stays under the data use agreement.")
    print("Ctrl-C stops the page; nothing is lost.", flush=True)
    server.run(store, items, HERE, args.port, listener)


if __name__ == "__main__":
    command_line.run(main)
