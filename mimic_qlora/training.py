"""Fine-tuning a LoRA adapter on packed conversations: samples, packs, the loss, and the edges of the training loop."""

import bisect
import contextlib
import json
import math
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

import torch

from mimic_qlora import models
from mimic_qlora.storage import UserError

transformers = models.quiet_transformers()


class Sample(NamedTuple):
    """A conversation up to the end of its answer: token ids, of which those from `n_prompt` on are supervised."""

    ids: list[int]
    n_prompt: int


# ---------------------------------------------------------------- samples and packs


def encode(tokenizer, messages: list[dict], where: str) -> Sample:
    """A conversation as a sample whose supervised part is the last turn with the token that ends it.

    What the template puts after that token (SmolLM2: a newline) is left out. `where` names the record in errors.
    Raises UserError when the answer cannot be told apart, is empty, or is never ended.
    """
    ids = models.chat_ids(tokenizer, messages)
    prompt = models.chat_ids(tokenizer, messages[:-1], add_generation_prompt=True)
    if ids[: len(prompt)] != prompt:
        raise UserError(
            f"{where}: this model's chat template rewrites earlier turns once an answer follows, "
            "so that the answer's tokens cannot be told apart: use another instruct model"
        )
    if not messages[-1]["content"].strip():
        raise UserError(f"{where}: the answer is empty, there is nothing to learn from: run step 4 again")
    ends = set(models.end_token_ids(tokenizer))
    last = max((i for i in range(len(prompt), len(ids)) if ids[i] in ends), default=None)
    if last is None:
        raise UserError(
            f"{where}: the chat template ends no answer with an end token, "
            "so that the model would never learn to stop: use another instruct model"
        )
    return Sample(ids[: last + 1], len(prompt))


def pack(samples: list[Sample], room: int) -> list[list[Sample]]:
    """Put samples into sequences of at most `room` tokens, best fit, longest first; what is longer goes alone."""
    packs: list[list[Sample]] = []
    space: list[tuple[int, int]] = []  # (tokens left, index of the pack), sorted
    for sample in sorted(samples, key=lambda sample: -len(sample.ids)):
        place = bisect.bisect_left(space, (len(sample.ids), 0))
        left, index = space.pop(place) if place < len(space) else (max(room, len(sample.ids)), len(packs))
        if index == len(packs):
            packs.append([])
        packs[index].append(sample)
        bisect.insort(space, (left - len(sample.ids), index))
    return packs


def collate(samples: list[Sample]) -> dict:
    """One pack as a batch of a single row without padding.

    `input_ids` and `position_ids` are [1, tokens]; positions start anew with each sample, from which transformers
    keeps attention within a sample as long as it gets no attention mask and no cache. `supervised` [n] are the
    positions whose next token is a target, `targets` [n] those tokens.
    """
    ids, positions, supervised, targets = [], [], [], []
    for sample in samples:
        supervised += range(len(ids) + sample.n_prompt - 1, len(ids) + len(sample.ids) - 1)
        targets += sample.ids[sample.n_prompt :]
        positions += range(len(sample.ids))
        ids += sample.ids
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "supervised": torch.tensor(supervised),
        "targets": torch.tensor(targets),
    }


def summed_loss(model, batch: dict):
    """Cross entropy in nats, summed over the supervised tokens; logits are computed at their positions alone."""
    logits = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        logits_to_keep=batch["supervised"],
        use_cache=False,
    ).logits
    return torch.nn.functional.cross_entropy(logits[0].float(), batch["targets"], reduction="sum")


# ---------------------------------------------------------------- the trainer


