"""A page on which clinicians judge step 7's answers blind and review the ideals and rules.

    python run_files/review.py --raters anna,ben

Prints one line for the rater's own computer (an SSH tunnel) and one link per rater. All stays on
this machine: the page is served on 127.0.0.1 only, marks are kept in ratings.sqlite beside the
results. Stop it with Ctrl-C and start it again at any time. --report says what the marks show, and
is the only thing that tells which model wrote what; --export writes approvals into the YAML files.
"""

import argparse
import difflib
import os
import re
import stat
import sys
from pathlib import Path

from mimic_qlora.step import command_line, files, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import delivery

HERE = Path(__file__).resolve().parent


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--results",
        metavar="FOLDER",
        help="results folder of step 7 (default: the newest in the storage folder)",
    )
    add(
        "--raters",
        metavar="NAMES",
        help="who rates, like anna,ben (default: those of last time, else 'reviewer')",
    )
    add(
        "--port",
        type=int,
        default=8377,
        help="port on 127.0.0.1, here and on the laptop (default: %(default)s)",
    )
    add(
        "--socket",
        metavar="PATH",
        help="listen on a private Unix socket instead, which no other user can reach",
    )
    add(
        "--report",
        action="store_true",
        help="unblind: write ratings.csv and ratings_report.json, then print them",
    )
    add(
        "--export",
        action="store_true",
        help="write approvals, edits and rejections into the YAML files",
    )
    command_line.add_arguments(parser, force=False)
    args = parser.parse_args()
    command_line.check_range(args, "port", 1024, 65535)
    names = [name.strip() for name in args.raters.split(",")] if args.raters is not None else []
    wrong = [name for name in names if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", name)]
    if wrong or len(set(names)) != len(names):
        raise UserError(
            f"--raters {args.raters!r}: give different names of letters, digits, '-', '_' and '.', like anna,ben"
        )
    args.raters = names
    return args


def main():
    args = arguments()
    from mimic_qlora.review import items as review_items
    from mimic_qlora.review import store as ratings

    folder, has_results = results_folder(args)
    items, sha256 = review_items.read(folder) if has_results else ({}, "")
    store = ratings.Ratings(folder)
    raters = [] if args.report or args.export else args.raters or store.raters() or ["reviewer"]
    store.prepare(raters, list(items), sha256)
    if args.export:
        export(store)
    if args.report:
        report(store, items, folder)
    if raters:
        serve(store, items, raters, args)


def results_folder(args) -> tuple:
    """(folder, whether it has results). Where step 7 has left none: a folder for reviewing ideals and rules alone."""
    if args.results:
        return Path(args.results).expanduser().resolve(), True
    os.environ.setdefault(
        "STORAGE_DIR", str(HERE.parent / "storage")
    )  # where step 7 leaves its results, as in run.sh
    store = storage.open_storage(args.storage, create=True)
    from mimic_qlora.validation import results

    if newest := results.newest(store):
        from mimic_qlora.review.store import FILE

        rated = {path.parent for path in (store / "validation").glob(f"[!.]*/{FILE}")} - {newest}
        if rated:
            print(f"Earlier results have ratings too: --results {max(rated)} goes on with those")
        return newest, True
    (store / "review").mkdir(mode=0o700, exist_ok=True)
    print(f"No results of step 7 in {store}: only ideals and rules can be reviewed")
    return store / "review", False


def serve(store, items: dict, raters: list, args) -> None:
    """Print the tunnel and the links, and answer until Ctrl-C."""
    os.environ["OTEL_SDK_DISABLED"] = (
        "true"  # FastAPI exports traces where the environment names a collector
    )
    os.environ["FASTAPI_OTEL_AUTO_CONFIGURE"] = "false"
    import uvicorn

    from mimic_qlora.review import guard
    from mimic_qlora.review import site as review_site

    path = Path(args.socket).expanduser().absolute() if args.socket else None
    listener = guard.listen(args.port, path)
    port = os.environ.get("SSH_CONNECTION", "").split()[3:4]
    option = f"-p {port[0]} " if port and port[0] != "22" else ""
    end = path or f"127.0.0.1:{args.port}"
    print(
        f"{len(items)} pairs of answers to judge, for each of {', '.join(raters)}; marks are kept in {store.path}"
    )
    print("On the rater's own computer, leave this running:")
    print(f"  ssh -N -L 127.0.0.1:{args.port}:{end} {option}{delivery.user()}@{delivery.host()}")
    print("and open the link there; it works once, in one browser, which then stays signed in:")
    for rater in raters:
        print(f"  {rater}: http://127.0.0.1:{args.port}/#{store.new_token(rater)}")
    print(
        "Ctrl-C stops the page; nothing is lost. What it shows of MIMIC-IV stays under the data use agreement."
    )
    sys.stdout.flush()
    site = review_site.build(store, items, HERE, args.port)
    config = uvicorn.Config(
        site,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        lifespan="off",
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        print("\nStopped. All marks are kept; the same command goes on with them.")
    finally:
        if path:
            path.unlink(missing_ok=True)


def export(store) -> None:
    """Write what was decided about the clinical content into its files, and show it as a diff."""
    from mimic_qlora.review import content

    changes = content.export(HERE, store.decisions())
    for path, (before, after) in changes.items():
        lines = difflib.unified_diff(
            before.splitlines(), after.splitlines(), str(path), str(path), n=1, lineterm=""
        )
        print("\n".join(lines))
        rewrite(path, after)
    for line in content.left_to_settle(HERE, store.decisions()):
        print(line)
    print(
        f"{len(changes)} files changed: read the difference with `git diff` and commit it yourself"
        if changes
        else "No file changed: no wording was approved or rejected that the files do not have already"
    )


def report(store, items: dict, folder: Path) -> None:
    """Write ratings.csv and ratings_report.json into the results folder, and print what they say."""
    from mimic_qlora.display import csv_files
    from mimic_qlora.review import report as ratings_report

    rows = ratings_report.unblind(store, items)
    found = ratings_report.summarize(rows, {rater: store.tasks(rater) for rater in store.raters()})
    csv_files.write(folder / "ratings.csv", rows)
    files.write_json(folder / "ratings_report.json", found)
    written, page = ["ratings.csv", "ratings_report.json"], folder / "report.html"
    if found["items"] and page.is_file():
        rewrite(page, ratings_report.include(page.read_text(encoding="utf-8"), found))
        written.append(page.name)
    print(ratings_report.text(found))
    print(f"\nWritten: {', '.join(written)} in {folder}")


def rewrite(path: Path, text: str) -> None:
    """Put a text in the place of a file's, whole or not at all, under the same mode."""
    files.atomic_write(path, text, mode=stat.S_IMODE(path.stat().st_mode))


if __name__ == "__main__":
    command_line.run(main)
