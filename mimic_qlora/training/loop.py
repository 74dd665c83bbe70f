"""Training from the last checkpoint to the end: plan, load, describe, run."""

import math
import os
import shutil
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError

from mimic_qlora.processes import held_memory
from mimic_qlora.step import durable, faults, files
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import cost, hardware, preparation
from mimic_qlora.training.callbacks import Pace, Report, stopped_early
from mimic_qlora.training.log_files import LogRow, Setup, with_fastest
from mimic_qlora.training.packing import Pack, Split, pack, totals
from mimic_qlora.training.settings import TrainSettings, damaged
from mimic_qlora.training.trainer import PackedTrainer, checkpoints, transformers

if TYPE_CHECKING:
    from transformers import TrainingArguments

NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
MFU = "flops_per_second / peak_flops; recomputation, and what samples share, not counted again"


@dataclass(frozen=True)
class SavedState:
    """The state of the Trainer in a checkpoint, as far as it is read here."""

    global_step: int
    max_steps: int
    best_global_step: int
    log_history: list[LogRow]


class Checkpoint(NamedTuple):
    """A whole checkpoint of an unfinished or finished run."""

    path: Path
    state: SavedState


class Plan(NamedTuple):
    """The rows of a run and its optimizer steps."""

    train: list[Pack]
    validation: list[Pack]
    steps: int
    validate_at: set[int]  # steps
    rows_per_step: int  # of all processes


class Trained(NamedTuple):
    """The last state of a run that came to its end, and what it computed with."""

    state: SavedState
    setup: Setup


def train(
    settings: TrainSettings, path: Path, name: str, samples: Split, work: Path, save_minutes: float
) -> Trained:
    """Train from the last checkpoint in `work`, if there is one, to the end.

    `path` is the base model's folder, `name` its name in the adapter's config. Raises UserError
    before the first step when memory, disk or gradients do not allow training, and SystemExit after
    a signal.
    """
    plan = make_plan(settings, samples)
    checkpoint, setup = last_checkpoint(work), read_setup(work)
    hardware.wait_for_all()  # until each has read what the first one may now remove
    if checkpoint and setup and ended(checkpoint.state, plan.steps, settings.patience):
        return Trained(checkpoint.state, with_fastest(setup, checkpoint.state.log_history))
    held_memory.watch.start()
    # oneDNN keeps what it compiled for each length of a row: 90 MB more after seven steps
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    # a run that goes on computes as it began, whatever the machine's speeds are today
    compute = setup.compute if setup else settings.compute
    prepared = preparation.load(settings, compute, path, name, plan.train, work)
    setup = describe(prepared, settings, plan)
    if hardware.is_main():
        report(prepared, settings, plan, setup)
        files.write_json(work / "about.json", asdict(setup))
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(work / "tensorboard")
    pace = Pace(plan.validate_at, save_minutes, settings.patience)
    trainer = PackedTrainer(
        prepared.model,
        arguments(settings, plan, prepared.dtype, work, fresh=checkpoint is None),
        plan.train,
        plan.validation,
        [pace, Report(pace.say)],
        lambda seen: cost.flops(
            prepared.shape, settings.rank, seen.computed, seen.supervised, seen.attended
        ),
        setup.peak_flops,
    )
    state = run(trainer, pace, plan, checkpoint, work)
    return Trained(state, with_fastest(setup, state.log_history))


def make_plan(settings: TrainSettings, samples: Split) -> Plan:
    """Pack the samples and count the steps."""
    processes = hardware.n_processes()
    packs = {split: pack(rows, settings.batch_tokens, processes) for split, rows in samples.items()}
    steps_per_epoch = math.ceil(len(packs["train"]) / processes / settings.accumulate)
    steps = settings.max_steps or max(1, round(settings.epochs * steps_per_epoch))
    n = settings.validations
    validate_at = {round(steps * (k + 1) / n) for k in range(n)}
    return Plan(
        packs["train"], packs["validation"], steps, validate_at, settings.accumulate * processes
    )


def read_setup(work: Path) -> Setup | None:
    """Read the setup of an unfinished run; None before its first step.

    Raises UserError when it is damaged.
    """
    path = work / "about.json"
    if not path.exists():
        return None
    try:
        setup = Setup(**files.read_json(path))
        if setup.compute in NAMES.values():
            return setup
    except (OSError, ValueError, TypeError) as error:
        if faults.of_the_machine(error):
            raise
    raise damaged(path)


def describe(prepared: preparation.Prepared, settings: TrainSettings, plan: Plan) -> Setup:
    """Return what the run computes with and on."""
    model, dtype, shape, every = prepared
    rows = totals(plan.train)
    peak = hardware.peak_flops(dtype, [(shape.width, shape.ffn), (shape.ffn, shape.width)])
    return Setup(
        compute=NAMES[dtype],
        device=hardware.name(),
        checkpointing={0: "none", 1: "all layers"}.get(every, f"one of {every} layers"),
        mfu=MFU,
        flops_per_token=cost.flops_per_token(
            shape, settings.rank, rows.attended / rows.tokens, rows.supervised / rows.tokens
        ),
        peak_flops=peak.flops,
        peak_flops_from=peak.source,
        computed_memory_floor_gib=cost.fixed_bytes(shape, settings.rank, dtype.itemsize) / 2**30,
        tensorboard=find_spec("tensorboard") is not None,
    )


