"""The folder of a trained adapter: what peft and vLLM load as it is, and what a reader must know of it."""

import json
import math
import shutil
from pathlib import Path

from mimic_qlora.clinical import content
from mimic_qlora.display import html
from mimic_qlora.step import manifests
from mimic_qlora.training import log_files, validation_loss


def results(state: dict, samples: dict, work: Path) -> dict:
    """Validation loss of the base and of the best adapter, in nats per supervised token and in bits per byte."""
    losses = {row["step"]: row["eval_loss"] for row in state["log_history"] if "eval_loss" in row}
    best = state["best_global_step"]
    base, adapter = (validation_loss.read(work, step) for step in (0, best))
    return {
        "steps": state["global_step"],
        "planned_steps": state["max_steps"],
        "train_prompts": len(samples["train"]),
        "validation_prompts": len(samples["validation"]),
        "validation_patients": len(base),
        "validation_loss_base": losses[0],
        "validation_loss_adapter": losses[best],
        "bits_per_byte": validation_loss.bits_per_byte(base, adapter),
        "best_step": best,
    }


def write(
    work: Path, tokenizer, state: dict, about: dict, manifest: dict, subjects_manifest: dict
) -> Path:
    """A folder with everything that goes by the adapter: what PEFT loads, tokenizer, card, log and curves."""
    whole = work / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(mode=0o700)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(work / f"checkpoint-{state['best_global_step']}" / file, whole)
    tokenizer.save_pretrained(whole)
    log_files.write_log(state["log_history"], about, whole)
    log_files.plot_curves(state["log_history"], whole / "curves.png")
    if (work / "tensorboard").is_dir():
        shutil.copytree(work / "tensorboard", whole / "tensorboard")
    (whole / "README.md").write_text(card(manifest, subjects_manifest), encoding="utf-8")
    return whole


def interval(found: list) -> str:
    value, low, high = found
    return f"{value:.4f}" if math.isnan(low) else f"{value:.4f} ({low:.4f} to {high:.4f})"


def card(manifest: dict, subjects_manifest: dict) -> str:
    """The adapter's card. It names no patient."""
    base, found, bits = (
        manifest["base_model"],
        manifest["results"],
        manifest["results"]["bits_per_byte"],
    )
    settings = {
        k: v for k, v in manifest["settings"].items() if k != "base_model" and v is not None
    }
    lines = [
        "---",
        f"base_model: {json.dumps(base['name'])}",
        "library_name: peft",
        "---",
        "# QLoRA adapter for symptom guidance",
        "",
        f"Base model: {base['name']} (weights {base['fingerprint']}, chat template {base['template_sha256'][:16]}), "
        f"4-bit NF4 with double quantisation, computing in {manifest['training']['compute']}.",
        f"{html.data_line(subjects_manifest)}. Prompts: {manifest['inputs']['prompts']}.",
        "",
        "| on the validation patients | nats per supervised token | bits per byte of the answer (95% interval) |",
        "| --- | --- | --- |",
        f"| base | {found['validation_loss_base']:.4f} | {interval(bits['base'])} |",
        f"| adapter (step {found['best_step']} of {found['steps']}) | {found['validation_loss_adapter']:.4f} "
        f"| {interval(bits['adapter'])} |",
        f"| difference | | {interval(bits['difference'])} |",
        "",
        f"{found['train_prompts']:,} prompts for training, {found['validation_prompts']:,} of "
        f"{found['validation_patients']:,} patients for validation, no patient in both. The intervals take patients as "
        "the unit; the adapter kept is the one best on these patients, which flatters it a little.",
        "",
        "Intended use: research on language models with MIMIC-IV. Not for patients, not a medical device; its training "
        f"answers were written from public guidance, of which {content.reviewed()}.",
        "",
        "Terms: an adapter trained on MIMIC-IV is derived from it: keep and share it as PhysioNet's credentialed data "
        "use agreement says, and send it to no third party's API. An adapter of a Llama 3 model falls under the Meta "
        'Llama 3 Community License: if shared, its name begins with "Llama 3" and it says "Built with Meta Llama 3" '
        '(Llama 3.1 and later have licences of their own: "Llama" and "Built with Llama").',
    ]
    if subjects_manifest["source"]["kind"] == "synthetic":
        lines += [
            "",
            "This one was trained on synthetic patients: it is for trying things out, never for results.",
        ]
    lines += ["", "Settings: " + ", ".join(f"{k} {v}" for k, v in settings.items())]
    lines += ["", "Versions: " + ", ".join(f"{k} {v}" for k, v in manifests.versions().items()), ""]
    return "\n".join(lines)


def report(found: dict, place: Path) -> None:
    """The result in a few lines."""
    base, adapter = found["validation_loss_base"], found["validation_loss_adapter"]
    at = f"step {found['best_step']} of {found['steps']}"
    if found["steps"] < found["planned_steps"]:
        at += f", ended early of {found['planned_steps']} planned"
    print(f"Validation loss: base {base:.4f}, adapter {adapter:.4f} ({at})")
    bits = found["bits_per_byte"]
    print(
        f"Bits per byte of the answers: base {interval(bits['base'])}, adapter {interval(bits['adapter'])}, "
        f"difference {interval(bits['difference'])}; 95% intervals over {found['validation_patients']} patients"
    )
    if adapter >= base:
        print(
            "The adapter is no better than the base on the validation patients: more prompts, epochs or another --lr"
        )
    print(f"Wrote {place}")
