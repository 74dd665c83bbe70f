"""Claim: on one Hopper GPU, step 5 trains Llama 3 8B at 12,500 tokens a second, or in 7.4 GiB.

    python benchmarks/train_gpu.py [--trl VENV/bin/python] [--unsloth VENV/bin/python]

Builds Llama 3 8B's shape from its config with random weights, quantises it to NF4 in place, adds
LoRA r 16 to all linear layers, checks it (every matrix has a gradient, a pack equals its samples
alone) and times optimizer steps: without and with checkpointing (which takes 7.4 GiB), at 2,048
tokens and at more in packed samples of 2,048, a quarter or all supervised. Every system runs in a
process of its own, in turn, within its share of `--minutes`; one that fails or is out of time says
so in the table and keeps the rows that it has. TRL runs with and without Liger's kernels. `--tiny`
takes a small shape instead, which a CPU runs in a minute: it shows that the script works, nothing
about speed.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

LLAMA_3_8B = dict(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
    rope_theta=500000.0,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
)
TINY = LLAMA_3_8B | dict(
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=1000,
)
# checkpointing (every n-th layer, 0 none), tokens of a pack, share supervised
OURS = [
    (1, 2048, 0.25),
    (0, 2048, 0.25),
    (1, 8192, 1.0),
    (0, 8192, 1.0),
    (2, 8192, 0.25),
    (0, 8192, 0.25),
]
OURS += [(0, 16384, 0.25)]
PEERS = [(1, 2048, 1.0), (0, 2048, 1.0), (0, 8192, 1.0)]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a small shape, to see that the script works"
    )
    parser.add_argument(
        "--steps", type=int, default=6, help="timed steps of each setting (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=8.5, help="for all systems together (default: %(default)s)"
    )
    parser.add_argument("--trl", help="Python of an environment with TRL (and liger-kernel)")
    parser.add_argument("--unsloth", help="Python of an environment with Unsloth")
    parser.add_argument(
        "--out", type=Path, help="write the table here as well, anew after each system"
    )
    parser.add_argument("--one", nargs=2, metavar=("SYSTEM", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        system, file = args.one
        return (ours if system == "ours" else theirs)(args, system, Path(file))
    systems = {"ours": sys.executable}
    if args.trl:
        systems |= {"trl": args.trl, "trl-liger": args.trl}
    if args.unsloth:
        systems["unsloth"] = args.unsloth
    lines = [
        "| system | checkpointed | tokens a pass | supervised | tokens/s | MFU | peak GiB | loss "
        "| gradient norm |"
    ]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    print("\n".join(lines), flush=True)
    end = time.time() + 60 * args.minutes
    for n, (system, python) in enumerate(systems.items()):
        for line in rows(args, system, python, (end - time.time()) / (len(systems) - n)):
            lines.append(line)
            print(line, flush=True)
        if args.out:
            args.out.write_text("\n".join(lines) + "\n")


def rows(args, system: str, python: str, seconds: float) -> list[str]:
    """Return a row for each setting that a system ends in time, and one on what stopped it."""
    with tempfile.TemporaryDirectory() as folder:
        file, said = Path(folder) / "results.jsonl", Path(folder) / "stderr"
        options = [
            *(["--tiny"] if args.tiny else []),
            "--steps",
            str(args.steps),
            "--one",
            system,
            str(file),
        ]
        file.touch()
        with open(said, "w") as errors:
            try:
                command = [python, __file__, *options]
                code = subprocess.run(
                    command, stdout=errors, stderr=errors, timeout=max(1, seconds)
                ).returncode
                stopped = f"failed with code {code}: {last_line(said)}" if code else ""
            except subprocess.TimeoutExpired:
                stopped = f"stopped: its {seconds:.0f} s were over"
            except OSError as error:
                stopped = f"failed: {error}"
        found = [row(system, json.loads(line)) for line in file.read_text().splitlines()]
    return found + [f"| {system} | {stopped} | | | | | | | |"] * bool(stopped)


def last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").strip().splitlines() or ["nothing said"]
    return lines[-1][:200].replace("|", "/")


def row(system: str, r: dict) -> str:
    kind = {0: "none", 1: "all"}.get(r["every"], f"1 of {r['every']}")
    start = f"| {system} | {kind} | {r['tokens']:,} | {r['share']:.0%} |"
    if "failed" in r:
        return f"{start} {r['failed']} | | | | |"
    losses, norms = (
        f"{r[name][0]:.3f} {r[name][-1]:.3f}" if r[name] else "" for name in ("loss", "norm")
    )
    return (
        f"{start} {r['speed']:,.0f} | {r['mfu']:.0%} | {r['peak_gib']:.1f} | {losses} | {norms} |"
    )


def measured(args, file: Path, setting: tuple, config: dict, train) -> None:
    """Measure one setting: `train(run)` fills in the traces and returns the seconds of timed steps.

    Its row goes to the file at once, with what went wrong if something did.
    """
    import torch

    from mimic_qlora.training import cost, hardware

    every, tokens, share = setting
    run = {"every": every, "tokens": tokens, "share": share, "loss": [], "norm": []}
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        run["speed"] = args.steps * tokens / train(run)
        flops = cost.flops_per_token(cost.shape(config), 16, min(tokens, 2048) / 2, share)
        run["mfu"] = run["speed"] * flops / hardware.peak_flops(torch.bfloat16)[0]
        run["peak_gib"] = hardware.peak_memory() / 2**30
    except torch.OutOfMemoryError:
        run["failed"] = "does not fit"
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        run["failed"] = f"failed: {type(error).__name__}: {said[0][:200]}".replace("|", "/")
    with open(file, "a") as results:
        results.write(json.dumps(run) + "\n")


# ---------------------------------------------------------------- one system in its own process


def build(tiny: bool):
    """Return a model with random weights, its linear layers but the head in NF4, and its config."""
    import bitsandbytes as bnb
    import torch
    import transformers

    config = TINY if tiny else LLAMA_3_8B
    where = "cuda" if torch.cuda.is_available() else "cpu"
    dtype, before = torch.bfloat16, torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(where):
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**config, attn_implementation="sdpa")
        )
    torch.set_default_dtype(before)
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, torch.nn.Linear) or name == "lm_head":
                continue
            new = bnb.nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=False,
                compute_dtype=dtype,
                quant_type="nf4",
            )
            new.weight = bnb.nn.Params4bit(
                layer.weight.data, requires_grad=False, quant_type="nf4"
            ).to(where)
            new.support_avx512bf16_for_cpu = False
            setattr(parent, name, new.to(where))
    model.is_loaded_in_4bit = True  # what peft asks
    model.requires_grad_(False)
    return model, config


def packs(tokens: int, share: float, vocabulary: int, n: int) -> list:
    """n packs of samples of at most 2,048 random tokens."""
    import random

    from mimic_qlora.training.packing import Sample

    draw, size = random.Random(0), min(tokens, 2048)
    prompt = max(1, round(size * (1 - share)))
    return [
        [
            Sample([draw.randrange(vocabulary) for _ in range(size)], prompt)
            for _ in range(tokens // size)
        ]
        for _ in range(n)
    ]


def ours(args, system: str, file: Path) -> None:
    import torch
    from accelerate.utils import send_to_device

    from mimic_qlora.training import (
        gradient_check,
        low_memory,
        packed_attention,
        packing,
        preparation,
        trainer,
    )
    from mimic_qlora.training.settings import TrainSettings

    model, config = build(args.tiny)
    packed_attention.use_packed(model)
    low_memory.use_swiglu(model)
    lora = TrainSettings(
        epochs=1,
        lr=2e-4,
        batch_tokens=4096,
        accumulate=1,
        checkpointing="none",
        optimizer="adamw_torch_fused",
        validations=1,
    )
    model = preparation.add_lora(model, lora, "random Llama").train()
    where = next(model.parameters()).device

    def loss(pack):
        batch = send_to_device(packing.collate(pack), where)
        with torch.autocast(where.type, torch.bfloat16):
            return trainer.token_losses(model, batch)

    two = packs(4096, 0.25, config["vocab_size"], 1)[0]
    with torch.no_grad():
        together, alone = loss(two), torch.cat([loss([sample]) for sample in two])
    torch.testing.assert_close(together, alone, rtol=2e-2, atol=2e-2)
    gradient_check.two_steps(model, lambda: loss(two[:1]).mean())
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def train(run) -> float:
        gradient_check.set_checkpointing(model, run["every"])
        optimizer = torch.optim.AdamW(weights, lr=2e-4, fused=True)
        optimizer.zero_grad()  # a setting that did not fit may have left some
        for n, pack in enumerate(
            packs(run["tokens"], run["share"], config["vocab_size"], args.steps + 2)
        ):
            if n == 2:  # the first two warm up
                began = now()
            value = loss(pack).mean()
            value.backward()
            norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            run["loss"].append(value.item())
            run["norm"].append(norm.item())
        return now() - began

    for setting in OURS:
        measured(args, file, setting, config, train)


def now() -> float:
    """The time at which all work that was given to the GPU is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.time()


