"""The settings of a training run, and the job that they belong to."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mimic_qlora.step.errors import UserError

COMPUTE = ("auto", "bf16", "fp16", "fp32")
# Beyond these no adapter learns: a LoRA run at 0.1 diverges, and one at 1e-8 stays where it began.
LEARNING_RATES = (1e-8, 0.1)
HIGHEST_RANK = 4096  # the width of Llama 3 8B: a matrix has no higher rank
DRAFT = "draft.json"  # in the folder of an unfinished run: its manifest, as far as it is known
OPTIMIZERS = ("adamw_torch_fused", "paged_adamw_32bit", "paged_adamw_8bit")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings that decide an adapter; its manifest holds them, and they shape its id."""

    epochs: float
    max_steps: int | None = None  # optimizer steps, in place of epochs
    lr: float  # the peak: 5% warm-up, then cosine
    rank: int = 16  # of the LoRA matrices
    alpha: float = 32  # their scale is alpha / rank
    rslora: bool = False  # scale alpha / sqrt(rank)
    dropout: float = 0.0  # before the LoRA matrices, a share
    max_length: int = 2048  # tokens of a prompt with its answer
    batch_tokens: int  # room of one packed row, in tokens
    accumulate: int  # rows per optimizer step, of each process
    checkpointing: str  # "none", "all", "auto", or N for every N-th layer
    compute: str = "auto"  # one of COMPUTE
    optimizer: str  # one of OPTIMIZERS
    validations: int  # besides the one at the start
    patience: int = 2  # validations without a lower loss before the run ends; 0: never
    seed: int = 42
    limit: int | None = None  # prompts of each split, from the first
    canaries: int = 0  # made-up patients of an audit run, of whom half are put into training

    def identity(self) -> dict[str, Any]:
        """Return the settings as a manifest holds them, in this order.

        No canaries are left out, so that adapters of earlier versions stay what they are.
        """
        return {k: v for k, v in asdict(self).items() if k != "canaries" or v}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of step 5: the settings, what they are applied to, and where the adapter goes."""

    settings: TrainSettings
    storage: str | None  # the argument --storage
    model: str | None  # a folder or hub name; None is the embedded model
    run: str  # name of the run and of its folder in adapters/
    recipe: str  # name or path, for the reader
    save_minutes: float = 10.0  # between checkpoints, at most
    force: bool = False
    replace_adapter: bool = False  # a finished one of other settings may give way
    preview: bool = False  # print a real sample

    def of_seeds(self, seeds: Sequence[int]) -> "list[Job]":
        """Return the job with each seed, under a run's name of its own."""
        return [
            replace(self, settings=replace(self.settings, seed=seed), run=f"{self.run}-seed{seed}")
            for seed in seeds
        ]


def is_checkpointing(text: str) -> bool:
    """Return whether a text is none, all, auto, or a number of layers."""
    return text in ("none", "all", "auto") or text.isdecimal() and int(text) > 0


def damaged(path: Path) -> UserError:
    """Return the error for a file without which no run goes on from the checkpoints beside it."""
    return UserError(
        f"{path} is gone or damaged: put it back as it was, choose another --run, or give --force, "
        "which removes the checkpoints beside it and begins the run anew"
    )
