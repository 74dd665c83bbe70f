"""The trainer of packed conversations and its loss."""

import time
from pathlib import Path

import torch

from mimic_qlora.llm import offline
from mimic_qlora.training import hardware as device
from mimic_qlora.training import validation_loss
from mimic_qlora.training.low_memory import CrossEntropy
from mimic_qlora.training.packing import collate

transformers = offline.quiet_transformers()


def token_losses(model, batch: dict):
    """Cross entropy in nats of each supervised token; logits are computed at their positions alone."""
    logits = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        logits_to_keep=batch["supervised"],
        layout=batch["layout"],
        use_cache=False,
    ).logits
    return CrossEntropy.apply(
        logits.squeeze(0), batch["targets"]
    )  # a view, whose gradient is no copy either


class PackedTrainer(transformers.Trainer):
    """transformers' Trainer on packs: an item is a list of samples, and every supervised token weighs the same."""

    def __init__(self, model, args, train_packs, validation_packs, callbacks, flops, peak_flops):
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_packs,
            data_collator=lambda batch: collate(batch[0]),
            callbacks=callbacks,
        )
        self.remove_callback(transformers.PrinterCallback)
        self.validation_packs = validation_packs
        self.flops, self.peak_flops = flops, peak_flops
        self.seen = {"tokens": 0, "computed": 0, "supervised": 0, "padding": 0}
        self.clock = time.time()

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As the base class, but counts the targets itself: the base's own count drops the first label of a row."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(sum(batch["targets"].numel() for batch in batches), device=device)
        return batches, self.accelerator.gather(count).sum()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.seen["tokens"] += inputs["n_tokens"]
        self.seen["computed"] += inputs["input_ids"].numel()
        self.seen["supervised"] += inputs["targets"].numel()
        self.seen["padding"] += 0 if inputs["targets"].numel() else inputs["n_tokens"]
        if (
            self.args.bf16 and not self.is_fsdp_enabled
        ):  # accelerate would widen the logits to a float32 copy
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        with self.accelerator.autocast():
            losses = token_losses(model, inputs)
        # processes average their gradients: times their number, that is the sum over all tokens of the step
        return losses.sum() * (self.accelerator.num_processes / num_items_in_batch)

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Mean loss over all supervised tokens of the validation patients; their sums by patient go into a file."""
        started = time.time()
        model = self.model_wrapped if self.is_fsdp_enabled else self.model
        model.eval()
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        samples, sums = [], []
        with self.accelerator.autocast():
            for pack in self.validation_packs[rank::processes]:
                losses = token_losses(model, self._prepare_inputs(collate(pack))).double().cpu()
                samples += pack
                sums += [part.sum().item() for part in losses.split([s.n_supervised for s in pack])]
        found = validation_loss.by_patient(samples, sums)
        if processes > 1:
            parts = [None] * processes
            torch.distributed.all_gather_object(parts, found)
            found = {}
            for patient, row in (item for part in parts for item in part.items()):
                found[patient] = [
                    a + b for a, b in zip(found.get(patient, (0, 0, 0)), row, strict=True)
                ]
        if self.is_world_process_zero():
            validation_loss.write(Path(self.args.output_dir), self.state.global_step, found)
        nats, tokens, _ = map(sum, zip(*found.values(), strict=True))
        metrics = {f"{metric_key_prefix}_loss": nats / tokens}
        self.clock += time.time() - started  # training speed is told without it
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs, start_time=None):
        if "loss" in logs:
            seconds = time.time() - self.clock
            all_seen = {
                name: count * self.accelerator.num_processes for name, count in self.seen.items()
            }
            logs |= {
                f"{name}_per_second": all_seen[name] / seconds for name in ("tokens", "supervised")
            }
            logs["padding"] = all_seen["padding"] / all_seen["tokens"]
            logs["shared"] = 1 - all_seen["computed"] / all_seen["tokens"]
            logs["mfu"] = all_seen["computed"] / seconds * self.flops / self.peak_flops
            logs["peak_memory_gib"] = device.peak_memory() / 2**30
            self.seen, self.clock = dict.fromkeys(self.seen, 0), time.time()
        super().log(logs, start_time)
