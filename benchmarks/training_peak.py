"""Claim: the memory that step 5 asks for on a CPU is within 15% of what it takes.

    python benchmarks/training_peak.py --layers 4 --width 512 --ffn 1408 --vocabulary 32000

Makes a model of that shape with random weights, and lets two made-up rows go forward and backward,
each setting in a process of its own. Linux with glibc alone. For each it prints what is computed,
the peak that was in use (glibc's mallinfo2) and the peak that was held (RssAnon), both with what
the loaded model takes. The difference of the two is freed memory that glibc keeps.
"""

import argparse
import contextlib
import ctypes
import multiprocessing
import os
import random
import tempfile
import threading
import time
from array import array
from pathlib import Path

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")  # as step 5 sets it

import torch  # noqa: E402
import transformers  # noqa: E402

from mimic_qlora.llm import loading  # noqa: E402
from mimic_qlora.processes import held_memory  # noqa: E402
from mimic_qlora.training import (  # noqa: E402
    cost,
    gradient_check,
    packed_attention,
    packing,
    preparation,
    trainer,
)
from mimic_qlora.training.low_memory import use_swiglu  # noqa: E402
from mimic_qlora.training.settings import TrainSettings  # noqa: E402

SETTINGS = [("float32", 0), ("float32", 1), ("bfloat16", 0), ("bfloat16", 1)]  # 1: all checkpointed
FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class Blocks(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS.split()]


def in_use() -> int:
    """Return the bytes that malloc has given away."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = Blocks
    found = ask()
    return found.uordblks + found.hblkhd


class Peak(threading.Thread):
    """The most bytes in use and held while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.used = self.held = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.004):
            self.used = max(self.used, in_use())
            self.held = max(self.held, held_memory.held() or 0)


def write_model(folder: Path, args: argparse.Namespace) -> None:
    """Write a model of the shape with random weights."""
    config = transformers.LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.width,
        intermediate_size=args.ffn,
        num_hidden_layers=args.layers,
        num_attention_heads=args.width // 64,
        num_key_value_heads=max(1, args.width // 256),
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def row(args: argparse.Namespace, seed: int) -> packing.Pack:
    """Return three made-up samples, a quarter of each supervised."""
    draw, n = random.Random(seed), args.tokens // 3
    ids = [array("i", [draw.randrange(3, args.vocabulary) for _ in range(n)]) for _ in range(3)]
    return [packing.Sample(one, n - n // 4, i) for i, one in enumerate(ids)]


def measure(folder: Path, args: argparse.Namespace, dtype: torch.dtype, every: int) -> None:
    """Print a line of the table for one setting."""
    libc = ctypes.CDLL(None)
    before = held_memory.held() or 0
    base = loading.load_base(folder, dtype=dtype)
    packed_attention.use_packed(base)
    use_swiglu(base)
    settings = TrainSettings(
        epochs=1,
        lr=1e-3,
        batch_tokens=args.tokens,
        accumulate=1,
        checkpointing="none",
        optimizer="adamw_torch_fused",
        validations=1,
    )
    model = preparation.add_lora(base, settings, "made up")
    model.train()
    gradient_check.set_checkpointing(model, every)
    libc.malloc_trim(0)
    loaded, used = (held_memory.held() or 0) - before, in_use()
    peak = Peak()
    peak.start()
    for seed in range(2):
        batch = packing.collate(row(args, seed))
        narrow = torch.autocast("cpu", dtype) if dtype is torch.bfloat16 else None
        with narrow or contextlib.nullcontext():
            loss = trainer.token_losses(model, batch).mean()
        loss.backward()
        model.zero_grad()
    peak.ended.set()
    longest = cost.Row(args.tokens, args.tokens // 4)
    shape = preparation.shape_of(folder)
    needed = cost.training_bytes(shape, settings.rank, longest, every, dtype.itemsize, True)
    taken = [loaded + peak.used - used, peak.held - before]
    shown = " | ".join(f"{size / 1e6:,.0f}" for size in (needed, *taken))
    print(f"| {dtype} | {'all' if every else 'none'} | {shown} | {needed / taken[1]:.2f} |")


def main() -> None:
    """Print a table with a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in dict(layers=4, width=512, ffn=1408, vocabulary=32000, tokens=600).items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    args = parser.parse_args()
    began = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name), args)
        print("| computes in | checkpointed | computed MB | in use | held | computed / held |")
        print("| --- | --- | --- | --- | --- | --- |", flush=True)
        for dtype, every in SETTINGS:
            given = (Path(name), args, getattr(torch, dtype), every)
            child = multiprocessing.get_context("spawn").Process(target=measure, args=given)
            child.start()
            child.join()
    print(f"{time.process_time() - began:.0f} s of CPU without the children")


if __name__ == "__main__":
    main()
