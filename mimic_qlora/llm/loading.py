"""Load a base model in 4-bit NF4 and put adapters beside it, from this machine alone."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimic_qlora.llm import embedded
from mimic_qlora.llm.finding import (
    computing,
    fingerprint,
    is_of,
    model_name,
    read_json,
    remedy,
    training_command,
)
from mimic_qlora.llm.offline import FROM_HERE, quiet_transformers, refuse_own_code
from mimic_qlora.step import faults, files, limits
from mimic_qlora.step.errors import UserError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


def compute_dtype(on_cpu: "torch.dtype | None" = None) -> "torch.dtype":
    """Return bfloat16; where the hardware has none, float16 on a GPU and float32 on a CPU.

    A CPU without instructions for bfloat16 computes in it at a fifth of the speed. `on_cpu` is for
    what does not follow the CPU.
    """
    import torch

    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if on_cpu is not None:
        return on_cpu
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    native = any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16"))
    return torch.bfloat16 if native else torch.float32


def load_base(
    path: Path, four_bit: bool = True, dtype: "torch.dtype | None" = None
) -> "PreTrainedModel":
    """Load a model for evaluation, on this process's GPU if there is one.

    With `four_bit` its linear layers are NF4 with double quantisation (Dettmers et al., QLoRA,
    arXiv:2305.14314), else unquantised. It computes in `dtype`, by default `compute_dtype()`;
    unquantised on a CPU float32. Raises UserError when its weights are damaged, lack a tensor, or
    do not fit into memory.
    """
    transformers = quiet_transformers()
    import torch

    if embedded.is_embedded(path):
        embedded.check_weights(path)
    fingerprint(path)  # what is not whole is named
    gpu = torch.cuda.is_available()
    dtype = dtype or (compute_dtype() if gpu or four_bit else torch.float32)
    try:
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            path,
            attn_implementation="sdpa",
            use_safetensors=True,
            **FROM_HERE,
            output_loading_info=True,
            **_placement(four_bit, dtype),
        )
    except torch.OutOfMemoryError:
        raise UserError(
            f"the GPU has too little free memory for {model_name(path)}: free some, or use a "
            "larger one"
        ) from None
    except Exception as error:  # of many kinds, by what the files hold
        if faults.of_the_machine(error):
            raise
        refuse_own_code(path, error)
        reason = str(error).strip().split("\n")[0][:200]
        if "ignore_mismatched_sizes" in reason:
            reason = "its config.json gives another shape than its weights have"
        raise UserError(
            f"the model in {path} cannot be loaded ({reason}): {remedy(path)}"
        ) from None
    _check_whole(path, loaded)
    guard_linear4bit(model)
    guard_head(model)
    if four_bit and not gpu:
        let_file_go(model)
    # generate() takes what a caller leaves open from the model's own settings, so a checkpoint's
    # temperature or repetition penalty would reach a greedy answer; only its end tokens are kept
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=model.generation_config.eos_token_id
    )
    return model.eval()


def _check_whole(path: Path, loaded: dict[str, Any]) -> None:
    """Raise UserError unless config.json and weights of a model name the same tensors.

    `loaded` is what `from_pretrained` tells; it fills a missing tensor with random numbers, and
    leaves out layers that the config does not count.
    """
    if absent := sorted(loaded["missing_keys"]):
        raise UserError(
            f"the weights in {path} lack {len(absent):,} tensors, {absent[0]} among them: "
            f"{remedy(path)}"
        )
    spare = sorted(
        name
        for name in loaded["unexpected_keys"]
        if re.search(r"\.layers\.\d+\..*(weight|bias)$", name)
    )
    if spare:
        raise UserError(
            f"the weights in {path} hold {len(spare):,} tensors that its config.json has no place "
            f"for, {spare[0]} among them: {remedy(path)}"
        )


def _placement(four_bit: bool, dtype: "torch.dtype") -> dict[str, Any]:
    """Return the options of `from_pretrained` for number type, quantisation and device."""
    import torch

    options: dict[str, Any] = {"dtype": dtype}
    sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if four_bit:
        options["quantization_config"] = quiet_transformers().BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            # FSDP shards tensors of one dtype only
            bnb_4bit_quant_storage=dtype if sharded else torch.uint8,
        )
    if not sharded:
        gpu = torch.cuda.is_available()
        options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", 0)) if gpu else "cpu"}
    return options


def unpacked(model: "PreTrainedModel") -> "PreTrainedModel":
    """Unpack the 4-bit weights of a base for answering, on a CPU with memory to spare.

    They are then unpacked once instead of for each token. They keep their 4-bit values, so answers
    by `generation`, whose arms are named in `adapter_names`, are equal to the last bit; a plain
    forward rounds LoRA's output at another place. On a GPU the model is returned as it is.
    """
    import torch

    weights = [
        m.in_features * m.out_features for m in model.modules() if isinstance(m, torch.nn.Linear)
    ]
    needed = 2 * model.dtype.itemsize * sum(weights)  # bytes: old and new
    if torch.cuda.is_available() or needed > limits.free_memory():
        return model
    return model.dequantize(dtype=model.dtype).eval()


def guard_linear4bit(model: "PreTrainedModel") -> None:
    """Keep bitsandbytes from repacking 4-bit weights in place on CPUs with AVX512-BF16.

    It does so in the first forward without gradients. Training forwards after it run through a
    kernel without backward, and gradients are silently wrong (bitsandbytes 0.50).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def guard_head(model: "PreTrainedModel") -> None:
    """Keep PyTorch from copying the head's weights for each row of a batch.

    It does so on a CPU in bfloat16 where the last tokens of a longer batch are a view of it.
    """
    model.get_output_embeddings().register_forward_pre_hook(
        lambda head, inputs: (inputs[0].contiguous(),)
    )


