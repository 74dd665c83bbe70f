"""The model made ready for training: LoRA beside it, room for it, checkpointing chosen."""

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from accelerate.utils import send_to_device

from mimic_qlora.llm import finding, loading
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import cost, gradient_check, hardware, packed_attention
from mimic_qlora.training.low_memory import use_swiglu
from mimic_qlora.training.packing import Pack, collate, row_length
from mimic_qlora.training.settings import TrainSettings
from mimic_qlora.training.trainer import token_losses, transformers

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Prepared(NamedTuple):
    """A model ready for training."""

    model: "PeftModel"
    dtype: torch.dtype  # in which the base computes
    shape: cost.Shape
    every: int  # every n-th layer is checkpointed; 0: none


def load(
    settings: TrainSettings, compute: str, path: Path, name: str, packs: list[Pack], work: Path
) -> Prepared:
    """Load the base model of a folder with fresh LoRA matrices and prove that every one learns.

    `compute` is the number type, `name` the base's name in the adapter's config, `packs` the
    training packs. Raises UserError when memory, disk or gradients do not allow training.
    """
    transformers.set_seed(settings.seed)
    shape = checked_shape(path)
    dtype = hardware.dtype(compute)
    check_memory(memory(shape, settings, dtype, packs))
    check_disk(shape, settings, work)
    base = loading.load_base(path, dtype=dtype)
    packed_attention.use_packed(base)
    use_swiglu(base)
    model = add_lora(base, settings, name)
    return Prepared(model, dtype, shape, prepare(model, settings.checkpointing, packs, dtype))


def shape_of(path: Path) -> cost.Shape:
    """Return the shape of the model in a folder. Raises UserError where config.json has none."""
    try:
        return cost.shape(finding.read_json(path / "config.json"))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path / 'config.json'} does not give the shape of a model of the Llama family "
            f"({error}): {finding.remedy(path)}"
        ) from None


def checked_shape(path: Path) -> cost.Shape:
    """Return the shape of a model. Raises UserError where its weights have another, or none."""
    found, config = shape_of(path), path / "config.json"
    sizes = cost.sizes(finding.read_json(config))
    tensors = {name: (*_of_layer(name), size) for name, size in finding.tensor_sizes(path).items()}
    layers = 1 + max((layer for layer, *_ in tensors.values()), default=-1)
    other = [name for name, (_, part, size) in tensors.items() if sizes.get(part, size) != size]
    if other or layers not in (0, found.layers):
        what = other[0] if other else f"{layers} layers"
        raise UserError(
            f"{config} gives another shape than the weights beside it have ({what}): "
            f"{finding.remedy(path)}"
        )
    return found


def _of_layer(tensor: str) -> tuple[int, str]:
    """Return the layer of a tensor, -1 of none, and its name where models of the family have it."""
    layer = re.search(r"\.layers\.(\d+)\.", tensor)
    part = re.search(r"\b(?:self_attn|mlp|model)\.(\w+)\.weight$", tensor)
    return int(layer[1]) if layer else -1, part[1] if part else ""


def add_lora(model: "PreTrainedModel", settings: TrainSettings, name: str) -> "PeftModel":
    """Put fresh float32 LoRA matrices beside all linear layers of a base but the head."""
    from peft import LoraConfig, get_peft_model

    # short names: peft's "all-linear" would write the full path of hundreds of layers
    linear = {
        n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)
    } - {"lm_head"}
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        target_modules=sorted(linear),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora)
    model.peft_config["default"].base_model_name_or_path = name
    # on a CPU peft would widen each input to float32, and autocast narrow it again
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    return model


class Room(NamedTuple):
    """Bytes of memory: computed, and measured."""

    needed: float
    free: int

    def in_words(self) -> str:
        """Return both as text."""
        where, least = ("the GPU", " at least") if hardware.gpu() else ("this job", "")
        return (
            f"{where} has {self.free / 1e9:.1f} GB of memory free, training needs "
            f"{self.needed / 1e9:.1f} GB{least} (computed)"
        )


def memory(
    shape: cost.Shape, settings: TrainSettings, dtype: torch.dtype, packs: list[Pack] | None = None
) -> Room:
    """Return the memory that training needs, by its longest row, and what is free.

    Without packs a row is as long as it may become, and a quarter of it supervised. Automatic
    checkpointing counts with the least that it may choose.
    """
    row = cost.Row(settings.batch_tokens, settings.batch_tokens // 4)
    if packs:
        row = cost.Row(
            max(map(row_length, packs)), max(sum(s.n_supervised for s in pack) for pack in packs)
        )
    choices = {"none": 0, "all": 1, "auto": 1 if hardware.gpu() else 0}
    chosen = settings.checkpointing
    every = choices[chosen] if chosen in choices else int(chosen)
    on_cpu = not hardware.gpu()
    needed = cost.training_bytes(shape, settings.rank, row, every, dtype.itemsize, on_cpu)
    return Room(needed, hardware.free_memory())


def check_memory(room: Room) -> None:
    """Raise UserError unless the computed minimum fits into memory."""
    # sharded, each process holds a part
    if room.free < room.needed and not os.environ.get("ACCELERATE_USE_FSDP"):
        raise UserError(
            f"{room.in_words()}: stop what holds it (nvidia-smi, top), ask for more (the "
            "scheduler, `ulimit -v`), lower --batch-tokens, or give --checkpointing all"
        )


def check_disk(shape: cost.Shape, settings: TrainSettings, work: Path) -> None:
    """Raise UserError unless the files of a run fit on the disk."""
    # three checkpoints (float32 weights and AdamW's two moments) and the adapter
    weights = settings.rank * shape.lora_per_rank
    needed = 3 * 12 * weights + 4 * weights + 50_000_000
    free = shutil.disk_usage(work).free
    if free < needed:
        raise UserError(
            f"{work} has {free / 1e6:,.0f} MB free, training needs {needed / 1e6:,.0f} MB: free "
            "some of it"
        )


def prepare(model: "PeftModel", checkpointing: str, packs: list[Pack], dtype: torch.dtype) -> int:
    """Choose the checkpointing that fits and prove that every matrix learns.

    Both are tried on the longest pack, on a CPU on the shortest to save time. Returns n where every
    n-th layer is checkpointed, 0 for none.
    """
    # with FSDP nothing is on a GPU before the Trainer shards it
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        gradient_check.set_checkpointing(model, 1)
        return 1
    where = next(model.parameters()).device
    choose = max if hardware.gpu() else min
    probe = choose((pack for pack in packs if pack[0].n_supervised), key=row_length)
    batch = send_to_device(collate(probe), where)
    autocast = (
        torch.autocast(where.type, dtype)
        if dtype is not torch.float32
        else contextlib.nullcontext()
    )

    def loss() -> torch.Tensor:
        with autocast:
            return token_losses(model, batch).mean()

    def step(every: int) -> None:
        gradient_check.set_checkpointing(model, every)
        gradient_check.two_steps(model, loss, 1024.0 if dtype is torch.float16 else 1.0)

    model.train()
    return gradient_check.choose_checkpointing(checkpointing, step)
