"""transformers' Trainer on packed conversations, and its loss."""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from tqdm import tqdm

from mimic_qlora.display.text import counted
from mimic_qlora.llm.offline import quiet_transformers
from mimic_qlora.step import durable, terminal
from mimic_qlora.training import hardware, validation_loss
from mimic_qlora.training.low_memory import CrossEntropy
from mimic_qlora.training.memorisation import selection
from mimic_qlora.training.packing import Batch, Pack, Sample, collate
from mimic_qlora.training.settings import DRAFT

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainerCallback, TrainerControl, TrainingArguments

transformers: Any = quiet_transformers()
Trainer: Any = transformers.Trainer
CHECKPOINTS = 2  # of a run, at most


def token_losses(model: "PeftModel", batch: Batch) -> torch.Tensor:
    """Return the cross entropy in nats of each supervised token, [n] in float32.

    Logits are computed at their positions alone.
    """
    logits = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        logits_to_keep=batch["supervised"],
        layout=batch["layout"],
        use_cache=False,
    ).logits
    # squeeze gives a view, whose gradient is no copy either
    return CrossEntropy.apply(logits.squeeze(0), batch["targets"])


def _nats(sample: Sample, losses: torch.Tensor) -> validation_loss.Nats:
    """Sum the losses of a sample's supervised tokens, [n], and those of its new lines."""
    if not sample.new:
        return validation_loss.Nats(losses.sum().item(), 0.0)
    new = torch.tensor(list(sample.new), dtype=torch.bool)
    return validation_loss.Nats(losses.sum().item(), losses[new].sum().item())


@dataclass
class Seen:
    """Tokens of this process since the last row of the log."""

    tokens: int = 0  # of all samples in full
    computed: int = 0  # of the rows
    supervised: int = 0
    padding: int = 0  # of rows that only fill up
    attended: int = 0  # for each computed token the tokens before it in its sample

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        supervised = batch["targets"].numel()
        self.tokens += batch["n_tokens"]
        self.computed += batch["input_ids"].numel()
        self.supervised += supervised
        self.padding += 0 if supervised else batch["n_tokens"]
        self.attended += batch["attended"]


