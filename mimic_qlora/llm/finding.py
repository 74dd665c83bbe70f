"""Find a model on this machine, check that its files are complete, name it and identify it."""

import contextlib
import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

from mimic_qlora.llm.embedded import (
    EMBEDDED,
    EMBEDDED_ORIGIN,
    embedded_path,
    found,
    is_embedded,
)
from mimic_qlora.llm.offline import FROM_HERE, quiet_transformers
from mimic_qlora.step import faults, files
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.step_commands import command_for

# files beside the weights on which answers rest: how a model computes, where it ends, its words
BESIDE_WEIGHTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)


def model_path(name: str | None, storage: Path) -> Path:
    """Return the local folder of a model, never fetching one.

    The name is that of the embedded model (or None), a folder, or a hub name in the local cache.
    Raises UserError, with the command to run, when the model is missing, incomplete, quantised or
    mixed with an adapter.
    """
    if name is None or name == EMBEDDED:
        own = embedded_path(storage)
        if missing := missing_files(own):
            raise UserError(f"{own} lacks {', '.join(missing)}: {remedy(own)}")
        return own
    path = _folder(name)
    if files.given_path(name).is_dir():
        advice = "give a folder that holds the whole model"
    else:
        advice = (
            f"fetch it on a machine with access: `hf download {shlex.quote(name)} --exclude "
            "'original/*'` (for a gated model accept its licence on huggingface.co and run "
            "`hf auth login` first)"
        )
        if not name or name[0] in "/.~" or name.count("/") > 1:  # not a name that a hub can have
            advice = (
                "give an existing folder, or a hub name such as meta-llama/Meta-Llama-3-8B-Instruct"
            )
    if path is None and (several := _snapshots(name)):
        raise UserError(
            f"the local cache of the hub does not tell which of {len(several)} snapshots of {name} "
            f"is meant: give the folder of one, {' or '.join(map(str, several))}"
        )
    if path is None:
        raise UserError(
            f"model {name} is neither a folder nor in the local cache of the hub: {advice}"
        )
    if (path / "adapter_config.json").is_file():
        raise UserError(
            f"model {name} in {path} holds an adapter (adapter_config.json); transformers loads "
            "the base that this names, whatever weights lie beside it: move the adapter out of it, "
            "or give a folder of the base alone"
        )
    if missing := missing_files(path):
        raise UserError(f"model {name} in {path} lacks {', '.join(missing)}: {advice}")
    if quantised := read_json(path / "config.json").get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise UserError(
            f"model {name} in {path} is quantised already (by {method}), and QLoRA quantises whole "
            "weights by itself: give a model with those, such as "
            "meta-llama/Meta-Llama-3-8B-Instruct"
        )
    return path


def _folder(name: str) -> Path | None:
    """Return a folder as it is named, or of the hub's cache, whether or not its model is whole."""
    given = files.given_path(name)
    return given.resolve() if given.is_dir() else cached_snapshot(name)


def config_folder(name: str | None, storage: Path) -> Path | None:
    """Return the folder of a model's config.json, which may be there without weights, or None."""
    embedded = name is None or name == EMBEDDED
    path = found(storage) if embedded else _folder(str(name))
    return path if path is not None and (path / "config.json").is_file() else None


def cached_snapshot(hub_id: str) -> Path | None:
    """Return the folder of a hub model in the local cache, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except HFValidationError:
        return None
    except LocalEntryNotFoundError as error:
        # it lacks a file that the hub lists, such as those in original/, which nobody needs
        if path := getattr(error, "snapshot_path", None):
            return Path(path)
    there = _snapshots(hub_id)  # one that was copied alone has no refs/main
    return there[0] if len(there) == 1 else None


def _snapshots(hub_id: str) -> list[Path]:
    """Return the folders of all snapshots of a hub model in the local cache."""
    from huggingface_hub import constants

    name = f"models--{hub_id.replace('/', '--')}"
    configs = Path(constants.HF_HUB_CACHE, name, "snapshots").glob("*/config.json")
    return sorted(path.parent for path in configs)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a model or an adapter. Raises UserError when it is damaged."""
    try:
        content = files.read_json(path)
        if isinstance(content, dict):
            return content
    except (OSError, ValueError) as error:
        if faults.of_the_machine(error):
            raise
        if getattr(error, "doc", "").startswith("\ufeff"):
            raise UserError(
                f"{path} begins with a byte order mark, with which transformers reads no JSON: "
                "save it as UTF-8 without one"
            ) from None
    raise UserError(f"{path} is damaged: {remedy(path.parent)}")