class PackedTrainer(transformers.Trainer):
    """transformers' Trainer on packs: an item is a list of samples, and every supervised token weighs the same."""

    def __init__(self, model, args, train_packs, validation_packs, callbacks):
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_packs,
            data_collator=lambda batch: collate(batch[0]),
            callbacks=callbacks,
        )
        self.remove_callback(transformers.PrinterCallback)
        self.validation_packs = validation_packs
        self.seen = {"tokens": 0, "supervised": 0}
        self.clock = time.time()

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As the base class, but counts the targets themselves: its own count drops the first label of each row."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, torch.tensor(sum(batch["targets"].numel() for batch in batches), device=device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.seen["tokens"] += inputs["input_ids"].numel()
        self.seen["supervised"] += inputs["targets"].numel()
        return summed_loss(model, inputs) / num_items_in_batch

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Mean loss over all supervised tokens of the validation patients."""
        started = time.time()
        self.model.eval()
        total = count = 0
        with self.accelerator.autocast():
            for samples in self.validation_packs:
                batch = self._prepare_inputs(collate(samples))
                total += summed_loss(self.model, batch).item()
                count += batch["targets"].numel()
        metrics = {f"{metric_key_prefix}_loss": total / count}
        self.clock += time.time() - started  # training speed is told without it
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs, start_time=None):
        if "loss" in logs:
            seconds = time.time() - self.clock
            logs |= {f"{name}_per_second": count / seconds for name, count in self.seen.items()}
            self.seen, self.clock = dict.fromkeys(self.seen, 0), time.time()
        super().log(logs, start_time)


class Pace(transformers.TrainerCallback):
    """When to validate, to save and to stop: a signal ends training after the running step, with a checkpoint."""

    def __init__(self, validate_at: set[int], save_minutes: float):
        self.validate_at = validate_at
        self.save_seconds = 60 * save_minutes
        self.saved = time.time()
        self.signal = None

    @contextlib.contextmanager
    def listening(self):
        """Take SIGINT, SIGTERM and SIGHUP; the second one stops at once."""

        def handle(number, frame):
            if self.signal:
                raise KeyboardInterrupt
            self.signal = number
            print("Stopping after this step, with a checkpoint (once more: at once)", flush=True)

        signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.signal(number, handle) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate = state.global_step in self.validate_at
        control.should_training_stop |= self.signal is not None
        control.should_save |= (
            control.should_evaluate or self.signal is not None or time.time() - self.saved > self.save_seconds
        )

    def on_save(self, args, state, control, **kwargs):
        self.saved = time.time()


class Report(transformers.TrainerCallback):
    """One line a log step, readable through `tee`; a bar besides on a terminal. Refuses a loss that is no number."""

    def on_train_begin(self, args, state, control, **kwargs):
        from tqdm import tqdm

        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="steps", disable=None)
        self.began, self.first_step = time.time(), state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(1)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

    def on_log(self, args, state, control, logs=None, **kwargs):
        step = f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"
        if "eval_loss" in logs:
            name = "validation loss" if state.global_step else "validation loss of the base model"
            self.bar.write(f"{step}  {name} {logs['eval_loss']:.4f}")
        elif "loss" in logs:
            if not all(math.isfinite(logs[name]) for name in ("loss", "grad_norm")):
                raise UserError(f"the loss is no longer a number at step {state.global_step}: lower --lr and run again")
            left = (state.max_steps - state.global_step) / max(1, state.global_step - self.first_step)
            minutes, seconds = divmod(round(left * (time.time() - self.began)), 60)
            self.bar.write(
                f"{step}  epoch {state.epoch:.2f}  loss {logs['loss']:.4f}  lr {logs['learning_rate']:.1e}  "
                f"grad {logs['grad_norm']:.2f}  {logs['supervised_per_second']:.0f} supervised tok/s  "
                f"{logs['tokens_per_second']:.0f} tok/s  ETA {minutes}:{seconds:02d}"
            )


def default_batch_tokens() -> int:
    """Room of a pack: on a CPU about one prompt, since attention there pays for the whole pack; on a GPU as much as
    keeps it busy."""
    return 8192 if torch.cuda.is_available() else 1024


def train(args, path: Path, name: str, samples: dict, work: Path) -> dict:
    """Train from the last checkpoint, if there is one, to the end; the Trainer's last state as it was saved."""
    from peft import LoraConfig, get_peft_model

    packs = {split: pack(rows, args.batch_tokens) for split, rows in samples.items()}
    steps_per_epoch = math.ceil(len(packs["train"]) / args.accumulate)
    steps = args.max_steps or max(1, round(args.epochs * steps_per_epoch))
    checkpoint, state = last_checkpoint(work)
    if checkpoint and state["global_step"] >= steps:
        return state

    transformers.set_seed(args.seed)
    model = models.load_base(path)
    # by their short names: peft's "all-linear" would write the full path of each of hundreds of layers into the config
    linear = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)} - {"lm_head"}
    lora = LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules=sorted(linear),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora)
    model.peft_config["default"].base_model_name_or_path = name
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    check_disk(work, trainable)
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"Device: {device}; 4-bit NF4 base computing in {models.compute_dtype()}, {trainable:,} float32 LoRA weights")
    sequences = f"{len(packs['train']):,} sequences of at most {args.batch_tokens:,} tokens"
    print(f"{sequences}, {args.accumulate} to a step: {steps:,} steps")
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
        optim="adamw_torch_fused",
        bf16=models.compute_dtype() is torch.bfloat16,
        fp16=models.compute_dtype() is torch.float16,
        use_cpu=not gpu,
        gradient_checkpointing=args.gradient_checkpointing and gpu,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        eval_on_start=checkpoint is None,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        save_strategy="steps",
        save_steps=10**9,  # `Pace` says when
        save_total_limit=2,
        logging_steps=max(1, steps // 40),
        logging_nan_inf_filter=False,  # it would hide a loss that is no number behind the mean of those before
        remove_unused_columns=False,
        dataloader_pin_memory=gpu,
        disable_tqdm=True,
        report_to="none",
        seed=args.seed,
    )
    pace = Pace({round(steps * (k + 1) / args.validations) for k in range(args.validations)}, args.save_minutes)
    trainer = PackedTrainer(model, settings, packs["train"], packs["validation"], [pace, Report()])
    if checkpoint:
        print(f"Going on from step {state['global_step']}")
    try:
        with pace.listening():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError:
        raise UserError("the GPU ran out of memory: lower --batch-tokens or give --gradient-checkpointing") from None
    _, state = last_checkpoint(work)
    if pace.signal and state["global_step"] < steps:
        print(f"Stopped at step {state['global_step']} of {steps}; the same command goes on from there")
        raise SystemExit(128 + pace.signal)
    return state


