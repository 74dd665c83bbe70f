"""When training validates, saves and stops: by steps, minutes and signals, and early once it no longer helps."""

import contextlib
import math
import os
import signal
import sys
import time
from datetime import timedelta

import torch

from mimic_qlora.llm import offline
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import hardware

transformers = offline.quiet_transformers()


UNHEARD = 13  # SIGPIPE's number, which Windows lacks: nobody reads the output any more


class Pace(transformers.TrainerCallback):
    """A signal ends training after the running step, with a checkpoint; so does a validation loss that stays up.

    All processes of a run decide alike, since each waits for the others in every step.
    """

    def __init__(self, validate_at: set[int], save_minutes: float, patience: int):
        self.validate_at = validate_at
        self.save_seconds = 60 * save_minutes
        self.patience = patience
        self.saved = time.time()
        self.signal = 0

    @contextlib.contextmanager
    def listening(self):
        """Take SIGINT, SIGTERM and SIGHUP; the second one stops at once. What was told to ignore one goes on so."""

        def handle(number, frame):
            if self.signal:
                raise KeyboardInterrupt
            self.signal = number
            for place in (1, 2):  # not print(), which may be what the signal interrupted
                with contextlib.suppress(OSError):
                    os.write(
                        place, b"Stopping after this step, with a checkpoint (once more: at once)\n"
                    )
                    break

        numbers = [
            getattr(signal, name)
            for name in ("SIGINT", "SIGTERM", "SIGHUP")
            if hasattr(signal, name)
        ]
        before = {
            n: signal.signal(n, handle) for n in numbers if signal.getsignal(n) != signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def say(self, line: str) -> None:
        """Print a line. Where nobody reads it, this and the next ones go to standard error, and training stops.

        Ctrl-C and a closed terminal end `tee` as well: a line that cannot be written must not cost the checkpoint.
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

    def on_step_end(self, args, state, control, **kwargs):
        due = time.time() - self.saved > self.save_seconds
        self.signal, due = greatest(self.signal, int(due), device=args.device)
        control.should_evaluate = state.global_step in self.validate_at
        control.should_training_stop |= bool(self.signal)
        control.should_save |= bool(control.should_evaluate or self.signal or due)

    def on_evaluate(self, args, state, control, **kwargs):
        if stopped_early(state, self.patience):
            control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        self.saved = time.time()


def stopped_early(state, patience: int) -> bool:
    """Whether the last `patience` validations (0: never) all failed to be better than the best before them."""
    losses = [row["eval_loss"] for row in state.log_history if "eval_loss" in row]
    best = losses.index(min(losses)) if losses else 0
    return 0 < patience <= len(losses) - 1 - best


def greatest(*numbers: int, device) -> list[int]:
    """Each number's maximum over the processes of the run."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(numbers)
    tensor = torch.tensor(numbers, device=device)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return tensor.tolist()


class Report(transformers.TrainerCallback):
    """One line a log step, of at most 100 columns; a bar besides on a terminal. Refuses a loss that is no number."""

    def __init__(self, say):
        self.write = say

    def on_train_begin(self, args, state, control, **kwargs):
        from tqdm import tqdm

        shown = hardware.is_main() and sys.stdout.isatty()
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="steps", disable=not shown
        )
        self.began, self.first_step = time.time(), state.global_step
        self.fp16 = args.fp16

    def on_step_end(self, args, state, control, **kwargs):
        with contextlib.suppress(OSError):  # the terminal may be gone
            self.bar.update(1)

    def on_train_end(self, args, state, control, **kwargs):
        with contextlib.suppress(OSError):
            self.bar.close()

    def say(self, line: str) -> None:
        if hardware.is_main():
            with contextlib.suppress(OSError):
                self.bar.clear()
            self.write(line)

    def on_log(self, args, state, control, logs=None, **kwargs):
        step = f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"
        if "eval_loss" in logs:
            name = "validation loss" if state.global_step else "validation loss of the base model"
            self.say(f"{step}  {name} {logs['eval_loss']:.4f}")
        elif "loss" in logs:
            # in float16 the loss scale is found by overflowing, which shows in the norm and skips the step
            if not math.isfinite(logs["loss"]) or not (
                self.fp16 or math.isfinite(logs["grad_norm"])
            ):
                raise UserError(
                    f"the loss is no longer a number at step {state.global_step}: lower --lr and run again"
                )
            left = (state.max_steps - state.global_step) / max(
                1, state.global_step - self.first_step
            )
            seconds = logs["seconds_left"] = round(left * (time.time() - self.began))
            state.log_history[-1]["seconds_left"] = seconds
            rate = (
                f"{logs['supervised_per_second']:.0f}/{logs['tokens_per_second']:.0f} answer tok/s"
            )
            self.say(
                f"{step} loss {logs['loss']:.3f} grad {logs['grad_norm']:.2f} lr {logs['learning_rate']:.1e} {rate} "
                f"MFU {logs['mfu']:.0%} {logs['peak_memory_gib']:.1f} GiB ETA "
                + str(timedelta(seconds=seconds)).removeprefix("0:")
            )