def remedy(path: Path) -> str:
    """Return what to do about a damaged model or adapter."""
    if is_embedded(path):
        return f"remove {path}, and the same command makes it anew"
    if (path / "adapter_config.json").exists():
        return f"train it again with `{training_command(path)} --force`, or copy it anew"
    if any(map(_is_pointer, path.glob("*.*"))):
        return f"files there are pointers of Git LFS, so run `git lfs pull` in {path}"
    return f"fetch {model_name(path)} anew, or copy it again"


def training_command(folder: Path) -> str:
    """Return the command that trains the adapter of a folder."""
    is_run = folder.parent.name == "adapters"  # else a copy, or a checkpoint
    return command_for(f"adapters/{folder.name}" if is_run else "adapters")


def _is_pointer(path: Path) -> bool:
    """Tell whether Git LFS has left its note of a file in the place of the file."""
    try:
        with open(path, "rb") as file:
            return file.read(len(GIT_LFS)) == GIT_LFS
    except OSError:
        return False


def missing_files(path: Path) -> list[str]:
    """Return what a model's folder lacks of config, tokenizer and safetensors weights.

    With an index, each shard that it names counts as one file. Without tokenizer_config.json a
    tokenizer may load all the same, and write conversations without their first token.
    """
    each = ("config.json", "tokenizer_config.json")
    missing = [name for name in each if not (path / name).is_file()]
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        missing.append("tokenizer.json")
    return missing + missing_weights(path)