class PackedTrainer(Trainer):
    """transformers' Trainer on packs, in which every supervised token weighs the same."""

    control: "TrainerControl"  # set by the base class

    def __init__(
        self,
        model: "PeftModel",
        settings: "TrainingArguments",
        train_packs: list[Pack],
        validation_packs: list[Pack],
        callbacks: list["TrainerCallback"],
        flops: Callable[[Seen], float],
        peak_flops: float,
    ) -> None:
        """Train on packs; `flops` of tokens and `peak_flops` a second are for the log's MFU."""
        super().__init__(
            model=model,
            args=settings,
            train_dataset=train_packs,
            data_collator=lambda batch: collate(batch[0]),
            callbacks=callbacks,
        )
        self.remove_callback(transformers.PrinterCallback)
        self.validation_packs = validation_packs
        self.flops, self.peak_flops = flops, peak_flops
        self.seen = Seen()
        self.clock = time.time()

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        """Move a batch to the model; the base class cannot move a NamedTuple."""
        return send_to_device(inputs, self.args.device)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """Return the batches of a step and their targets, counted over all processes.

        The base class's own count drops the first label of a row.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(sum(batch["targets"].numel() for batch in batches), device=device)
        return batches, self.accelerator.gather(count).sum()

    def compute_loss(
        self,
        model: "PeftModel",
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the batch's share of the mean loss over the targets of the step."""
        self.seen.add(inputs)
        # else accelerate would widen the logits to a float32 copy
        if self.args.bf16 and not self.is_fsdp_enabled:
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        with self.accelerator.autocast():
            losses = token_losses(model, inputs)
        # processes average their gradients: times their number, that is the sum over the step
        return losses.sum() * (self.accelerator.num_processes / num_items_in_batch)

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: None = None,
        ignore_keys: None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return the mean loss over all supervised tokens of the validation patients.

        Beside it stands that of the half of them by which a checkpoint is chosen. The sums by
        patient go into a file (`validation_loss.write`).
        """
        started = time.time()
        losses = self._validation_losses()
        if self.is_world_process_zero():
            validation_loss.write(Path(self.args.output_dir), self.state.global_step, losses)
        chose = selection.choosing(losses)
        metrics = {
            f"{metric_key_prefix}_loss": validation_loss.mean(losses.values()),
            f"{metric_key_prefix}_selection_loss": validation_loss.mean(
                loss for patient, loss in losses.items() if patient in chose
            ),
        }
        self.clock += time.time() - started  # training speed is told without it
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _save_checkpoint(self, model: Any, trial: None) -> None:
        """Save as transformers does; then the first process seals what all have written."""
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            work, step = Path(self.args.output_dir), self.state.global_step
            folder = work / f"checkpoint-{step}"
            # with the draft of the run, so that no run takes another's for its own
            draft = [path for path in (work / DRAFT,) if path.exists()]
            durable.seal(folder, [*draft, *validation_loss.written_until(work, step)])
            drop_older(work, self.state.best_global_step)

    def _validation_losses(self) -> validation_loss.Losses:
        """Compute the validation losses of all patients, each process those of its packs."""
        model = self.model_wrapped if self.is_fsdp_enabled else self.model
        model.eval()
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        samples: list[Sample] = []
        nats: list[validation_loss.Nats] = []
        with self.accelerator.autocast():
            for pack in self._counted(self.validation_packs[rank::processes]):
                losses = token_losses(model, self._prepare_inputs(collate(pack))).double().cpu()
                samples += pack
                parts_of = losses.split([s.n_supervised for s in pack])
                nats += [_nats(s, part) for s, part in zip(pack, parts_of, strict=True)]
        own = validation_loss.by_patient(samples, nats)
        if processes == 1:
            return own
        parts: list[validation_loss.Losses] = [{} for _ in range(processes)]
        torch.distributed.all_gather_object(parts, own)
        return validation_loss.merged(parts)

    def _counted(self, packs: list[Pack]) -> Iterator[Pack]:
        """Yield the packs of a validation, counted in a bar where standard error is a terminal."""
        who = "adapter" if self.state.global_step else "base model"
        patients = len({sample.patient for pack in packs for sample in pack})
        what = f"validating the {who} on {counted(patients, 'patient')}"
        off = not (hardware.is_main() and terminal.is_terminal(sys.stderr))
        bar = tqdm(
            total=len(packs), desc=what, unit="sequence", leave=False, disable=off, delay=0.1
        )  # with a delay it writes nothing yet
        for pack in packs:
            yield pack
            with contextlib.suppress(OSError):  # the terminal may be gone
                bar.update(1)
        with contextlib.suppress(OSError):
            bar.close()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a row; one of training gets speed, shares, MFU and memory (`log_files.LogRow`)."""
        if "loss" in logs:
            seconds, processes = time.time() - self.clock, self.accelerator.num_processes
            tokens, computed = self.seen.tokens * processes, self.seen.computed * processes
            logs["tokens_per_second"] = tokens / seconds
            logs["supervised_per_second"] = self.seen.supervised * processes / seconds
            logs["padding"] = self.seen.padding * processes / tokens
            logs["shared"] = 1 - computed / tokens
            rate = self.flops(self.seen) * processes / seconds
            # a peak that was measured beside other work is too low: no step is faster than it
            self.peak_flops = max(self.peak_flops, rate)
            logs["flops_per_second"], logs["mfu"] = rate, rate / self.peak_flops
            logs["peak_memory_gib"] = hardware.peak_memory() / 2**30
            self.seen, self.clock = Seen(), time.time()
        super().log(logs, start_time)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run by rising step; a copy under another name is none."""
    numbers = {path: path.name.split("-", 1)[1] for path in folder.glob("checkpoint-*")}
    found = [path for path, number in numbers.items() if number.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(numbers[path]))


def drop_older(work: Path, best: int | None) -> None:
    """Remove all checkpoints but the newest and the one of step `best`, or the one before.

    transformers would, before the newest is sealed, and remove copies under other names too.
    """
    there = checkpoints(work)
    older = [path for path in there[:-1] if path.name != f"checkpoint-{best}"]
    for path in older[: max(0, len(there) - CHECKPOINTS)]:
        shutil.rmtree(path, ignore_errors=True)
