"""Private files and folders, hashes, and writes that leave a whole file or none."""

import codecs
import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import shlex
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import (
    Any,
    BinaryIO,
    Literal,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from mimic_qlora.step.errors import UserError
from mimic_qlora.step.plain_text import in_utf8

KEPT = ".kept"  # ends, with a number, the name of what may be somebody's work
PRIVATE = 0o600  # the mode of a file that its owner alone can read and write


class FileIdentity(TypedDict, total=False):
    """An input file as a manifest records it: its sum tells what it holds.

    Size and modification time spare reading it again; manifests of earlier versions have no sum.
    """

    bytes: int
    mtime_ns: int
    sha256: str


def given_path(text: str) -> Path:
    """Return a path as a person gave it. `~` is their home; a `~name` that nobody has is a name."""
    return Path(os.path.expanduser(text))


def resolved_path(text: str) -> Path:
    """Return a path as a person gave it, absolute and without links as far as they lead anywhere.

    Raises UserError where it is relative to a folder that is gone.
    """
    try:
        return Path(os.path.realpath(given_path(text)))
    except FileNotFoundError:
        raise UserError(
            "the folder that this shell stands in was removed: `cd` to another one"
        ) from None


def check_link(path: Path) -> None:
    """Raise UserError if a path is a link to a folder that is gone, with all that lay beside it.

    That is what a disk leaves that is not mounted. A folder made in its place would be hidden as
    soon as the disk is back, and until then a step would begin anew what is there.
    """
    there = Path(os.path.realpath(path))
    if path.is_symlink() and not there.exists() and not has_entries(there.parent):
        raise UserError(
            f"{path} is a link to {there}, which is not there: mount its disk, or run `mkdir -p "
            f"{shlex.quote(str(there))}` if it is to begin empty"
        )


def has_entries(folder: Path) -> bool:
    """Tell whether something lies in a folder; one that is not there holds nothing."""
    return folder.is_dir() and any(folder.iterdir())


def storage_path(argument: str | None, checkout: Path | None = None) -> Path:
    """Return the path of the storage folder as it is given, in STORAGE_DIR, or here.

    A script of run_files/ takes that of its `checkout` where none is here. Raises UserError where
    the path leads over a link whose disk is away.
    """
    default = "storage"
    if checkout and not os.path.lexists(default):
        default = str(checkout / default)
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


def private_folder(path: Path) -> Path:
    """Return a folder for patient data that its owner alone can read, made if it is missing.

    A folder that was there, or to which the user's own link leads, keeps its mode, unless all users
    could write to it. Raises UserError if another user of a shared host has put a link or a folder
    in its place, or the disk of a link is away.
    """
    check_link(path)
    made = not os.path.lexists(path)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    status = path.lstat()
    is_link = stat.S_ISLNK(status.st_mode) and _is_own(status) and path.is_dir()
    there = path.stat() if is_link else status
    if not stat.S_ISDIR(there.st_mode) or not _is_own(there):
        raise UserError(
            f"{path} is another user's link or folder, or no folder: "
            "find out who put it there and remove it"
        )
    if made or there.st_mode & stat.S_IWOTH:
        path.chmod(0o700)
    return path


def _is_own(status: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or status.st_uid == os.getuid()


def private_file(folder: Path, prefix: str, suffix: str) -> Path:
    """Return a new, empty file with a unique name, private like its folder."""
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=private_folder(folder))
    os.close(handle)
    return Path(name)


def name_beside(place: Path) -> Path:
    """Return the first free name for somebody's work: that of `place` with a number behind."""
    names = (place.with_name(f"{place.name}{KEPT}{n}") for n in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def put_aside(path: Path, place: Path) -> Path:
    """Rename what may be somebody's work to a name beside `place`, and return that name."""
    return path.rename(name_beside(place))


def gathered(paths: Iterable[Path], folder: Path, place: Path) -> Path:
    """Rename what is somebody's in a folder into a new one beside `place`, and return its name.

    It is gathered inside the folder first: a kill leaves it there, for the next run to go on with,
    and no two folders with a part each.
    """
    own = folder / "kept.unfinished"
    own.mkdir(mode=0o700, exist_ok=True)
    for path in paths:
        if not path.is_relative_to(own):
            there = own / path.relative_to(folder)
            there.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.rename(there)
    return put_aside(own, place)


FOLDER_NAME = (
    "a name of letters, digits, '-', '_' and '.', 100 at most, that begins with no '-' or '.'"
)


def is_folder_name(name: str) -> bool:
    """Tell whether a run may have this name, which is FOLDER_NAME."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name) is not None


def atomic_write(
    path: Path, content: str | bytes | Callable[[BinaryIO], object], mode: int = PRIVATE
) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new one.

    `content` is text (written as UTF-8, with the bytes that `read_kept` found), bytes, or a
    function that writes to the open file.
    The new content goes to `.<name>.new` beside the file, to the disk, and then takes its place.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            if isinstance(content, str):
                file.write(content.encode("utf-8", "surrogateescape"))
            elif isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)  # a new file's mode is narrowed by the umask
        temporary.replace(path)
        sync_entry(path.parent)
    except BaseException as error:
        if isinstance(error, OSError) and not error.filename:  # write() names no file
            error.filename = str(path)
        temporary.unlink(missing_ok=True)
        raise


def freeze(place: Path, data: bytes) -> None:
    """Write a file that nobody shall edit. The one before stays beside it, under its hash.

    The ledger names that one still.
    """
    if place.is_file() and (former := place.read_bytes()) != data:
        name = f"{place.stem}-{hashlib.sha256(former).hexdigest()[:12]}{place.suffix}"
        atomic_write(place.with_name(name), former, mode=0o400)
    atomic_write(place, data, mode=0o400)


def sync_entry(folder: Path) -> None:
    """Bring the names in a folder to the disk; Windows and some file systems have no such call."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_text(path: Path) -> str:
    """Return the text of a file that people write, with the line ends of Unix.

    It is in UTF-8, or in the encoding that its byte order mark names. Raises UserError where it is
    in another one, and OSError.
    """
    try:
        text = in_utf8(path.read_bytes()).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_kept(path: Path) -> str:
    """Return the text of a file of ours that `atomic_write` will write again; "" of none.

    Somebody may have edited it in another encoding: such bytes come back as they were.
    """
    return path.read_text("utf-8", "surrogateescape") if path.is_file() else ""


def rewrite(path: Path, text: str) -> None:
    """Put a text in the place of a file's, atomically; one that is not there is made.

    It keeps its mode, its byte order mark, and the line ends of Windows where it has them. Of a
    link the file behind it is written: it may lie in somebody's repository.
    """
    path = path.resolve()
    mode = stat.S_IMODE(path.stat().st_mode) if path.is_file() else PRIVATE
    atomic_write(path, rewritten(path, text), mode)


def rewritten(path: Path, text: str) -> bytes:
    """Return the bytes that `rewrite` puts into a file."""
    before = path.read_bytes() if path.is_file() else b""
    if b"\r\n" in before:
        text = text.replace("\n", "\r\n")
    mark = codecs.BOM_UTF8 if before.startswith(codecs.BOM_UTF8) else b""
    return mark + text.removeprefix("\ufeff").encode("utf-8", "surrogateescape")


def write_json(path: Path, data: Any) -> None:
    """Write data as JSON, atomically. What JSON does not know is written as its `str`.

    A byte of a path that is not UTF-8 is written as JSON's escape of the surrogate that Python has
    for it.
    """
    text = json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n"
    atomic_write(path, text.encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises OSError, or ValueError where it holds no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:  # brackets within brackets, as no file of ours has
        raise ValueError(f"{path} is nested too deep") from None


def read_object(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds; {} where there is none."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def part_of(found: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the object under a key of what was read from JSON; {} where it has none there."""
    part = found.get(key)
    return part if isinstance(part, dict) else {}


def has_shape(data: Any, kind: Any) -> bool:
    """Tell whether what was read from JSON has the type of an annotation.

    It knows TypedDict, mappings, list, unions, Literal, str, int, float, None and Any. Further keys
    do no harm.
    """
    if kind is Any:
        return True
    if is_typeddict(kind):
        return isinstance(data, dict) and not misfits(data, kind)
    plain, parts = get_origin(kind) or kind, get_args(kind)
    if plain in (Union, UnionType):
        return any(has_shape(data, part) for part in parts)
    if plain is Literal:
        return data in parts
    if plain in (dict, Mapping):
        return isinstance(data, dict) and all(has_shape(one, parts[1]) for one in data.values())
    if plain is list:
        return isinstance(data, list) and all(has_shape(one, parts[0]) for one in data)
    if isinstance(data, bool):  # which is an int to Python
        return plain is bool
    return isinstance(data, (int, float) if plain is float else plain)


def misfits(data: Mapping[str, Any], kind: Any) -> list[str]:
    """Return the keys of a TypedDict that data lacks, or holds in another shape."""
    return [
        name
        for name, part in get_type_hints(kind).items()
        if not (has_shape(data[name], part) if name in data else name in kind.__optional_keys__)
    ]


def digest(data: Any) -> str:
    """Return a hash of 16 hexadecimal digits of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_identity(path: Path) -> FileIdentity:
    """Return the size and the modification time of an input file."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def recognised(path: Path, recorded: FileIdentity | None, same_path: bool) -> FileIdentity:
    """Return the identity of an input file, with its sum where that tells if it is the recorded
    one.

    It is, without being read, if size, time and path agree (for a record without a sum, size and
    time). A file of another size has no sum yet: `summed` adds it.
    """
    now = file_identity(path)
    if not recorded or recorded["bytes"] != now["bytes"] or "sha256" not in recorded:
        return now
    if same_path and recorded["mtime_ns"] == now["mtime_ns"]:
        return {**now, "sha256": recorded["sha256"]}
    return summed(path, now)


def summed(path: Path, identity: FileIdentity) -> FileIdentity:
    """Return the identity of an input file with its sum, which is computed if it is not there."""
    return {**identity, "sha256": identity.get("sha256") or file_sha256(path)}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 sum of a file of any size, in hexadecimal."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def crc32(path: Path) -> int:
    """Return the CRC-32 of a file of any size, which tells damage, not forgery."""
    total = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total = zlib.crc32(block, total)
    return total


def unchanged_sha256(path: Path) -> str:
    """Return the SHA-256 sum of a file, read once in a process while size and time stay."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(path: Path, n_bytes: int, mtime_ns: int) -> str:
    return file_sha256(path)
