"""Training a LoRA adapter on packed conversations: the loss, transformers' Trainer on packs, and one run of it."""

import contextlib
import json
import math
import os
import shutil
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate.utils import send_to_device

from mimic_qlora.llm import chat, finding, loading
from mimic_qlora.step import errors, files, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import cost, gradient_check, packed_attention
from mimic_qlora.training import hardware as device
from mimic_qlora.training.callbacks import Pace, Report, stopped_early
from mimic_qlora.training.low_memory import use_swiglu
from mimic_qlora.training.packing import collate, pack, row_length, totals
from mimic_qlora.training.trainer import PackedTrainer, token_losses, transformers

# ---------------------------------------------------------------- one run


def add_lora(model, args, name: str):
    """The base model with fresh float32 LoRA matrices beside all its linear layers but the head."""
    from peft import LoraConfig, get_peft_model

    # by their short names: peft's "all-linear" would write the full path of each of hundreds of layers into the config
    linear = {
        n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)
    } - {"lm_head"}
    lora = LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        use_rslora=args.rslora,
        target_modules=sorted(linear),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora)
    model.peft_config["default"].base_model_name_or_path = name
    for module in (
        model.modules()
    ):  # on a CPU peft would widen each input to float32, and autocast narrow it again
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    return model


def train(args, path: Path, name: str, samples: dict, work: Path) -> tuple[dict, dict]:
    """Train from the last checkpoint, if there is one, to the end.

    Returns the Trainer's last state as it was saved, and what the log's columns rest on.
    Raises UserError before the first step when memory, disk or gradients are not as they must be.
    """
    processes = device.n_processes()
    packs = {split: pack(rows, args.batch_tokens, processes) for split, rows in samples.items()}
    steps_per_epoch = math.ceil(len(packs["train"]) / processes / args.accumulate)
    steps = args.max_steps or max(1, round(args.epochs * steps_per_epoch))
    checkpoint, state = last_checkpoint(work)
    about_file = work / "about.json"
    about = json.loads(about_file.read_text(encoding="utf-8")) if about_file.exists() else {}
    if checkpoint and ended(state, steps, args.patience):
        return state, about

    # oneDNN keeps what it compiled for each length of a row: by itself 90 MB more after seven steps, and growing
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    transformers.set_seed(args.seed)
    shape = cost.shape(finding.read_json(path / "config.json"))
    check_room(shape, args, work)
    # a run that goes on computes as it began, whatever the machine's speeds are today
    dtype = device.dtype(about.get("compute", args.compute))
    model = loading.load_base(path, dtype=dtype)
    packed_attention.use_packed(model)
    use_swiglu(model)
    model = add_lora(model, args, name)
    gpu = device.gpu()
    every = prepare(model, args, packs["train"], dtype)
    computed, attended, supervised = totals(packs["train"])
    flops = cost.flops_per_token(shape, args.rank, attended / computed, supervised / computed)
    peak, peak_from = device.peak_flops(dtype)
    floor = cost.fixed_bytes(shape, args.rank, dtype.itemsize)
    about = {
        "compute": {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype],
        "device": device.name(),
        "checkpointing": "none"
        if not every
        else "all layers"
        if every == 1
        else f"one of {every} layers",
        "mfu": "tokens_per_second x (1 - shared) x flops_per_token / peak_flops, recomputation not counted",
        "flops_per_token": flops,
        "peak_flops": peak,
        "peak_flops_from": peak_from,
        "computed_memory_floor_gib": floor / 2**30,
        "tensorboard": find_spec("tensorboard") is not None,
    }
    if device.is_main():
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        print(
            f"Device: {device.name()}; 4-bit NF4 base computing in {dtype}, {trainable:,} float32 LoRA weights"
        )
        print(
            f"Checkpointed: {about['checkpointing']}; memory floor {floor / 2**30:.1f} GiB; MFU of {peak_from}"
        )
        shared = 1 - computed / sum(len(sample.ids) for row in packs["train"] for sample in row)
        room = f"{len(packs['train']):,} sequences of at most {args.batch_tokens:,} tokens ({shared:.0%} shared)"
        print(f"{room}, {args.accumulate * processes} to a step: {steps:,} steps")
        files.write_json(about_file, about)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(work / "tensorboard")
    settings = transformers.TrainingArguments(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=args.accumulate,
        learning_rate=args.lr,
        lr_scheduler_type="cosine",
        warmup_steps=round(0.05 * steps),
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim=args.optimizer,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        use_cpu=not gpu,
        eval_on_start=checkpoint is None,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        save_strategy="steps",
        save_steps=10**9,  # `Pace` says when
        save_total_limit=2,
        logging_steps=max(1, steps // 40),
        logging_nan_inf_filter=False,  # it would hide a loss that is no number behind the mean of those before
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        dataloader_pin_memory=gpu,
        disable_tqdm=True,
        report_to=["tensorboard"] if about["tensorboard"] else "none",
        seed=args.seed,
    )
    validate_at = {round(steps * (k + 1) / args.validations) for k in range(args.validations)}
    pace = Pace(validate_at, args.save_minutes, args.patience)
    trainer = PackedTrainer(
        model, settings, packs["train"], packs["validation"], [pace, Report(pace.say)], flops, peak
    )
    if checkpoint and device.is_main():
        print(f"Going on from step {state['global_step']}")
    try:
        with pace.listening():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError:
        raise UserError(
            "the GPU ran out of memory: lower --batch-tokens or give --checkpointing all"
        ) from None
    except (OSError, RuntimeError) as error:
        raise_if_full(error, work)
        raise
    _, state = last_checkpoint(work)
    if pace.signal and not ended(state, steps, args.patience):
        if device.is_main():
            pace.say(
                f"Stopped at step {state['global_step']} of {steps}; the same command goes on from there"
            )
        raise SystemExit(128 + pace.signal)
    return state, about


def prepare(model, args, packs: list, dtype) -> int:
    """Choose the checkpointing that fits on the longest pack, prove on it that every matrix learns; n of every n-th."""
    if (
        os.environ.get("ACCELERATE_USE_FSDP") == "true"
    ):  # nothing is on a GPU before the Trainer shards it
        gradient_check.set_checkpointing(model, 1)
        return 1
    where = next(model.parameters()).device
    choose = max if device.gpu() else min  # on a CPU the probe is to take little time
    batch = send_to_device(
        collate(choose((pack for pack in packs if pack[0].n_supervised), key=row_length)), where
    )
    autocast = (
        torch.autocast(where.type, dtype)
        if dtype is not torch.float32
        else contextlib.nullcontext()
    )

    def loss():
        with autocast:
            return token_losses(model, batch).mean()

    def step(every: int) -> None:
        gradient_check.set_checkpointing(model, every)
        gradient_check.two_steps(model, loss, 1024.0 if dtype is torch.float16 else 1.0)

    model.train()
    return gradient_check.choose_checkpointing(args.checkpointing, step)


def ended(state: dict, steps: int, patience: int) -> bool:
    """Whether a run with this state of the Trainer is over: all its steps done, or stopped early."""
    history = transformers.TrainerState(log_history=state["log_history"])
    return state["global_step"] >= steps or stopped_early(history, patience)


def check_room(shape: cost.Shape, args, work: Path) -> None:
    """Raise UserError unless the least that training needs fits into memory, and its files on the disk."""
    weights = args.rank * shape.lora_per_rank
    needed = cost.fixed_bytes(shape, args.rank)
    needed += cost.activation_bytes(shape, args.batch_tokens, args.batch_tokens // 4, kept_layers=1)
    free = device.free_memory()
    where = "the GPU" if device.gpu() else "this machine"
    if free < needed and not os.environ.get("ACCELERATE_USE_FSDP"):
        raise UserError(
            f"{where} has {free / 1e9:.1f} GB of memory free, training needs {needed / 1e9:.1f} GB at least "
            "(computed): stop what holds it (nvidia-smi, top), lower --batch-tokens, or take a larger machine"
        )
    # three checkpoints (float32 weights and AdamW's two moments) and the adapter
    needed = 3 * 12 * weights + 4 * weights + 50_000_000
    free = shutil.disk_usage(work).free
    if free < needed:
        raise UserError(
            f"{work} has {free / 1e6:,.0f} MB free, training needs {needed / 1e6:,.0f} MB: free some of it"
        )


def raise_if_full(error: Exception, work: Path) -> None:
    """Say it in a sentence if the disk is full; safetensors and torch wrap that in errors of their own."""
    full = shutil.disk_usage(work).free < 1_000_000
    if full or "No space left" in str(error) or "os error 28" in str(error):
        _, state = last_checkpoint(work)
        kept = (
            f"the checkpoint of step {state['global_step']} is whole"
            if state
            else "no checkpoint was written yet"
        )
        raise UserError(
            f"the disk of {work} is full; {kept}: free some space, the same command goes on"
        ) from None


def last_checkpoint(folder: Path) -> tuple[Path, dict] | tuple[None, None]:
    """The newest whole checkpoint and its trainer state. One that a kill left half-written is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1]))
    for path in found:
        try:  # the state is what the Trainer writes last
            return path, json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            if device.is_main():
                shutil.rmtree(path, ignore_errors=True)
    return None, None


def train_one(args) -> None:
    """Train one adapter into its folder."""
    from mimic_qlora.llm import finding
    from mimic_qlora.training import adapter_folder, data, hardware, run

    store = storage.open_storage(args.storage)
    subjects_manifest = storage.read_manifest(store, "subjects")
    prompts_manifest = storage.read_manifest(store, "prompts")
    records = data.read(store, args.limit)
    data.check_split(store, records)
    path = finding.model_path(args.model, store)
    if hardware.is_main():
        print(storage.data_line(subjects_manifest))
        print(finding.describe(path))
        print(f"Recipe: {args.recipe}")
    hardware.check_driver()
    tokenizer = chat.load_tokenizer(path)
    base = data.check_model(store, path, tokenizer)
    step, place = f"adapters/{args.run}", store / "adapters" / args.run
    unsettling = {
        "storage",
        "force",
        "save_minutes",
        "preview",
        "model",
        "run",
        "recipe",
        "seeds",
        "check",
    }
    settings = {k: v for k, v in vars(args).items() if k not in unsettling} | {"base_model": base}
    manifest = storage.new_manifest(step, settings, {"prompts": prompts_manifest["id"]}) | {
        "base_model": base
    }
    work = place.with_name(f".{place.name}.training")
    if not hardware.is_main():  # one process writes; the others train along
        if not args.force and storage.is_up_to_date(place, manifest):
            return
        hardware.wait_for_all()
        samples = data.encode(tokenizer, records, args.max_length, path)
        run.train(args, path, base["name"], samples, work)
        return
    with storage.locked(place, step):
        storage.recover(place)
        if not args.force and storage.is_up_to_date(place, manifest):
            if (
                draft_of(work).get("id") == manifest["id"]
            ):  # a kill came between the end of the run and its tidying up
                shutil.rmtree(work)
            raise errors.UpToDate(f"{place} is up to date (--force redoes it)")
        samples = data.encode(tokenizer, records, args.max_length, path)
        data.describe(samples, tokenizer)
        if args.preview:
            from mimic_qlora.training.packing import mark_supervised

            print(mark_supervised(tokenizer, samples["train"][0]))
        started = time.time()
        open_work(work, manifest, args.force)
        hardware.wait_for_all()
        state, about = run.train(args, path, base["name"], samples, work)
        manifest["results"] = adapter_folder.results(state, samples, work)
        manifest["training"] = about
        whole = adapter_folder.write(work, tokenizer, state, about, manifest, subjects_manifest)
        files.write_json(whole / "manifest.json", storage.finish_manifest(whole, manifest, started))
        storage.replace_folder(whole, place)
        shutil.rmtree(work)
    adapter_folder.report(manifest["results"], place)


def draft_of(work: Path) -> dict:
    """The manifest of the unfinished run in a folder; empty when there is none."""
    draft = work / "draft.json"
    return json.loads(draft.read_text(encoding="utf-8")) if draft.exists() else {}


def open_work(work: Path, manifest: dict, force: bool) -> None:
    """Open the folder in which this run keeps its checkpoints; it outlives an interruption.

    Raises UserError when it holds the checkpoints of an unfinished run with other settings.
    """
    draft = work / "draft.json"
    before = draft_of(work)
    other = before.get("id") != manifest["id"]
    if (
        force or other and not (before and any(work.glob("checkpoint-*")))
    ):  # without a draft, nobody's
        shutil.rmtree(work, ignore_errors=True)
    elif other:
        old, new = (
            {**m["settings"], "prompts": m["inputs"]["prompts"]} for m in (before, manifest)
        )
        changed = ", ".join(k for k in new if new[k] != old.get(k)) or "software version"
        raise UserError(
            f"{work} holds an unfinished run with other settings ({changed}): "
            "go on with the same, choose another --run, or give --force to drop it"
        )
    work.mkdir(mode=0o700, exist_ok=True)
    files.write_json(draft, manifest)
