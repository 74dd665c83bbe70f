"""The machine that trains: its name, speed, memory and number types."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mimic_qlora.llm import loading
from mimic_qlora.processes import environment, held_memory
from mimic_qlora.step import limits
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.plain_text import inline

# Dense bfloat16 (float16 where there is no bfloat16) tensor operations a second, in units of 10^12,
# from NVIDIA's data sheets. The first name that the GPU's name contains counts.
PEAK_TFLOPS = {
    "GB200": 2500,
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "H800": 989,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A40": 150,
    "A10G": 70,
    "A10": 125,
    "A6000": 155,
    "A5000": 111,
    "RTX 6000 Ada": 364,
    "RTX 5090": 210,
    "RTX 4090": 165,
    "RTX 4080": 97,
    "RTX 3090": 71,
    "V100": 125,
    "T4": 65,
}


def is_main() -> bool:
    """Return whether this process writes: it is alone or `accelerate launch`'s first."""
    return environment.place().rank == 0


def n_processes() -> int:
    """Return the number of processes of the run."""
    return environment.place().n


def gpu() -> bool:
    """Return whether training runs on a GPU."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    return torch.cuda.is_available() and not on_cpu


def name() -> str:
    """Return the name of the GPU or the threads of the CPU, with the number of processes."""
    threads = f"CPU, {torch.get_num_threads()} threads"
    device = torch.cuda.get_device_name() if gpu() else threads
    return device if n_processes() == 1 else f"{n_processes()} x {device}"


def recipe() -> str:
    """Return the name of the recipe that fits this machine."""
    if not gpu():
        return "cpu"
    if n_processes() > 1:
        return "multi_gpu"
    return "gpu_80gb" if torch.cuda.get_device_properties(0).total_memory > 40e9 else "gpu_24gb"


PRODUCT = (576, 1536)  # a weight of the embedded model
ROWS, MOST_FLOPS = 1024, 2e10  # of one product that is measured


def matmul_flops(dtype: torch.dtype, weight: tuple[int, int] = PRODUCT) -> float:
    """Measure the operations a second of a product with a weight (0.1 s for a small one)."""
    device = "cuda" if gpu() else "cpu"
    inner, outer = weight
    rows = max(1, min(ROWS, int(MOST_FLOPS / (2 * inner * outer))))
    a = torch.ones((rows, inner), dtype=dtype, device=device)
    b = torch.ones((inner, outer), dtype=dtype, device=device)
    torch.matmul(a, b)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        torch.matmul(a, b)
        if gpu():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * rows * inner * outer / min(seconds)


def dtype(choice: str) -> torch.dtype:
    """Return the number type that the base computes in: bf16, fp16 or fp32 as chosen.

    "auto" is `loading.compute_dtype()`, but float32 on a CPU that is clearly faster with it; some
    have bfloat16 instructions at half the speed. Several processes do not measure, since they could
    disagree. Raises UserError for a type that the machine lacks.
    """
    if choice == "auto" and not gpu() and n_processes() == 1:
        # in turn and often: one product takes 10 ms, and other work on the machine comes and goes
        pairs = [(matmul_flops(torch.float32), matmul_flops(torch.bfloat16)) for _ in range(5)]
        in_32, in_16 = (max(speeds) for speeds in zip(*pairs, strict=True))
        choice = "fp32" if in_32 > 1.2 * in_16 else "bf16"
    chosen = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}.get(
        choice, loading.compute_dtype()
    )
    if gpu() and chosen is torch.bfloat16 and loading.compute_dtype() is not torch.bfloat16:
        raise UserError(
            f"{name()} has no bfloat16 of its own: give --compute fp16 or leave --compute out"
        )
    if not gpu() and chosen is torch.float16:
        raise UserError(
            "a CPU does not train in float16: give --compute fp32 or bf16, or leave --compute out"
        )
    return chosen


class Peak(NamedTuple):
    """The speed that model flop utilisation (MFU) is a share of."""

    flops: float  # operations a second
    source: str


def peak_flops(dtype: torch.dtype, weights: Sequence[tuple[int, int]] = ()) -> Peak:
    """Return the peak of all processes, from the data sheet of the GPU or else measured.

    The products measured are those with the model's own largest weights, which can be much faster
    than a small one.
    """
    if gpu():
        for part, tera in PEAK_TFLOPS.items():
            if part in torch.cuda.get_device_name():
                return Peak(tera * 1e12 * n_processes(), f"{tera} TFLOP/s, from the data sheet")
    fastest = max(matmul_flops(dtype, weight) for weight in (PRODUCT, *weights))
    flops = fastest * n_processes()
    kind = str(dtype).removeprefix("torch.")
    return Peak(flops, f"{flops / 1e9:.0f} GFLOP/s, measured with a matrix product in {kind}")


def free_memory() -> int:
    """Return the bytes that training may take now, on the GPU or of the job's memory."""
    if gpu():
        return torch.cuda.mem_get_info()[0]
    return limits.free_memory()


def peak_memory() -> int:
    """Return the most bytes that this process has held, on the GPU or of the machine."""
    if gpu():
        return torch.cuda.max_memory_allocated()
    return held_memory.peak()


def check_driver() -> str:
    """Return a sentence where nvidia-smi is here without a GPU, so that the CPU trains; else "".

    Raises UserError when the machine has an NVIDIA GPU that PyTorch cannot use and nobody hid.
    """
    if gpu() or torch.cuda.is_available() or limits.gpus_hidden():
        return ""
    listed = limits.gpus()
    if listed is None:
        return ""
    if not listed.listed and not listed.broken:
        return f"nvidia-smi is here but no GPU ({inline(listed.says)}): the CPU is used"
    built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
    found = f"lists {listed.listed} GPU(s)" if listed.listed else f"says '{inline(listed.says)}'"
    raise UserError(
        f"nvidia-smi {found} but PyTorch {torch.__version__} sees none (it {built}): update the "
        "driver, install the PyTorch that fits it (https://pytorch.org/get-started/locally/), or "
        "train on the CPU with --device cpu"
    )


def check_sharding(recipe: str) -> None:
    """Raise UserError when a model is to be sharded over GPUs (FSDP) where there is none.

    Or in a way that this training does not know, as accelerate's own configuration may ask for.
    """
    unknown = [
        name
        for name in ("DEEPSPEED", "MEGATRON_LM")
        if os.environ.get(f"ACCELERATE_USE_{name}") == "true"
    ]
    if unknown:
        if not is_main():
            raise SystemExit(0)
        raise UserError(
            f"accelerate's configuration asks for {unknown[0]}, which this training does not know: "
            "give `accelerate launch` --multi_gpu, or --config_file recipes/fsdp_accelerate.yaml"
        )
    wanted = os.environ.get("ACCELERATE_USE_FSDP") == "true" or Path(recipe).stem == "fsdp"
    if wanted and not gpu():
        if not is_main():
            # the first process says it for all; the launcher would stop it because of a failure
            raise SystemExit(0)
        raise UserError(
            "FSDP shards a model over several GPUs and PyTorch sees none here: run it on a machine "
            "with GPUs, or without recipes/fsdp_accelerate.yaml and with another --recipe"
        )


def wait_for_all() -> None:
    """Wait until every process of the run is here; a single one does not wait."""
    if n_processes() > 1:
        from accelerate import PartialState

        PartialState(cpu=not gpu()).wait_for_everyone()
