"""Language models: finding one on this machine, telling it from others, and loading it in 4 bits.

Nothing here reaches the network: a model is the embedded one, a local folder, or already in the hub's local cache.
"""

import os
from pathlib import Path

from mimic_qlora.llm.finding import fingerprint, model_name, read_json, remedy
from mimic_qlora.llm.offline import quiet_transformers
from mimic_qlora.step.errors import UserError

# ---------------------------------------------------------------- where a model is


# ---------------------------------------------------------------- loading


def compute_dtype():
    """bfloat16, or float16 on a GPU that has no bfloat16 of its own."""
    import torch

    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def load_base(path: Path, four_bit: bool = True, dtype=None):
    """The model in evaluation mode, on this process's GPU if there is one: 4-bit NF4 with double quantisation, or
    unquantised.

    It computes in `dtype` (default: `compute_dtype()`; unquantised on a CPU float32, to compare against).
    Raises UserError when its weights are damaged, lack a tensor, or don't fit.
    """
    transformers = quiet_transformers()
    import torch
    from safetensors import SafetensorError

    gpu = torch.cuda.is_available()
    dtype = dtype or (compute_dtype() if gpu or four_bit else torch.float32)
    options = {"dtype": dtype}
    sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if four_bit:
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=dtype
            if sharded
            else torch.uint8,  # FSDP shards tensors of one dtype only
        )
    if not sharded:
        options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", 0)) if gpu else "cpu"}
    try:
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            path,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except torch.OutOfMemoryError:
        raise UserError(
            f"the GPU has too little free memory for {model_name(path)}: free some, or use a larger one"
        ) from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"the model in {path} cannot be loaded ({reason}): {remedy(path)}"
        ) from None
    if absent := sorted(loaded["missing_keys"]):  # transformers fills these with random numbers
        raise UserError(
            f"the weights in {path} lack {len(absent):,} tensors, {absent[0]} among them: {remedy(path)}"
        )
    guard_linear4bit(model)
    if four_bit and not gpu:
        let_file_go(model)
    # generate() fills whatever a caller leaves open from the model's own settings, so a checkpoint's temperature or
    # repetition penalty would reach a greedy answer; only its end tokens are kept
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=model.generation_config.eos_token_id
    )
    return model.eval()


def unpacked(model):
    """The 4-bit base for answering: on a CPU with memory to spare its weights are unpacked once, not for each token.

    They keep their 4-bit values, so the answers are the same to the last bit with the arms named by `adapter_names`, as
    `generation` does; a plain forward rounds LoRA's output elsewhere. On a GPU the model is given back as it is.
    """
    import psutil
    import torch

    weights = [
        m.in_features * m.out_features for m in model.modules() if isinstance(m, torch.nn.Linear)
    ]
    if (
        torch.cuda.is_available() or 4 * sum(weights) > psutil.virtual_memory().available
    ):  # 2 bytes each, twice
        return model
    return model.dequantize(dtype=compute_dtype()).eval()


def guard_linear4bit(model) -> None:
    """Keep bitsandbytes from repacking 4-bit weights in place on CPUs with AVX512-BF16.

    It does so in the first forward without gradients; training forwards after it then run through a kernel that has
    no backward, and gradients are silently wrong (bitsandbytes 0.50).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def let_file_go(model) -> None:
    """Copy the weights that are still views of the file: as long as there is one, all of it stays in memory."""
    for weight in model.parameters():
        if weight.is_floating_point():  # the 4-bit ones are copies already
            weight.data = weight.data.clone()


def load_adapter(model, folder: Path, name: str = "default"):
    """The base model with a trained LoRA adapter beside its weights (not merged: 4-bit weights stay as trained on).

    Further adapters go beside the first, each under its own name. Raises UserError when the folder holds no adapter as
    safetensors (a pickled one could run code) or the adapter was trained on another base model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    path = Path(
        model.name_or_path
        if not hasattr(model, "peft_config")
        else model.get_base_model().name_or_path
    )
    if not all(
        (folder / file).is_file() for file in ("adapter_config.json", "adapter_model.safetensors")
    ):
        raise UserError(
            f"{folder} holds no adapter as safetensors: run `python train_qlora.py` first"
        )
    manifest = folder / "manifest.json"
    trained_on = read_json(manifest).get("base_model") if manifest.is_file() else None
    if trained_on and trained_on.get("fingerprint") != fingerprint(path):
        raise UserError(
            f"the adapter in {folder} was trained on {trained_on.get('name')}, not on {model_name(path)}: "
            "give that model with --model, or train again"
        )
    try:
        if hasattr(model, "peft_config"):
            model.load_adapter(folder, adapter_name=name, local_files_only=True)
        else:
            model = PeftModel.from_pretrained(
                model, folder, adapter_name=name, local_files_only=True
            )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if "size mismatch" in str(error):
            raise UserError(
                f"the adapter in {folder} does not fit the shape of {model_name(path)}"
            ) from None
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"the adapter in {folder} cannot be loaded ({reason}): {remedy(folder)}"
        ) from None
    return model.eval()


def adapter_name(place: int) -> str:
    """What PEFT calls the adapter of the run at this place of --run; a run's own name may hold a dot, which it bars."""
    return f"run{place}" if place else "default"