def let_file_go(model: "PreTrainedModel") -> None:
    """Copy the weights that are still views of the file; one view keeps all of it in memory."""
    for weight in model.parameters():
        if weight.is_floating_point():  # the 4-bit ones are copies already
            weight.data = weight.data.clone()


def load_adapter(
    model: "PreTrainedModel | PeftModel", folder: Path, name: str = "default"
) -> "PeftModel":
    """Put a trained LoRA adapter beside a base's weights, under a name of its own.

    It is not merged, since 4-bit weights stay as they were in training. Raises UserError when the
    folder holds no adapter as safetensors (a pickled one could run code), or not all of one, or the
    adapter was trained on another base model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    further = hasattr(model, "peft_config")
    path = Path(model.get_base_model().name_or_path if further else model.name_or_path)
    _check_adapter(folder, path)
    try:
        if further:
            model.load_adapter(folder, adapter_name=name, local_files_only=True)
        else:
            model = PeftModel.from_pretrained(
                model, folder, adapter_name=name, local_files_only=True
            )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if faults.of_the_machine(error):
            raise
        if "size mismatch" in str(error):
            raise UserError(
                f"the adapter in {folder} does not fit the shape of {model_name(path)}"
            ) from None
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"the adapter in {folder} cannot be loaded ({reason}): {remedy(folder)}"
        ) from None
    _check_tensors(model, folder, name)
    return model.eval()


def _check_tensors(model: "PeftModel", folder: Path, name: str) -> None:
    """Raise UserError unless an adapter's file has the matrices beside the base, and no more.

    peft leaves those that are missing at zero, so that the base would answer in the adapter's name,
    and drops those that adapter_config.json has no place for, or puts them over the base's own.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
        found = set(weights.keys())
    absent = sorted(expected.keys() - found)
    spare = sorted(found - expected.keys())
    if absent:
        raise UserError(
            f"the adapter in {folder} lacks {len(absent):,} of {len(expected):,} matrices, "
            f"{absent[0]} among them: {remedy(folder)}"
        )
    if spare:
        raise UserError(
            f"the adapter in {folder} holds {len(spare):,} matrices that its adapter_config.json "
            f"or the base has no place for, {spare[0]} among them: {remedy(folder)}"
        )


def _check_adapter(folder: Path, base: Path) -> None:
    """Raise UserError unless a folder holds an adapter as safetensors, trained on this base."""
    parts = ("adapter_config.json", "adapter_model.safetensors")
    if not all((folder / part).is_file() for part in parts):
        raise UserError(
            f"{folder} holds no adapter as safetensors: run `{training_command(folder)}` first"
        )
    manifest = folder / "manifest.json"
    trained_on = read_json(manifest).get("base_model") if manifest.is_file() else None
    if trained_on and not is_of(base, trained_on.get("fingerprint")):
        raise UserError(
            f"the adapter in {folder} was trained on {trained_on.get('name')}, not on "
            f"{model_name(base)} as it is now: give that model with --model, or train again"
        )
    known = trained_on.get("computing") if trained_on else None
    if known is not None and known != computing(base):
        raise UserError(
            f"the adapter in {folder} was trained beside another {base / 'config.json'} (RoPE, "
            "heads, activation or norm): put that one back, or train again"
        )


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 of the weights of the adapter in a folder, as they lie there now."""
    return files.file_sha256(folder / "adapter_model.safetensors")


def adapter_name(place: int) -> str:
    """Return PEFT's name for the adapter of the run at this place of --run, counted from 0.

    A run's own name may hold a dot, which PEFT forbids.
    """
    return f"run{place}" if place else "default"
