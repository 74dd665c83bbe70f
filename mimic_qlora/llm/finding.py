"""Find a model on this machine, check that its files are complete, name it and identify it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mimic_qlora.llm.embedded import EMBEDDED, EMBEDDED_ORIGIN, embedded_path, is_embedded
from mimic_qlora.step import faults
from mimic_qlora.step.errors import UserError


def model_path(name: str | None, storage: Path) -> Path:
    """Return the local folder of a model, never fetching one.

    The name is that of the embedded model (or None), a folder, or a hub name in the local cache.
    Raises UserError, with the command to run, when the model is missing or incomplete.
    """
    if name is None or name == EMBEDDED:
        return embedded_path(storage)
    path: Path | None
    if Path(name).expanduser().is_dir():
        path = Path(name).expanduser().resolve()
        advice = "give a folder that holds the whole model"
    else:
        path = cached_snapshot(name)
        advice = (
            f"fetch it on a machine with access: `hf download {name} --exclude 'original/*'` (for "
            "a gated model accept its licence on huggingface.co and run `hf auth login` first)"
        )
        if not name or name[0] in "/.~" or name.count("/") > 1:  # not a name that a hub can have
            advice = (
                "give an existing folder, or a hub name such as meta-llama/Meta-Llama-3-8B-Instruct"
            )
    if path is None:
        raise UserError(
            f"model {name} is neither a folder nor in the local cache of the hub: {advice}"
        )
    if missing := missing_files(path):
        raise UserError(f"model {name} in {path} lacks {', '.join(missing)}: {advice}")
    return path


def cached_snapshot(hub_id: str) -> Path | None:
    """Return the folder of a hub model in the local cache, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a model or an adapter. Raises UserError when it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    except (OSError, ValueError) as error:
        if faults.of_the_machine(error):
            raise
    raise UserError(f"{path} is damaged: {remedy(path.parent)}")


def remedy(path: Path) -> str:
    """Return what to do about a damaged model or adapter."""
    if is_embedded(path):
        return f"remove {path}, and the same command makes it anew"
    if (path / "adapter_config.json").exists():
        return "train it again with `python train_qlora.py --force`, or copy it anew"
    return f"fetch {model_name(path)} anew, or copy it again"


def missing_files(path: Path) -> list[str]:
    """Return what a model's folder lacks of config, tokenizer and safetensors weights.

    With an index, each shard that it names counts as one file.
    """
    missing = [] if (path / "config.json").is_file() else ["config.json"]
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        missing.append("tokenizer.json")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        missing += [shard for shard in shards if not (path / shard).is_file()]
    elif not any(path.glob("*.safetensors")):
        missing.append("model.safetensors")
    return missing


def model_name(path: Path) -> str:
    """Return the hub name of the embedded or a cached model, for others the folder."""
    if is_embedded(path):
        return EMBEDDED_ORIGIN
    if path.parent.name == "snapshots":
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    return str(path)


def describe(path: Path) -> str:
    """Return one line on the model of a run, from its config alone."""
    if is_embedded(path):
        return f"Model: {EMBEDDED} (embedded): for trying things out, never for results"
    config = read_json(path / "config.json")
    shape = f"{config.get('num_hidden_layers')} layers, width {config.get('hidden_size')}"
    return f"Model: {model_name(path)} ({', '.join(config.get('architectures') or [])}, {shape})"


def fingerprint(path: Path) -> str:
    """Return a hash of 16 hexadecimal digits by which models of one shape differ.

    It covers the first 16 rows of two tensors, so it takes no time and does not depend on how the
    weights are cut into files. Raises UserError when a file of weights is damaged.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Path] = {}
    for file in path.glob("*.safetensors"):
        try:
            with safe_open(file, framework="pt") as weights:
                tensors.update(dict.fromkeys(weights.keys(), file))
        except (SafetensorError, OSError) as error:
            if faults.of_the_machine(error):
                raise
            raise UserError(f"{file} is damaged or cut short: {remedy(path)}") from None
    names = [
        name for name in sorted(tensors) if name.endswith(("q_proj.weight", "embed_tokens.weight"))
    ]
    digest = hashlib.sha256()
    for name in names[:1] + names[-1:]:
        with safe_open(tensors[name], framework="pt") as weights:
            digest.update(name.encode() + weights.get_slice(name)[:16].float().numpy().tobytes())
    return digest.hexdigest()[:16]
