"""Deliver step 7's results: a copy that outlives /tmp, and the command that fetches them."""

import contextlib
import filecmp
import os
import shlex
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.step import faults, ssh, terminal
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import file_sha256, private_folder
from mimic_qlora.validation import ledger, results

TEMPORARY = None if os.name == "nt" else Path("/tmp")
_PREFIX = "mimic_qlora_"


class Kept(NamedTuple):
    """The results in the storage folder: the folder that is being written, and its place."""

    partial: Path
    place: Path


def fresh_folder() -> Path:
    """Make a folder under /tmp whose name nobody can guess and that only its owner can read.

    Raises UserError where other users could replace it: all may write to /tmp and it is not sticky.
    """
    if TEMPORARY:
        mode = TEMPORARY.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise UserError(
                f"{TEMPORARY} lets every user replace the files of others: "
                f"ask for `chmod 1777 {TEMPORARY}`"
            )
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=TEMPORARY))


@contextlib.contextmanager
def kept_results(place: Path) -> Iterator[Kept]:
    """Yield a new folder among the results in the storage folder, whole when the block ends well.

    They are written here first, since /tmp may be full, and is wiped when a cluster job ends.
    """
    partial = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=private_folder(place)))
    secret = partial.name.removeprefix(".").removesuffix(".partial")
    kept = Kept(partial, place / f"{time.strftime('%Y%m%d-%H%M%S')}-{secret}")
    try:
        yield kept
        with ledger.alone(place.parent):  # two runs that end at once would take one number
            last = max(map(results.number, place.iterdir()), default=0)
            (partial / results.NUMBER).write_text(f"{last + 1}\n", encoding="ascii")
            partial.rename(kept.place)
    except BaseException as error:
        full = faults.full_disk(error) if faults.is_full(error) else ""
        shutil.rmtree(partial, ignore_errors=True)
        if full:
            raise UserError(full) from error
        raise


def copies(kept: Path) -> list[Path]:
    """Return the copies of some results under /tmp that are this user's."""
    places = sorted((TEMPORARY or Path(tempfile.gettempdir())).glob(f"{_PREFIX}*"))
    return [
        place
        for place in places
        if is_same(place / results.FILE, kept / results.FILE)
        and place.stat().st_uid == kept.stat().st_uid
    ]


def is_same(path: Path, other: Path) -> bool:
    """Tell whether two files are there and hold the same."""
    try:
        return filecmp.cmp(path, other, shallow=False)
    except OSError:
        return False


def copy_to_temporary(kept: Path) -> Path:
    """Copy the results to a new folder under /tmp and return it.

    Where /tmp has no room or cannot be used, nothing of them stays there; the user is told, and
    `kept` is returned.
    """
    folder = None
    try:
        folder = fresh_folder()
        for path in kept.iterdir():
            if path.name != results.NUMBER:  # the order among results, of no use elsewhere
                shutil.copyfile(path, folder / path.name)
        return folder
    except BaseException as error:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, (OSError, UserError)):
            raise
        reason = getattr(error, "strerror", None) or str(error)
    where = TEMPORARY or tempfile.gettempdir()
    terminal.say_aside(
        f"warning: {where} cannot take a copy of the results ({reason}): "
        f"they are in {kept}, and nothing of them is in {where}"
    )
    return kept


def farewell(folder: Path, kept: Path, route: ssh.Route, scripts: Path) -> str:
    """Return where the results are, their hash, how to fetch them, and what to run next.

    `scripts` is the folder of step 7's scripts.
    """
    store = shlex.quote(str(kept.parent.parent))
    review, label = (shlex.quote(str(scripts / name)) for name in ("review.py", "label.py"))
    next_ = [
        "Next: let people judge the answers, fill label.csv and measure the scorer by it, and wipe "
        "what you have fetched:",
        terminal.pasteable(f"python {review} --raters NAME --storage {store}"),
        terminal.pasteable(f"python {label} --results {shlex.quote(str(kept))}"),
    ]
    return fetching(folder, kept, route, folder / "report.html", next_)


def fetching(
    folder: Path, kept: Path, route: ssh.Route, page: Path, next_: Sequence[str] = ()
) -> str:
    """Return where the results and their page are, their hash, how to fetch and wipe them.

    `next_` are lines that end with what to run next, before what wipes them.
    """
    output = folder / "output.csv"
    lines = [
        f"Report: {page}",
        f"Results: {folder} (copy: {kept})" if folder != kept else f"Results: {kept}",
        f"sha256 of output.csv: {file_sha256(output)}",
        "Fetch it, on your own machine:",
        terminal.pasteable(route.scp(output)),
        f"or all of it, {page.name} too:",
        terminal.pasteable(route.scp(folder, whole=True)),
        *(next_ or ["Wipe what you have fetched:"]),
    ]
    if folder != kept:
        lines.append(terminal.pasteable(f"rm -r {shlex.quote(str(folder))}"))
    terms = "What comes from MIMIC-IV stays under its data use agreement: no third-party services."
    return "\n".join([*lines, terms])
