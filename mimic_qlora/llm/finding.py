"""Find a model on this machine, check its files, name it and identify it."""

import hashlib
import json
from pathlib import Path

from mimic_qlora.llm.embedded import EMBEDDED, EMBEDDED_ORIGIN, embedded_path, is_embedded
from mimic_qlora.step.errors import UserError


def model_path(name: str | None, storage: Path) -> Path:
    """The local folder of a model: None or the embedded model's name, a folder, or a hub id in the local cache.

    Raises UserError, with the command that mends it, when the model is not on this machine; never fetches.
    """
    if name is None or name == EMBEDDED:
        return embedded_path(storage)
    if Path(name).expanduser().is_dir():
        path = Path(name).expanduser().resolve()
        remedy = "give a folder that holds the whole model"
    else:
        path = cached_snapshot(name)
        remedy = (
            f"fetch it on a machine with access: `hf download {name} --exclude 'original/*'` "
            "(for a gated model accept its licence on huggingface.co and run `hf auth login` first)"
        )
        if not name or name[0] in "/.~" or name.count("/") > 1:  # no name that a hub has
            remedy = "give a folder that is there, or a hub name such as meta-llama/Meta-Llama-3-8B-Instruct"
    if path is None:
        raise UserError(
            f"model {name} is neither a folder nor in the local cache of the hub: {remedy}"
        )
    if missing := missing_files(path):
        raise UserError(f"model {name} in {path} lacks {', '.join(missing)}: {remedy}")
    return path


def cached_snapshot(hub_id: str) -> Path | None:
    """The folder of a hub model in the local cache, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def read_json(path: Path) -> dict:
    """A JSON file of a model or an adapter. Raises UserError when it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    except (OSError, ValueError):
        pass
    raise UserError(f"{path} is damaged: {remedy(path.parent)}")


def remedy(path: Path) -> str:
    """What to do about a damaged model or adapter."""
    if is_embedded(path):
        return f"remove {path}, and the same command makes it anew"
    if (path / "adapter_config.json").exists():
        return "train it again with `python train_qlora.py --force`, or copy it anew"
    return f"fetch {model_name(path)} anew, or copy it again"


def missing_files(path: Path) -> list[str]:
    """What a model folder lacks: config, tokenizer, or safetensors weights (each shard that the index names)."""
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
    """The name a reader knows the model by: the hub id for the embedded or a cached model, else the folder."""
    if is_embedded(path):
        return EMBEDDED_ORIGIN
    if path.parent.name == "snapshots":
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    return str(path)


def describe(path: Path) -> str:
    """One line that says which model a run uses, read from its config alone."""
    if is_embedded(path):
        return f"Model: {EMBEDDED} (embedded): for trying things out, never for results"
    config = read_json(path / "config.json")
    shape = f"{config.get('num_hidden_layers')} layers, width {config.get('hidden_size')}"
    return f"Model: {model_name(path)} ({', '.join(config.get('architectures') or [])}, {shape})"


def fingerprint(path: Path) -> str:
    """A short hash that tells base models of the same shape apart, however their weights are cut into files.

    It reads a few rows of two tensors, not gigabytes. Raises UserError when a file of weights is damaged.
    """
    from safetensors import SafetensorError, safe_open

    tensors, digest = {}, hashlib.sha256()
    for file in path.glob("*.safetensors"):
        try:
            with safe_open(file, framework="pt") as weights:
                tensors.update(dict.fromkeys(weights.keys(), file))
        except (SafetensorError, OSError):
            raise UserError(f"{file} is damaged or cut short: {remedy(path)}") from None
    names = [
        name for name in sorted(tensors) if name.endswith(("q_proj.weight", "embed_tokens.weight"))
    ]
    for name in names[:1] + names[-1:]:
        with safe_open(tensors[name], framework="pt") as weights:
            digest.update(name.encode() + weights.get_slice(name)[:16].float().numpy().tobytes())
    return digest.hexdigest()[:16]
