"""The download of the open MIMIC-IV demo, and the check of a folder against its SHA256SUMS.txt."""

import errno
import http.client
import re
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from mimic_qlora.mimic.tables import SUMS
from mimic_qlora.step import faults
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import FileIdentity, atomic_write, file_sha256, put_aside
from mimic_qlora.step.storage import locked
from mimic_qlora.step.version import VERSION

DEMO_URL = "https://physionet.org/files/mimic-iv-demo/2.2/"
ED_DEMO_URL = "https://physionet.org/files/mimic-iv-ed-demo/2.2/"
DEMO_ALONE = "demo_subject_id.csv"  # is in the demo's list, and in no other release's
GIVE = "give --fetch-demo a folder of its own, or --mimic-dir to convert what is there"
ED = "ed"  # the folder of its tables
ATTEMPTS = 5
TIMEOUT = 60  # seconds without a byte
BLOCK = 1 << 20


class _Broken(Exception):
    """Raised with the reason when a download has failed that may succeed at another attempt."""


def fetch_demo(folder: Path) -> Path:
    """Download the open 100-patient demo and that of MIMIC-IV-ED into `folder`; return `folder`.

    Raises UserError as `fetch` does, and for the folder of another release.
    """
    sums = folder / SUMS
    if sums.is_file() and DEMO_ALONE not in read_sums(sums):
        raise UserError(f"{folder} holds another release than the demo, by its {SUMS}: {GIVE}")
    fetch(folder, DEMO_URL)
    return fetch(folder, ED_DEMO_URL, under=ED)