def theirs(args, system: str, file: Path) -> None:
    """SFTTrainer on the same tokens, all supervised, since that is what it is fastest at."""
    if system == "unsloth":
        import unsloth  # noqa: F401  it patches TRL, and asks to come first
    with tempfile.TemporaryDirectory() as folder:
        if system == "unsloth":
            save_unquantised(args.tiny, folder)
        for setting in PEERS:
            measured(
                args,
                file,
                setting,
                TINY if args.tiny else LLAMA_3_8B,
                partial(sft, args, system, folder),
            )


def save_unquantised(tiny: bool, folder: str) -> None:
    """Unsloth makes its own kind of model, and from a folder only (16 GB for 8B)."""
    import torch
    import transformers

    config = transformers.LlamaConfig(**(TINY if tiny else LLAMA_3_8B))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(before)
    blank_tokenizer(config.vocab_size).save_pretrained(folder)


def sft(args, system: str, folder: str, run: dict) -> float:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    every, tokens, times = bool(run["every"]), run["tokens"], {}
    lora = dict(
        r=16,
        lora_alpha=32,
        target_modules=[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ],
    )
    if system == "unsloth":
        from unsloth import FastLanguageModel

        where = {
            "device_map": "auto" if torch.cuda.is_available() else "cpu",
            "local_files_only": True,
        }
        model, tokenizer = FastLanguageModel.from_pretrained(
            folder, max_seq_length=2048, load_in_4bit=True, dtype=torch.bfloat16, **where
        )
        model = FastLanguageModel.get_peft_model(model, use_gradient_checkpointing=every, **lora)
        size, config = model.config.vocab_size, None
    else:
        model, shape = build(args.tiny)
        size, config = shape["vocab_size"], LoraConfig(task_type="CAUSAL_LM", **lora)
        tokenizer = blank_tokenizer(size)
    texts = [
        sample.ids for pack in packs(tokens, run["share"], size, args.steps + 2) for sample in pack
    ]

    class Timed(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:  # the first two warm up
                times["began"] = now()

        def on_step_end(self, args, state, control, **kwargs):
            times["ended"] = now()

        def on_log(self, args, state, control, logs=None, **kwargs):
            for name, key in (("loss", "loss"), ("grad_norm", "norm")):
                run[key] += [float(logs[name])] if name in logs else []

    with tempfile.TemporaryDirectory() as output:
        settings = SFTConfig(
            output_dir=output,
            max_steps=args.steps + 2,
            per_device_train_batch_size=max(1, tokens // 2048),
            learning_rate=2e-4,
            lr_scheduler_type="constant",
            max_length=2048,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            use_liger_kernel=system == "trl-liger",
            gradient_checkpointing=every,
            optim="adamw_torch_fused",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        SFTTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_dict({"input_ids": texts}),
            processing_class=tokenizer,
            peft_config=config,
            callbacks=[Timed()],
        ).train()
    return times["ended"] - times["began"]


def blank_tokenizer(size: int):
    """SFTTrainer asks for a tokenizer, for padding alone here: the tokens are numbers already."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(size)}
    base = Tokenizer(WordLevel(words, unk_token="w0"))
    return PreTrainedTokenizerFast(
        tokenizer_object=base, pad_token="w1", eos_token="w2", unk_token="w0"
    )


if __name__ == "__main__":
    main()