def report(
    prepared: preparation.Prepared, settings: TrainSettings, plan: Plan, setup: Setup
) -> None:
    """Print what the run computes with and on, and its steps."""
    trainable = sum(p.numel() for p in prepared.model.parameters() if p.requires_grad)
    shared = 1 - totals(plan.train).tokens / sum(len(s.ids) for row in plan.train for s in row)
    print(
        f"Device: {setup.device}; 4-bit NF4 base computing in {prepared.dtype}, {trainable:,} "
        f"float32 LoRA weights\n"
        f"Checkpointed: {setup.checkpointing}; memory floor "
        f"{setup.computed_memory_floor_gib:.1f} GiB; MFU of {setup.peak_flops_from}\n"
        f"{len(plan.train):,} sequences of at most {settings.batch_tokens:,} tokens "
        f"({shared:.0%} shared), {plan.rows_per_step} to a step: {plan.steps:,} steps"
    )


def arguments(
    settings: TrainSettings, plan: Plan, dtype: torch.dtype, work: Path, fresh: bool
) -> "TrainingArguments":
    """Return the Trainer's arguments; a `fresh` run validates the base model first."""
    for name in ("MIXED_PRECISION", "DYNAMO_BACKEND"):  # of accelerate's own configuration
        if f"ACCELERATE_{name}" in os.environ:  # it would go before float32, and change rounding
            os.environ[f"ACCELERATE_{name}"] = "no"
    return transformers.TrainingArguments(
        output_dir=str(work),
        max_steps=plan.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.lr,
        lr_scheduler_type="cosine",
        warmup_steps=round(0.05 * plan.steps),
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim=settings.optimizer,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        use_cpu=not hardware.gpu(),
        eval_on_start=fresh,
        metric_for_best_model="eval_selection_loss",
        greater_is_better=False,
        save_strategy="steps",
        save_steps=10**9,  # `Pace` decides
        logging_steps=max(1, plan.steps // 40),
        # else it would hide a loss that is not a number behind the mean of those before
        logging_nan_inf_filter=False,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        dataloader_pin_memory=hardware.gpu(),
        disable_tqdm=True,
        report_to=["tensorboard"] if find_spec("tensorboard") else "none",
        seed=settings.seed,
    )


def run(
    trainer: PackedTrainer, pace: Pace, plan: Plan, checkpoint: Checkpoint | None, work: Path
) -> SavedState:
    """Train to the end, or to a checkpoint after a signal, and return the last saved state.

    Raises UserError when memory or disk is full, SystemExit(128 + signal) after a signal.
    """
    if checkpoint and hardware.is_main():
        print(f"Going on from step {checkpoint.state.global_step}")
    try:
        with pace.listening():
            trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
    except torch.OutOfMemoryError:
        raise UserError(
            "the GPU ran out of memory: lower --batch-tokens or give --checkpointing all"
        ) from None
    except (OSError, RuntimeError, SafetensorError) as error:
        raise_if_full(error, work)
        raise
    last = last_checkpoint(work)
    hardware.wait_for_all()
    if last is None:
        raise RuntimeError(f"{work} holds no checkpoint after training")
    state = last.state
    if pace.signal and not ended(state, plan.steps, pace.patience):
        if hardware.is_main():
            pace.say(
                f"Stopped at step {state.global_step} of {plan.steps}; the same command goes on "
                "from there"
            )
        raise SystemExit(128 + pace.signal)
    return state


def ended(state: SavedState, steps: int, patience: int) -> bool:
    """Return whether a run in this state is over: all its steps are done, or it stopped early."""
    return state.global_step >= steps or stopped_early(state.log_history, patience)


def raise_if_full(error: Exception, work: Path) -> None:
    """Raise UserError if the disk is full; safetensors and torch wrap that in their own errors."""
    if faults.is_full(error) or faults.has_no_room(work):
        last = last_checkpoint(work)
        kept = (
            f"the checkpoint of step {last.state.global_step} is whole"
            if last
            else "no checkpoint was written yet"
        )
        short, remedy = faults.shortage(work)
        raise UserError(
            f"the disk of {work} {short}; {kept}: {remedy}, the same command goes on"
        ) from None


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint whose best adapter is whole too.

    One that was damaged, as a power cut or a bad disk leaves it, or that another run wrote, is
    named and removed; so is, without a word, one that a kill left half-written.
    """
    for path in reversed(checkpoints(folder)):
        fault = durable.fault(path)
        if fault is None:
            saved = files.read_json(path / "trainer_state.json")
            state = SavedState(**{name: saved[name] for name in STATE_FIELDS})
            best = folder / f"checkpoint-{state.best_global_step}"
            if best == path or not best.exists():  # gone, where a later one was better
                return Checkpoint(path, state)
            fault = durable.fault(best)
            if fault is None:
                return Checkpoint(path, state)
            fault = f"{best.name}/{fault}, its best adapter"
        if hardware.is_main():
            if (path / durable.SEAL).exists():
                print(
                    f"{path} is damaged or another run's ({fault} is not as it was written) and "
                    "removed: training goes on from the one before, or anew"
                )
            shutil.rmtree(path, ignore_errors=True)
    return None


STATE_FIELDS = tuple(SavedState.__dataclass_fields__)