def fetch(folder: Path, base_url: str, under: str = "", wait: float = 1.0) -> Path:
    """Download a release into `folder`, by its SHA256SUMS.txt; return `folder`.

    Of a release that comes to another one, only the tables in the folder `under` are taken, and its
    list is kept there. A file is `<name>.part` until it is whole and its sum is right; after a
    break it goes on where it was. Files that are there and right are not downloaded again: a second
    call needs no network. One that was changed since is kept beside the new one. `wait` is the
    pause in seconds before the first new attempt; each further one is twice as long. Raises
    UserError when network, server or disk fail, or a sum stays wrong, and when a folder without the
    list has other files of these names, as real tables have.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder to download the demo into")
    sums = folder / under / SUMS
    base_url = base_url.rstrip("/") + "/"
    listed = b"" if sums.exists() else _fetch_sums(folder, under, base_url, wait)
    sums.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder, "subjects"):
        if not sums.exists():
            atomic_write(sums, listed)
        for name, expected in _lacking(folder, sums, under):
            path = folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _fetch(base_url + urllib.parse.quote(name), path, expected, wait)
    return folder


def _lacking(folder: Path, sums: Path, under: str) -> Iterator[tuple[str, str]]:
    """Yield the files of a list, with their sums, that a folder has not, or not as listed."""
    for name, expected in read_sums(sums).items():
        path = folder / name
        if under and not name.startswith(f"{under}/"):
            continue
        if not path.exists() or file_sha256(path) != expected:
            yield name, expected


def read_sums(path: Path) -> dict[str, str]:
    """Return name -> SHA-256 sum, in hexadecimal, of a SHA256SUMS.txt.

    Names are relative to its folder. Raises UserError when it lists none.
    """
    sums: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.strip().partition(" ")
        name = name.strip().lstrip("*")
        outside = (
            PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name
        )
        if line.strip() and (not re.fullmatch("[0-9a-fA-F]{64}", digest) or not name or outside):
            raise UserError(
                f"{path} is not a list of SHA-256 sums: delete it and download it again"
            )
        if name:
            sums[str(PurePosixPath(name))] = digest.lower()  # without the ./ of `sha256sum ./*`
    if not sums:
        raise UserError(f"{path} is empty: delete it and download it again")
    return sums


def verify_checksums(mimic_dir: Path) -> list[str]:
    """Check the files of a MIMIC-IV folder against PhysioNet's SHA256SUMS.txt in it.

    A file is looked for under its name in the list, else beside the list. Returns the names that
    are listed but absent. Raises UserError when there is no list, when none of its files is there,
    or when a file's sum is wrong.
    """
    if not (mimic_dir / SUMS).is_file():  # a pipe would be waited for without an end
        raise UserError(
            f"{mimic_dir} has no {SUMS} to check against: "
            "download it from PhysioNet, where it lies beside the tables"
        )
    sums = _listed(mimic_dir)
    places = _places(mimic_dir, sums)
    absent = [name for name, path in places.items() if path is None]
    if len(absent) == len(sums):
        raise UserError(
            f"none of the files in {mimic_dir / SUMS} is there: put it beside hosp/ and icu/"
        )
    size = sum(path.stat().st_size for path in places.values() if path)
    wrong = []
    with tqdm(total=size, desc="checking sums", unit="B", unit_scale=True, disable=None) as bar:
        for name, path in places.items():
            if path and file_sha256(path) != sums[name]:
                wrong.append(name)
            bar.update(path.stat().st_size if path else 0)
    if wrong:
        raise UserError(
            f"{', '.join(wrong)} in {mimic_dir} do not have the sum in {SUMS}: download them again"
        )
    return absent


def unlisted(mimic_dir: Path, paths: Iterable[Path]) -> list[str]:
    """Return the names of files in a MIMIC-IV folder that `verify_checksums` finds in no list."""
    checked = {*_places(mimic_dir, _listed(mimic_dir)).values()}
    return [path.relative_to(mimic_dir).as_posix() for path in paths if path not in checked]


def _places(mimic_dir: Path, names: Iterable[str]) -> dict[str, Path | None]:
    """Return where each listed file lies, None for one that is absent."""
    return {
        name: next(
            (p for p in (mimic_dir / name, mimic_dir / Path(name).name) if p.is_file()), None
        )
        for name in names
    }


def unlike_listed(mimic_dir: Path, inputs: Mapping[str, FileIdentity]) -> list[str]:
    """Return a sentence on each file whose sum is not the one in PhysioNet's list beside it.

    `inputs` maps names within the folder to files that have been read and summed. Without a list,
    and for a file that it does not name, there is nothing to compare. A file beside the list counts
    for one of its name in a folder of the list, as for `verify_checksums`.
    """
    try:
        sums = _listed(mimic_dir) if (mimic_dir / SUMS).is_file() else {}
    except (OSError, UserError):  # another list of that name, or a damaged one
        return [f"{SUMS}: cannot be read as a list of sums, so no file was compared with it"]
    sums = {PurePosixPath(name).name: sum_ for name, sum_ in sums.items()} | sums
    if sums and sums.keys().isdisjoint(inputs):
        return [f"{SUMS}: names none of the files that were read, so none was compared with it"]
    return [
        f"{name}: not the file that {SUMS} lists"
        for name, identity in inputs.items()
        if name in sums and sums[name] != identity.get("sha256", sums[name])
    ]


def _listed(mimic_dir: Path) -> dict[str, str]:
    """Return name -> SHA-256 sum of the files of a MIMIC-IV folder, with those of ed/."""
    sums = read_sums(mimic_dir / SUMS)
    if (mimic_dir / ED / SUMS).is_file():
        of_ed = read_sums(mimic_dir / ED / SUMS)
        sums |= {name: sum_ for name, sum_ in of_ed.items() if name.startswith(f"{ED}/")}
    return sums


def _fetch_sums(folder: Path, under: str, base_url: str, wait: float) -> bytes:
    """Download the list of a release's files; without a network there is no folder yet.

    Raises UserError where the folder has other files of these names: nothing was fetched into it.
    """
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / SUMS
        _fetch(base_url + SUMS, path, None, wait)
        for name, _ in _lacking(folder, path, under):
            for other in (folder / name, folder / name.removesuffix(".gz")):
                if other.exists():
                    raise UserError(f"{other} is there and is not the demo's: {GIVE}")
        return path.read_bytes()


def _fetch(url: str, path: Path, expected: str | None, wait: float) -> None:
    """Download one file; `expected` is its SHA-256, None for a file without one.

    Raises UserError when all attempts fail, or one in a way that another would not change.
    """
    part, reason = path.with_name(path.name + ".part"), ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            # a killed run may leave it whole, but not renamed
            if not (expected and part.exists() and file_sha256(part) == expected):
                _append(url, part)
            if expected and file_sha256(part) != expected:
                part.unlink()
                raise _Broken("its SHA-256 is not the one in SHA256SUMS.txt")
            if path.is_file():
                kept = put_aside(path, path)
                print(f"note: {path} was damaged or edited: it is kept as {kept.name}", flush=True)
            part.replace(path)
            return
        except _Broken as error:
            reason = str(error)
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            if error.code == 416:  # the part is as long as the file, and wrong
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code != 429:
                break
        except OSError as error:  # no network, a time-out, a reset connection; or our own disk
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                short, remedy = faults.shortage(path.parent)
                raise UserError(
                    f"the disk of {path.parent} {short}: {remedy}, then run it again"
                ) from None
            if error.filename:
                raise UserError(
                    f"{error.filename} cannot be written ({error.strerror}): give another folder"
                ) from None
            reason = str(getattr(error, "reason", error))
        except http.client.HTTPException as error:
            reason = type(error).__name__
    raise UserError(f"{url} cannot be downloaded ({reason}): run it again, it goes on where it was")


def _append(url: str, part: Path) -> None:
    """Download what `part` still lacks of a file.

    Raises _Broken when the connection ends before the file does.
    """
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"mimic_qlora/{VERSION}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        sent = response.headers.get("Content-Range", "")
        resumed = response.status == 206 and sent.startswith(f"bytes {start}-")
        if response.status == 206 and not resumed:
            part.unlink()
            raise _Broken("the server sent another range than it was asked for")
        start = start if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(
                total=total,
                initial=start,
                desc=part.stem,
                unit="B",
                unit_scale=True,
                leave=False,
                disable=None,
            ) as bar,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
            if total is not None and file.tell() < total:
                raise _Broken("the connection broke off")
