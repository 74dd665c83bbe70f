"""What a run says of itself while it trains, and leaves as CSV, JSON and curves."""

import contextlib
import csv
import json
import math
import sys
import time
from datetime import timedelta
from pathlib import Path

from mimic_qlora import device, models
from mimic_qlora.storage import UserError

transformers = models.quiet_transformers()

COLUMNS = [
    "step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second", "supervised_per_second",
    "padding", "shared", "mfu", "peak_memory_gib", "seconds_left",
]  # fmt: skip


class Report(transformers.TrainerCallback):
    """One line a log step, of at most 100 columns; a bar besides on a terminal. Refuses a loss that is no number."""

    def __init__(self, say):
        self.write = say

    def on_train_begin(self, args, state, control, **kwargs):
        from tqdm import tqdm

        shown = device.is_main() and sys.stdout.isatty()
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="steps", disable=not shown)
        self.began, self.first_step = time.time(), state.global_step
        self.fp16 = args.fp16

    def on_step_end(self, args, state, control, **kwargs):
        with contextlib.suppress(OSError):  # the terminal may be gone
            self.bar.update(1)

    def on_train_end(self, args, state, control, **kwargs):
        with contextlib.suppress(OSError):
            self.bar.close()

    def say(self, line: str) -> None:
        if device.is_main():
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
            if not math.isfinite(logs["loss"]) or not (self.fp16 or math.isfinite(logs["grad_norm"])):
                raise UserError(f"the loss is no longer a number at step {state.global_step}: lower --lr and run again")
            left = (state.max_steps - state.global_step) / max(1, state.global_step - self.first_step)
            seconds = logs["seconds_left"] = round(left * (time.time() - self.began))
            state.log_history[-1]["seconds_left"] = seconds
            rate = f"{logs['supervised_per_second']:.0f}/{logs['tokens_per_second']:.0f} answer tok/s"
            self.say(
                f"{step} loss {logs['loss']:.3f} grad {logs['grad_norm']:.2f} lr {logs['learning_rate']:.1e} {rate} "
                f"MFU {logs['mfu']:.0%} {logs['peak_memory_gib']:.1f} GiB ETA "
                + str(timedelta(seconds=seconds)).removeprefix("0:")
            )


def write_log(history: list[dict], about: dict, folder: Path) -> None:
    """`log.csv`, a row for each log step and each validation; `log.json`, the same with what the columns rest on."""
    rows = [row for row in history if "loss" in row or "eval_loss" in row]
    with open(folder / "log.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps({**about, "log": rows}, indent=1)
    (folder / "log.json").write_text(text + "\n", encoding="utf-8")


def plot_curves(history: list[dict], path: Path) -> None:
    """Loss, learning rate and gradient norm, and speed over the steps, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(13, 4))
    for axes, label, curves in zip(
        panels,
        ("loss (nats per supervised token)", "gradient norm before clipping", "supervised tokens a second"),
        ((("loss", "training", "-"), ("eval_loss", "validation", "o-")), (("grad_norm", None, "-"),),
         (("supervised_per_second", None, "-"),)),
        strict=True,
    ):  # fmt: skip
        for key, name, style in curves:
            points = [(row["step"], row[key]) for row in history if math.isfinite(row.get(key, math.nan))]
            axes.plot(*zip(*points, strict=True), style, label=name)
        axes.set(xlabel="optimizer step", ylabel=label)
    panels[0].legend()
    panels[2].set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
