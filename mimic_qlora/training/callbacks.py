"""Callbacks of the Trainer: validate, save and stop in time, and print a line a log step."""

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from mimic_qlora.llm.offline import quiet_transformers
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import hardware
from mimic_qlora.training.log_files import LogRow

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

TrainerCallback: Any = quiet_transformers().TrainerCallback

TOGETHER = 2.0  # seconds within which signals are one request
UNHEARD = 13  # SIGPIPE's number, which Windows lacks: nobody reads the output any more


class Pace(TrainerCallback):
    """Validates and saves by steps and minutes; stops by signals and early stopping.

    A signal ends training after the running step, with a checkpoint; so does a validation loss
    that stays up. All processes of a run decide alike, since each waits for the others every step.
    """

    def __init__(self, validate_at: set[int], save_minutes: float, patience: int) -> None:
        """Validate after the steps in `validate_at`; save every `save_minutes` at least."""
        self.validate_at = validate_at
        self.save_seconds = 60 * save_minutes
        self.patience = patience
        self.saved = time.time()
        self.signal = 0  # number of the one that came
        self.asked = 0.0  # when it came

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT, SIGTERM and SIGHUP, unless ignored; a later second one stops at once."""
        numbers = [
            getattr(signal, name)
            for name in ("SIGINT", "SIGTERM", "SIGHUP")
            if hasattr(signal, name)
        ]
        before = {
            number: signal.signal(number, self._handle)
            for number in numbers
            if signal.getsignal(number) != signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            # run_all.py passes on what a lost terminal or a scheduler has sent to all processes
            if time.monotonic() - self.asked < TOGETHER:
                return
            raise KeyboardInterrupt
        self.signal, self.asked = number, time.monotonic()
        for place in (1, 2):  # not print(), which may be what the signal interrupted
            with contextlib.suppress(OSError):
                os.write(
                    place, b"Stopping after this step, with a checkpoint (once more: at once)\n"
                )
                break

    def say(self, line: str) -> None:
        """Print a line; where nobody reads it, print to standard error from now on and stop.

        Ctrl-C and a closed terminal end `tee` too, and a line that cannot be written must not cost
        the checkpoint.
        """
        try:
            print(line, flush=True)
        except OSError:
            self.signal = self.signal or UNHEARD
            with open(os.devnull, "w") as nowhere:
                for place in (2, nowhere.fileno()):
                    os.dup2(place, 1)
                    with contextlib.suppress(OSError):
                        print(line, flush=True)
                        break

    def on_step_end(
        self,
        settings: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Decide what follows this step."""
        late = int(time.time() - self.saved > self.save_seconds)
        self.signal, due = greatest(self.signal, late, device=settings.device)
        control.should_evaluate = state.global_step in self.validate_at
        control.should_training_stop |= bool(self.signal)
        control.should_save |= bool(control.should_evaluate or self.signal or due)

    def on_evaluate(
        self,
        settings: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Stop early once patience is used up."""
        if stopped_early(state.log_history, self.patience):
            control.should_training_stop = True

    def on_save(
        self,
        settings: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Begin to count the minutes anew."""
        self.saved = time.time()


def stopped_early(history: list[LogRow], patience: int) -> bool:
    """Return whether the last `patience` validations (0: never) all failed to beat the best."""
    losses = [
        row.get("eval_selection_loss", row["eval_loss"]) for row in history if "eval_loss" in row
    ]
    best = losses.index(min(losses)) if losses else 0
    return 0 < patience <= len(losses) - 1 - best


def greatest(*numbers: int, device: torch.device) -> list[int]:
    """Return each number's maximum over the processes of the run."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(numbers)
    tensor = torch.tensor(numbers, device=device)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return tensor.tolist()


class Report(TrainerCallback):
    """Prints one line of at most 100 columns a log step, and on a terminal a bar."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Print by `say`."""
        self.write = say

    def on_train_begin(
        self,
        settings: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Open the bar and start the clock."""
        from tqdm import tqdm

        shown = hardware.is_main() and sys.stdout.isatty()
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="steps", disable=not shown
        )
        self.began, self.first_step = time.time(), state.global_step
        self.fp16 = settings.fp16

    def on_step_end(
        self,
        settings: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Move the bar on."""
        with contextlib.suppress(OSError):  # the terminal may be gone
            self.bar.update(1)

    def on_train_end(
        self,
        settings: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Close the bar."""
        with contextlib.suppress(OSError):
            self.bar.close()

    def say(self, line: str) -> None:
        """Print a line above the bar, in the main process."""
        if hardware.is_main():
            with contextlib.suppress(OSError):
                self.bar.clear()
            self.write(line)

    def on_log(
        self,
        settings: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Print the row that was logged and add `seconds_left` to it.

        Raises UserError when the loss is no longer a number.
        """
        row: LogRow = kwargs["logs"]
        step = f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"
        if "eval_loss" in row:
            name = "validation loss" if state.global_step else "validation loss of the base model"
            self.say(f"{step}  {name} {row['eval_loss']:.4f}")
        elif "loss" in row:
            # in float16 the loss scale is found by overflowing: the norm shows it, the step is
            # skipped
            if not math.isfinite(row["loss"]) or not (self.fp16 or math.isfinite(row["grad_norm"])):
                raise UserError(
                    f"the loss is no longer a number at step {state.global_step}: lower --lr and "
                    "run again"
                )
            done, left = state.global_step - self.first_step, state.max_steps - state.global_step
            seconds = round(left / max(1, done) * (time.time() - self.began))
            row["seconds_left"] = state.log_history[-1]["seconds_left"] = seconds
            self.say(f"{step} {in_words(row)}")


def in_words(row: LogRow) -> str:
    """Return a training row of the log as text."""
    answers = f"{row['supervised_per_second']:.0f} of answers"
    rate = f"{row['tokens_per_second']:.0f} tok/s ({answers})"
    left = str(timedelta(seconds=row["seconds_left"])).removeprefix("0:")
    return (
        f"loss {row['loss']:.3f} grad {row['grad_norm']:.2f} lr {row['learning_rate']:.1e} {rate} "
        f"MFU {row['mfu']:.0%} {row['peak_memory_gib']:.1f} GiB ETA {left}"
    )
