"""Two steps on one pack before a run: every LoRA matrix must learn, and memory must suffice."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from mimic_qlora.step.errors import UserError
from mimic_qlora.training import hardware

if TYPE_CHECKING:
    from peft import PeftModel

Weights = dict[str, torch.Tensor]  # by name


def set_checkpointing(model: "PeftModel", every: int) -> None:
    """Recompute every n-th layer in backward instead of keeping its activations; 0 keeps all."""
    if not every:
        model.gradient_checkpointing_disable()
        return
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    layers = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
    layers = [module for module in layers if "DecoderLayer" in type(module).__name__]
    for i, layer in enumerate(layers):
        layer.gradient_checkpointing = i % every == 0


def choose_checkpointing(choice: str, step: Callable[[int], None]) -> int:
    """Return n where every n-th layer is to be checkpointed, 0 for none.

    For "auto" it is the fastest of none, every second and all with which `step(n)` leaves a tenth
    of the GPU's memory free; on a CPU none. Raises UserError when not even the last fits.
    """
    automatic = [0, 2, 1] if hardware.gpu() else [0]
    ladder = {"none": [0], "all": [1], "auto": automatic}.get(choice) or [int(choice)]
    for every in ladder:
        try:
            step(every)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        if not hardware.gpu() or every == ladder[-1] or _leaves_a_tenth_free():
            return every
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    raise UserError(
        "the GPU has too little memory for one sequence: lower --batch-tokens or give "
        "--checkpointing all"
    )


def _leaves_a_tenth_free() -> bool:
    total = torch.cuda.get_device_properties(0).total_memory
    return torch.cuda.max_memory_reserved() < 0.9 * total


def two_steps(model: "PeftModel", loss: Callable[[], torch.Tensor], scale: float = 1.0) -> None:
    """Raise UserError unless two steps give every trainable matrix finite, nonzero gradients.

    One step would not do: LoRA's B begins at zero, so A has no gradient in the first. Weights and
    random state are put back. `loss()` is the mean loss of one pack in nats; `scale` keeps float16
    gradients from vanishing.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    still = set(weights)
    with torch.random.fork_rng(), restored(weights):
        for _ in range(2):
            (loss() * scale).backward()
            still -= _learning(weights)
            model.zero_grad()
    if still:
        raise UserError(
            f"{len(still)} of {len(weights)} adapter matrices get no gradient, {min(still)} among "
            "them, so they would never learn: this model or these versions of peft and "
            "bitsandbytes do not go together with this training"
        )


def _learning(weights: Weights) -> set[str]:
    """Take a small step along each gradient and return the names of the weights that have one.

    Raises UserError for a gradient that is not finite.
    """
    learning = set()
    for name, weight in weights.items():
        if weight.grad is None:
            continue
        if not torch.isfinite(weight.grad).all():
            raise UserError(
                f"the gradient of {name} is not finite before training: try another --compute or "
                "--seed, or fetch the base model anew, whose weights may be damaged"
            )
        if weight.grad.any():
            learning.add(name)
            with torch.no_grad():
                weight -= 1e-3 * weight.grad / weight.grad.norm()
    return learning


@contextlib.contextmanager
def restored(weights: Weights) -> Iterator[None]:
    """Give the weights their values back at the end, and no gradient."""
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])
                weight.grad = None