def check_disk(work: Path, trainable: int) -> None:
    """Raise UserError unless three checkpoints (float32 weights and AdamW's two moments) and the adapter fit."""
    needed = 3 * 12 * trainable + 4 * trainable + 50_000_000
    free = shutil.disk_usage(work).free
    if free < needed:
        raise UserError(f"{work} has {free / 1e6:,.0f} MB free, training needs {needed / 1e6:,.0f} MB: free some of it")


# ---------------------------------------------------------------- checkpoints and results


def last_checkpoint(folder: Path) -> tuple[Path, dict] | tuple[None, None]:
    """The newest whole checkpoint and its trainer state. One that a kill left half-written is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1]))
    for path in found:
        try:  # the state is what the Trainer writes last
            return path, json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path)
    return None, None


def mark_supervised(tokenizer, sample: Sample) -> str:
    """The sample as text, its supervised part between ⟦ and ⟧."""
    return f"{tokenizer.decode(sample.ids[: sample.n_prompt])}⟦{tokenizer.decode(sample.ids[sample.n_prompt :])}⟧"


def write_log(history: list[dict], path: Path) -> None:
    """The log as CSV, a row for each log step and each validation."""
    import csv

    columns = ["step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second"]
    columns.append("supervised_per_second")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row for row in history if "loss" in row or "eval_loss" in row)


def plot_curves(history: list[dict], path: Path) -> None:
    """Training and validation loss over the steps, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        points = [(row["step"], row[key]) for row in history if key in row]
        axes.plot(*zip(*points, strict=True), style, label=label)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per supervised token)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