WHOLE = ("BF16", "F16", "F32", "F64")  # as safetensors names the types of unquantised weights
# what the config.json of some kinds of model says beside that of a Llama of how weights are used
OF_SOME_KINDS = (
    *("attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"),
    *("attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "query_pre_attn_scalar"),
    *("hidden_activation", "layer_norm_eps", "layer_types", "no_rope_layers"),
    *("sliding_window", "use_sliding_window"),
)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def missing_weights(path: Path) -> list[str]:
    """Return what a model's folder lacks of its weights.

    These are one file, or the shards that an index names; shards without it cannot be loaded, and
    tell by their names (model-00001-of-00004) how many there are.
    """
    if (path / WEIGHTS).is_file():
        return []
    if (path / INDEX).is_file():
        indexed = _indexed(path).values()
        return sorted({shard for shard in indexed if not (path / shard).is_file()})
    named = [re.fullmatch(SHARD, file.name) for file in path.glob("model-*.safetensors")]
    if totals := {int(match[2]) for match in named if match}:
        total = max(totals)
        shards = [f"model-{n:05d}-of-{total:05d}.safetensors" for n in range(1, total + 1)]
        return [INDEX, *(shard for shard in shards if not (path / shard).is_file())]
    return [WEIGHTS]


GIT_LFS = b"version https://git-lfs"
SHARD = r"model-(\d{5})-of-(\d{5})\.safetensors"


def _indexed(path: Path) -> dict[str, str]:
    """Return the shard of each tensor by its name. Raises UserError when the index is damaged."""
    shards = read_json(path / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(map(_is_file_name, shards.values())):
        raise UserError(f"{path / INDEX} is damaged: {remedy(path)}")
    return shards


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and name == Path(name).name != ""


def weight_files(path: Path) -> list[Path]:
    """Return the files that hold a model's weights, as transformers chooses them."""
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    if (path / INDEX).is_file():
        return [path / shard for shard in sorted(set(_indexed(path).values()))]
    return sorted(path.glob("*.safetensors"))


def model_name(path: Path) -> str:
    """Return the hub name of the embedded or a cached model, for others the folder."""
    if is_embedded(path):
        return EMBEDDED_ORIGIN
    if path.parent.name == "snapshots":
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    return str(path)


def tokenizer_sha256(path: Path) -> str:
    """Return the hash of a model's tokenizer and chat template, whatever the folder is called."""
    whole = hashlib.sha256()
    for name in ("tokenizer.json", "tokenizer.model"):
        if (path / name).is_file():
            whole.update(name.encode() + (path / name).read_bytes())
    template, config = path / "chat_template.jinja", path / "tokenizer_config.json"
    if template.is_file():
        whole.update(template.read_bytes().strip())
    elif config.is_file():
        whole.update(str(read_json(config).get("chat_template")).encode().strip())
    return whole.hexdigest()


def describe(path: Path) -> str:
    """Return one line on the model of a run, from its config alone."""
    if is_embedded(path):
        return f"Model: {EMBEDDED} (embedded): for trying things out, never for results"
    config = read_json(path / "config.json")
    shape = f"{config.get('num_hidden_layers')} layers, width {config.get('hidden_size')}"
    kinds = config.get("architectures")
    named = [*map(str, kinds)] if isinstance(kinds, list) else []
    return f"Model: {model_name(path)} ({', '.join([*named, shape])})"


def fingerprint(path: Path) -> str:
    """Return a hash of 32 hexadecimal digits by which models of one shape differ.

    It covers the first 16 rows of every matrix and vector of weights, and the last 1/256, at least
    16: those of an embedding hold its special tokens, which a copy of a model may have mended
    alone. So it takes little time, does not depend on how weights are cut into files, and tells a
    model from one that was tuned from it in some of them alone. Raises UserError when a file of
    weights is damaged, lacks a tensor that the index promises, or was not fetched to its end.
    """
    tensors = {name: file for name, file in _tensors(path).items() if name.endswith(".weight")}
    if read_json(path / "config.json").get("tie_word_embeddings"):  # some files have it twice
        tensors.pop("lm_head.weight", None)
    pairs = sorted(tensors.items())
    return _sampled(pairs) + _sampled(pairs, last=True)


def is_of(path: Path, recorded: str | None) -> bool:
    """Tell whether a model has the fingerprint that a manifest has recorded.

    Manifests until 2026-11-30 have its first 16 digits, earlier ones those of two tensors. Raises
    UserError as `fingerprint` does.
    """
    if recorded and fingerprint(path).startswith(recorded):
        return True
    pairs = sorted(_tensors(path).items())
    some = [pair for pair in pairs if pair[0].endswith(("q_proj.weight", "embed_tokens.weight"))]
    return recorded == _sampled(some[:1] + some[-1:])


def beside_weights(path: Path) -> dict[str, str]:
    """Return the SHA-256 sums of a model's files beside its weights on which its answers rest.

    Weights alone do not tell answers apart: a mended end token or another RoPE makes other ones.
    """
    there = (path / name for name in BESIDE_WEIGHTS)
    return {file.name: files.file_sha256(file) for file in there if file.is_file()}


def computing(path: Path) -> str:
    """Return a hash of what config.json says of how the weights are used, however it is written.

    The same weights with another RoPE, or cut into other heads, are another model. What a config
    leaves out, as Llama 2's does the base of RoPE, is what transformers takes for it.
    """
    config = _completed(path)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = dict(rope) if isinstance(rope, dict) else {"rope_type": rope}
    theta = config.get("rope_theta", rope.pop("rope_theta", None))
    kind = rope.pop("rope_type", rope.pop("type", None))
    rope.pop("type", None)
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    dim = width // heads if isinstance(heads, int) and heads and isinstance(width, int) else None
    used = {
        "rope": {"theta": theta, "kind": kind, **rope} if rope else theta,
        "heads": [heads, config.get("num_key_value_heads") or heads, config.get("head_dim") or dim],
        **{name: config.get(name) for name in ("hidden_act", "rms_norm_eps")},
        **{name: config[name] for name in OF_SOME_KINDS if config.get(name) is not None},
    }
    return files.digest(json.loads(json.dumps(used), parse_int=float))[:16]


def attention_window(path: Path) -> int | None:
    """Return the tokens that some layers of a model see at most, fewer than it can read, or None.

    None too where no layer has such a window. One that sees images too has its own config of text.
    """
    config = _completed(path)
    config = config.get("text_config") or config
    window, kinds = config.get("sliding_window"), config.get("layer_types") or ["sliding_attention"]
    return window if isinstance(window, int) and "sliding_attention" in kinds else None


def _completed(path: Path) -> dict[str, Any]:
    """Return config.json as transformers reads it; as it is where transformers cannot."""
    written = read_json(path / "config.json")
    try:
        read = quiet_transformers().AutoConfig.from_pretrained(path, **FROM_HERE)
    except UserError:
        raise
    except Exception as error:  # of many kinds; who loads the model says what is wrong
        if faults.of_the_machine(error):
            raise
        return written
    return {**written, **read.to_dict()}


def embeddings_fingerprint(path: Path) -> str | None:
    """Return a hash of the first 16 rows of a model's embeddings, which QLoRA leaves as they are.

    Models of one hash but other fingerprints were tuned from the same weights. None where they
    have another name than in models of the Llama kind. Raises UserError as `fingerprint` does.
    """
    found = [(n, file) for n, file in _tensors(path).items() if n.endswith("embed_tokens.weight")]
    return _sampled(found) if found else None


def _sampled(tensors: list[tuple[str, Path]], last: bool = False) -> str:
    """Return a hash of names and first 16, or last, rows of tensors, given with their files."""
    from safetensors import safe_open

    digest = hashlib.sha256()
    with contextlib.ExitStack() as opened:
        weights = {
            file: opened.enter_context(safe_open(file, framework="pt"))
            for file in {file for _, file in tensors}
        }
        for name, file in tensors:
            tensor = weights[file].get_slice(name)
            if tensor.get_dtype() not in WHOLE:
                raise UserError(
                    f"{file} holds {name} as {tensor.get_dtype()}, and QLoRA quantises whole "
                    "weights by itself: give a model in bfloat16, float16 or float32"
                )
            length = tensor.get_shape()[0]
            part = slice(max(0, length - max(16, length // 256)), length) if last else slice(16)
            rows = tensor[part].float().numpy()
            if rows.ndim > 1 and not last and not rows.any():  # padding of a vocabulary may be zero
                raise UserError(
                    f"{file} holds zeros in the place of {name}, as a download that was stopped "
                    f"leaves a file of full size: {remedy(file.parent)}"
                )
            digest.update(name.encode() + rows.tobytes())
    return digest.hexdigest()[:16]


def tensor_sizes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the size of each tensor of a model by its name, from the headers of its files.

    Empty where not all of its weights are there yet. Raises UserError as `fingerprint` does.
    """
    from safetensors import safe_open

    found: dict[str, tuple[int, ...]] = {}
    if missing_weights(path):
        return found
    tensors = _tensors(path)
    for file in sorted(set(tensors.values())):
        with safe_open(file, framework="pt") as weights:
            found |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}
    return found


def _tensors(path: Path) -> dict[str, Path]:
    """Return the file of each tensor of a model. Raises UserError as `fingerprint` does."""
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Path] = {}
    for file in weight_files(path):
        try:
            with safe_open(file, framework="pt") as weights:
                tensors.update(dict.fromkeys(weights.keys(), file))
        except (SafetensorError, OSError) as error:
            if faults.of_the_machine(error):
                raise
            raise UserError(f"{file} is damaged or cut short: {remedy(path)}") from None
    if not (path / WEIGHTS).is_file() and (path / INDEX).is_file():
        if absent := sorted(_indexed(path).keys() - tensors):
            raise UserError(
                f"the weights in {path} lack {len(absent):,} tensors that {INDEX} names, "
                f"{absent[0]} among them: {remedy(path)}"
            )
    return tensors
