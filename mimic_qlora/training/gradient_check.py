"""Two steps on one pack before a run: every adapter matrix must learn, and what is kept for backward must fit."""

import contextlib

import torch

from mimic_qlora.step.errors import UserError
from mimic_qlora.training import hardware


def set_checkpointing(model, every: int) -> None:
    """Recompute every n-th layer in backward instead of keeping its activations; 0 keeps all of them."""
    if not every:
        return model.gradient_checkpointing_disable()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    layers = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
    layers = [module for module in layers if "DecoderLayer" in type(module).__name__]
    for i, layer in enumerate(layers):
        layer.gradient_checkpointing = i % every == 0


def choose_checkpointing(choice: str, step) -> int:
    """How many layers share one checkpoint: what was chosen, or for "auto" the fastest of none, every second and all
    with which `step(every)` leaves a tenth of the memory free. On a CPU "auto" is none.

    Raises UserError when not even the last fits.
    """
    ladder = {"none": [0], "all": [1], "auto": [0, 2, 1] if hardware.gpu() else [0]}.get(
        choice
    ) or [int(choice)]
    for every in ladder:
        try:
            step(every)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        total = torch.cuda.get_device_properties(0).total_memory if hardware.gpu() else 0
        if (
            not hardware.gpu()
            or every == ladder[-1]
            or torch.cuda.max_memory_reserved() < 0.9 * total
        ):
            return every
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    raise UserError(
        "the GPU has too little memory for one sequence: lower --batch-tokens or give --checkpointing all"
    )


def two_steps(model, loss, scale: float = 1.0) -> None:
    """Raise UserError unless two steps give every trainable matrix finite gradients that are not all zero.

    One step would not do: LoRA's B begins at zero, so A has no gradient in the first. Weights and random state are put
    back. `loss()` is the mean loss of one pack; `scale` keeps float16 gradients from vanishing.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    still = set(weights)
    with torch.random.fork_rng(), restored(weights, before):
        for _ in range(2):
            (loss() * scale).backward()
            for name, weight in weights.items():
                if weight.grad is None:
                    continue
                if not torch.isfinite(weight.grad).all():
                    raise UserError(
                        f"the gradient of {name} is not finite before training: try another --compute or --seed"
                    )
                if weight.grad.any():
                    still.discard(name)
                    with torch.no_grad():
                        weight -= 1e-3 * weight.grad / weight.grad.norm()
            model.zero_grad()
    if still:
        raise UserError(
            f"{len(still)} of {len(weights)} adapter matrices get no gradient, {min(still)} among them, so they would "
            "never learn: this model or these versions of peft and bitsandbytes do not go together with this training"
        )


@contextlib.contextmanager
def restored(weights: dict, before: dict):
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])
                weight.grad = None
