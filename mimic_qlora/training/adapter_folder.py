"""The folder of a trained adapter: what PEFT and vLLM load, and what its readers must know."""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimic_qlora.clinical import content
from mimic_qlora.display.text import counted
from mimic_qlora.llm import tokenizer_files
from mimic_qlora.step import durable, manifests
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.plain_text import in_markdown
from mimic_qlora.subjects.manifest import Source, data_line
from mimic_qlora.training import log_files, validation_loss
from mimic_qlora.training.data import BaseModel
from mimic_qlora.training.log_files import Setup
from mimic_qlora.training.memorisation import audited, selection
from mimic_qlora.training.packing import Split
from mimic_qlora.training.validation_loss import BitsPerByte, Interval, NewLines

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mimic_qlora.training.loop import SavedState


@dataclass(frozen=True)
class Results:
    """The results of a run, as the manifest holds them; losses in nats per supervised token."""

    steps: int
    planned_steps: int
    train_prompts: int
    validation_prompts: int
    validation_patients: int
    selection_patients: int  # of these, by whose loss the checkpoint is chosen
    validation_loss_base: float
    validation_loss_adapter: float
    bits_per_byte: BitsPerByte
    new_lines: NewLines | None  # the same over lines that stand in no training answer
    best_step: int  # of the adapter that is kept


def results(state: "SavedState", samples: Split, work: Path) -> Results:
    """Compare the base with the best adapter on the validation patients."""
    losses = {row["step"]: row["eval_loss"] for row in state.log_history if "eval_loss" in row}
    best = state.best_global_step
    base = validation_loss.read(work, 0)
    adapter = validation_loss.read(work, best)
    return Results(
        steps=state.global_step,
        planned_steps=state.max_steps,
        train_prompts=len(samples["train"]),
        validation_prompts=len(samples["validation"]),
        validation_patients=len(base),
        selection_patients=len(selection.choosing(base)),
        validation_loss_base=losses[0],
        validation_loss_adapter=losses[best],
        bits_per_byte=validation_loss.bits_per_byte(base, adapter),
        new_lines=validation_loss.of_new_lines(base, adapter),
        best_step=best,
    )


def write(
    work: Path,
    tokenizer: "PreTrainedTokenizerBase",
    state: "SavedState",
    setup: Setup,
    readme: str,
    title: str,
) -> Path:
    """Write the adapter's folder inside the work folder and return it.

    It holds what PEFT loads, the tokenizer, the card, the log and its curves, under their title.
    """
    whole = work / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(mode=0o700)
    best = work / f"checkpoint-{state.best_global_step}"
    if (fault := durable.fault(best)) is not None:
        raise UserError(
            f"{best}, the best adapter of the run, is damaged or gone ({fault}): run the same "
            "command again, which goes on from the last whole checkpoint before it, or anew"
        )
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(best / file, whole)
    tokenizer_files.save(tokenizer, whole)
    log_files.write_log(state.log_history, setup, whole)
    log_files.plot_curves(state.log_history, whole / "curves.png", title, state.best_global_step)
    if (work / "tensorboard").is_dir():
        shutil.copytree(work / "tensorboard", whole / "tensorboard")
    (whole / "README.md").write_text(readme, encoding="utf-8")
    return whole


def in_words(interval: Interval) -> str:
    """Return an estimate with its interval, where there is one, as text."""
    value, low, high = interval
    return f"{value:.4f}" if math.isnan(low) else f"{value:.4f} ({low:.4f} to {high:.4f})"


def on_new_lines(found: NewLines | None) -> list[str]:
    """Return what bits a byte measure, as one sentence or two."""
    if found is None:
        return ["All lines of these answers stand in training answers too."]
    bits = found.bits_per_byte
    return [
        "Bits a byte say how well the text of the gold answers is predicted, most of which is "
        "sentences that training answers have too. Lines that stand in none of them "
        f"({found.share:.0%} of the bytes): base {in_words(bits.base)}, adapter "
        f"{in_words(bits.adapter)}, difference {in_words(bits.difference)}."
    ]


