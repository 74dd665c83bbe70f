"""Where the output of a step lies: in the storage folder, or on the disk that a link leads to."""

import os
from pathlib import Path

from mimic_qlora.step.files import check_link, given_path, resolved_path


def storage_path(argument: str | None, default: str = "storage") -> Path:
    """Return the path of the storage folder as it is given, in STORAGE_DIR, or `default`.

    Raises UserError where it leads over a link whose disk is away.
    """
    given = argument or os.environ.get("STORAGE_DIR") or default
    path = Path(os.path.abspath(given_path(given)))
    for link in (*reversed(path.parents), path):
        check_link(link)
    return resolved_path(given)


def linked_place(place: Path) -> Path:
    """Return the folder that a step's output takes the place of: what a link in it points to.

    A link to a folder on another disk stays, and the output is renamed on that disk.
    """
    return Path(os.path.realpath(place)) if place.is_symlink() else place


def output_place(storage: Path, step: str) -> Path:
    """Return the folder that a step such as "adapters/default" writes, through a link in its place.

    Raises UserError where the disk of such a link is away.
    """
    for link in {storage / step.split("/")[0], storage / step}:
        check_link(link)
    return linked_place(storage / step)


def partial_of(place: Path) -> Path:
    """Return the folder of a run that is not finished, beside the place that it will take."""
    return place.with_name(f".{place.name}.partial")