def card(
    base: BaseModel,
    results: Results,
    manifest: dict[str, Any],
    source: Source,
) -> str:
    """Return the adapter's card, in Markdown. It names no patient."""
    bits = results.bits_per_byte
    settings = {
        k: v for k, v in manifest["settings"].items() if k != "base_model" and v is not None
    }
    lines = [
        "---",
        f"base_model: {json.dumps(base.name)}",
        "library_name: peft",
        "---",
        "# QLoRA adapter for symptom guidance",
        "",
        f"Base model: {in_markdown(base.name)} (weights {base.fingerprint}, chat template "
        f"{base.template_sha256[:16]}), 4-bit NF4 with double quantisation, computing in "
        f"{manifest['training']['compute']}.",
        f"{in_markdown(data_line(source, with_folder=False))}. "
        f"Prompts: {manifest['inputs']['prompts']}.",
        "",
        "| on the validation patients | nats per supervised token "
        "| bits per byte of the answer (95% interval) |",
        "| --- | --- | --- |",
        f"| base | {results.validation_loss_base:.4f} | {in_words(bits.base)} |",
        f"| adapter (step {results.best_step} of {results.steps}) "
        f"| {results.validation_loss_adapter:.4f} | {in_words(bits.adapter)} |",
        f"| difference | | {in_words(bits.difference)} |",
        "",
        f"{results.train_prompts:,} prompts for training, {results.validation_prompts:,} of "
        f"{counted(results.validation_patients, 'patient')} for validation, no patient in both. "
        "The intervals take patients as the unit; the adapter kept is the one best on "
        f"{results.selection_patients:,} of these, which flatters it a little.",
        "",
        *on_new_lines(results.new_lines),
        "",
        "Intended use: research on language models with MIMIC-IV. Not for patients, not a medical "
        "device; its training answers were written from public guidance, of which "
        f"{content.reviewed()}.",
        "",
        *audited.in_card(),
        "",
        TERMS,
    ]
    if source["kind"] == "synthetic":
        lines += [
            "",
            "This one was trained on synthetic patients: for trying things out, never for results.",
        ]
    lines += [
        "",
        "Settings: " + ", ".join(f"{k} {in_markdown(str(v))}" for k, v in settings.items()),
    ]
    lines += [line for one in manifests.study_sentences() for line in ("", in_markdown(one))]
    lines += ["", "Versions: " + ", ".join(f"{k} {v}" for k, v in manifests.versions().items()), ""]
    return "\n".join(lines)


TERMS = (
    "Terms: an adapter trained on MIMIC-IV is derived from it: keep and share it as PhysioNet's "
    "credentialed data use agreement says, and send it to no third party's API. An adapter of a "
    "Llama 3 model falls under the Meta Llama 3 Community License: if shared, its name begins with "
    '"Llama 3" and it says "Built with Meta Llama 3" (Llama 3.1 and later have licences of their '
    'own: "Llama" and "Built with Llama").'
)


def report(results: Results) -> None:
    """Print the result in a few lines."""
    base, adapter = results.validation_loss_base, results.validation_loss_adapter
    at = f"step {results.best_step} of {results.steps}"
    if results.steps < results.planned_steps:
        at += f", ended early of {results.planned_steps} planned"
    print(f"Validation loss: base {base:.4f}, adapter {adapter:.4f} ({at})")
    bits = results.bits_per_byte
    print(
        f"Bits per byte of the answers: base {in_words(bits.base)}, adapter "
        f"{in_words(bits.adapter)}, difference {in_words(bits.difference)}; 95% intervals over "
        f"{counted(results.validation_patients, 'patient')}"
    )
    print(*on_new_lines(results.new_lines), sep="\n")
    if adapter >= base:
        print(
            "The adapter is no better than the base on the validation patients: more prompts, "
            "epochs or another --lr"
        )
