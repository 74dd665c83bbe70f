"""Step 5: train a QLoRA adapter on the symptom prompts.

    python train_qlora.py --model meta-llama/Meta-Llama-3-8B-Instruct | tee train.log

Leaves `adapters/<run>/` in the storage folder: the adapter in PEFT format with tokenizer and chat
template, a card, the log and its curves. The base model is loaded in 4 bits (NF4, double
quantisation) and stays as it is; only low-rank matrices beside its linear layers learn, from the
assistant's tokens alone. The adapter kept is the one with the lowest loss on the validation
patients. An interrupted run goes on from its last checkpoint with the same command.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

from mimic_qlora import storage
from mimic_qlora.storage import UserError


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", help="base model: a folder or a hub name (default: the embedded SmolLM2-135M-Instruct)")
    add("--run", default="default", help="name of the run and of its folder (default: %(default)s)")
    add("--epochs", type=float, default=1.0, help="passes over the training prompts (default: %(default)s)")
    add("--max-steps", type=int, help="stop after so many optimizer steps, whatever --epochs says")
    add(
        "--lr",
        type=float,
        help="peak learning rate, cosine after 5%% warm-up (default: 2e-4; 1e-3 for the small embedded model)",
    )
    add("--rank", type=int, default=16, help="rank of the LoRA matrices, on all linear layers (default: %(default)s)")
    add("--alpha", type=float, default=32, help="LoRA's scale is alpha / rank (default: %(default)s)")
    add(
        "--dropout",
        type=float,
        default=0.0,
        help="before the LoRA matrices; costs 15%% speed on a CPU (default: %(default)s)",
    )
    add("--max-length", type=int, default=2048, help="a longer prompt is refused, never cut (default: %(default)s)")
    add(
        "--batch-tokens", type=int, help="room of one packed sequence in tokens (default: 1024 on a CPU, 8192 on a GPU)"
    )
    add("--accumulate", type=int, default=4, help="packed sequences per optimizer step (default: %(default)s)")
    add("--validations", type=int, default=3, help="validations besides the one at the start (default: %(default)s)")
    add("--gradient-checkpointing", action="store_true", help="on a GPU, trade a third of the speed for memory")
    add("--seed", type=int, default=42, help="seed of the matrices, dropout and order (default: %(default)s)")
    add("--limit", type=int, help="use only the first N prompts of each split, for a trial")
    add("--save-minutes", type=float, default=10, help="minutes between checkpoints at most (default: %(default)s)")
    add("--preview", action="store_true", help="print one sample (patient text!) with its supervised part marked")
    storage.add_arguments(parser)
    args = parser.parse_args()
    storage.check_positive(args, "epochs", "max_steps", "lr", "rank", "alpha", "max_length", "batch_tokens")
    storage.check_positive(args, "accumulate", "validations", "limit")
    storage.check_range(args, "seed", 0, 2**32 - 1)
    storage.check_range(args, "save_minutes", 0, 1_000_000)
    if not 0 <= args.dropout < 1:
        raise UserError(f"--dropout {args.dropout} is not a share from 0 up to 1")
    storage.check_run(args.run)
    return args


def main():
    args = arguments()
    store = storage.open_storage(args.storage)
    subjects_manifest = storage.read_manifest(store, "subjects")
    prompts_manifest = storage.read_manifest(store, "prompts")
    records = read_prompts(store, args.limit)
    check_split(store, records)
    print(storage.data_line(subjects_manifest))

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads are ten times slower on a busy machine
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"  # the Trainer would split a batch over all, which 4 bits don't allow
    from mimic_qlora import context, models

    path = models.model_path(args.model, store)
    print(models.describe(path))
    tokenizer = models.load_tokenizer(path)
    base = {
        "name": models.model_name(path),
        "fingerprint": models.fingerprint(path),
        "template_sha256": models.template_sha256(tokenizer),
    }
    shared = context.load_settings(store)
    if shared["template_sha256"] != base["template_sha256"]:
        raise UserError(
            f"the prompts in {store / 'prompts'} were budgeted for {shared['model']}, whose chat template is not "
            f"that of {base['name']}: run `{storage.command_for('prompts')} --model {args.model or models.EMBEDDED}`"
        )

    from mimic_qlora import training

    args.batch_tokens = args.batch_tokens or training.default_batch_tokens()
    args.lr = args.lr or (1e-3 if models.is_embedded(path) else 2e-4)
    step, place = f"adapters/{args.run}", store / "adapters" / args.run
    unsettling = {"storage", "force", "save_minutes", "preview", "model", "run"}
    settings = {k: v for k, v in vars(args).items() if k not in unsettling} | {"base_model": base}
    manifest = storage.new_manifest(step, settings, {"prompts": prompts_manifest["id"]}) | {"base_model": base}
    with storage.locked(place, step):
        storage.recover(place)
        if not args.force and storage.is_up_to_date(place, manifest):
            raise storage.UpToDate(f"{place} is up to date (--force redoes it)")
        samples = encode_all(tokenizer, records, args.max_length, path)
        if args.preview:
            print(training.mark_supervised(tokenizer, samples["train"][0]))
        started = time.time()
        work = working_folder(place, manifest, args.force)
        state = training.train(args, path, base["name"], samples, work)
        if state["global_step"] < state["max_steps"]:
            raise UserError(f"training stopped at step {state['global_step']} of {state['max_steps']} without a reason")
        manifest["results"] = results(state, samples)
        whole = write_adapter(work, tokenizer, state, manifest, subjects_manifest)
        storage.write_json(whole / "manifest.json", storage.finish_manifest(whole, manifest, started))
        storage.replace_folder(whole, place)
        shutil.rmtree(work)
    report(manifest["results"], place)


def read_prompts(store: Path, limit: int | None) -> dict:
    """The prompts of step 4 for training and validation: split -> records."""
    records = {}
    for split in ("train", "validation"):
        path = store / "prompts" / f"{split}.jsonl"
        try:
            with open(path, encoding="utf-8") as file:
                records[split] = [json.loads(line) for line in file][:limit]
        except (OSError, ValueError):
            raise UserError(f"{path} cannot be read: run `{storage.command_for('prompts')} --force`") from None
        if not records[split]:
            raise UserError(
                f"{path} holds no prompt: convert more patients in step 1 (--sample), then run steps 1 to 4 again"
            )
    return records


def check_split(store: Path, records: dict) -> None:
    """Raise UserError unless every patient stands in the file of the split that step 1 gave it."""
    from mimic_qlora import subjects

    split = subjects.split_of(store)
    for name, rows in records.items():
        for number, row in enumerate(rows, 1):
            if split.get(row["subject_id"]) != name:
                raise UserError(
                    f"{store / 'prompts' / name}.jsonl line {number} is of a patient whom step 1 put into "
                    f"{split.get(row['subject_id'], 'no split')}: run `{storage.command_for('prompts')} --force`"
                )


def encode_all(tokenizer, records: dict, max_length: int, path: Path) -> dict:
    """The prompts as samples: split -> samples. Raises UserError when one is longer than `max_length` tokens."""
    from mimic_qlora import training

    limit = json.loads((path / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings", max_length)
    if max_length > limit:
        raise UserError(f"--max-length {max_length} is more than the {limit} tokens that the model can read")
    samples = {
        split: [
            training.encode(tokenizer, r["messages"], f"prompts/{split}.jsonl line {n}") for n, r in enumerate(rows, 1)
        ]
        for split, rows in records.items()
    }
    lengths = [len(sample.ids) for rows in samples.values() for sample in rows]
    if (long := sum(length > max_length for length in lengths)) > 0:
        raise UserError(
            f"{long} of {len(lengths)} prompts are longer than --max-length {max_length} tokens (the longest has "
            f"{max(lengths)}) and their answers would be cut: raise --max-length or lower step 4's --token-budget"
        )
    for split, rows in samples.items():
        patients = len({r["subject_id"] for r in records[split]})
        tokens, supervised = sum(len(s.ids) for s in rows), sum(len(s.ids) - s.n_prompt for s in rows)
        print(f"{split}: {len(rows):,} prompts of {patients:,} patients, {tokens:,} tokens, {supervised:,} supervised")
    return samples


def working_folder(place: Path, manifest: dict, force: bool) -> Path:
    """The folder in which this run keeps its checkpoints; it outlives an interruption.

    Raises UserError when it holds an unfinished run with other settings.
    """
    work = place.with_name(f".{place.name}.training")
    draft = work / "draft.json"
    if force:
        shutil.rmtree(work, ignore_errors=True)
    if draft.exists():
        before = json.loads(draft.read_text(encoding="utf-8"))
        if before["id"] != manifest["id"]:
            old, new = ({**m["settings"], "prompts": m["inputs"]["prompts"]} for m in (before, manifest))
            changed = ", ".join(k for k in new if new[k] != old.get(k)) or "software version"
            raise UserError(
                f"{work} holds an unfinished run with other settings ({changed}): "
                "go on with the same, choose another --run, or give --force to drop it"
            )
    work.mkdir(mode=0o700, exist_ok=True)
    storage.write_json(draft, manifest)
    return work


def results(state: dict, samples: dict) -> dict:
    """Validation loss in nats per supervised token, of the base and of the best adapter, and where they stand."""
    losses = {row["step"]: row["eval_loss"] for row in state["log_history"] if "eval_loss" in row}
    return {
        "steps": state["global_step"],
        "train_prompts": len(samples["train"]),
        "validation_prompts": len(samples["validation"]),
        "validation_loss_base": losses[0],
        "validation_loss_adapter": losses[state["best_global_step"]],
        "best_step": state["best_global_step"],
    }


def write_adapter(work: Path, tokenizer, state: dict, manifest: dict, subjects_manifest: dict) -> Path:
    """A folder with everything that goes by the adapter: what PEFT loads, tokenizer, card, log and curves."""
    from mimic_qlora import training

    whole = work / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(mode=0o700)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(work / f"checkpoint-{state['best_global_step']}" / file, whole)
    tokenizer.save_pretrained(whole)
    training.write_log(state["log_history"], whole / "log.csv")
    training.plot_curves(state["log_history"], whole / "curves.png")
    (whole / "README.md").write_text(card(manifest, subjects_manifest), encoding="utf-8")
    return whole


def card(manifest: dict, subjects_manifest: dict) -> str:
    """The adapter's card. It names no patient."""
    from mimic_qlora import page

    base, found = manifest["base_model"], manifest["results"]
    settings = {k: v for k, v in manifest["settings"].items() if k != "base_model" and v is not None}
    synthetic = subjects_manifest["source"]["kind"] == "synthetic"
    lines = [
        "---",
        f"base_model: {base['name']}",
        "library_name: peft",
        "---",
        "# QLoRA adapter for symptom guidance",
        "",
        f"Base model: {base['name']} (weights {base['fingerprint']}, chat template {base['template_sha256'][:16]}), "
        "4-bit NF4 with double quantisation.",
        f"{page.data_line(subjects_manifest)}. Prompts: {manifest['inputs']['prompts']}.",
        "",
        "| validation loss (nats per supervised token) | |",
        "| --- | --- |",
        f"| base | {found['validation_loss_base']:.4f} |",
        f"| adapter (step {found['best_step']} of {found['steps']}) | {found['validation_loss_adapter']:.4f} |",
        "",
        f"{found['train_prompts']:,} prompts for training, {found['validation_prompts']:,} for validation, "
        "no patient in both.",
        "",
        "Intended use: research on language models with MIMIC-IV. Not for patients, not a medical device; its training "
        "answers were written from public guidance and no clinician has reviewed them.",
        "",
        "Terms: an adapter trained on MIMIC-IV is derived from it: keep and share it as PhysioNet's credentialed data "
        "use agreement says, and send it to no third party's API. An adapter of a Llama 3 model falls under the Meta "
        'Llama 3 Community License: if shared, its name begins with "Llama 3" and it says "Built with Meta Llama 3".',
    ]
    if synthetic:
        lines += ["", "This one was trained on synthetic patients: it is for trying things out, never for results."]
    lines += ["", "Settings: " + ", ".join(f"{k} {v}" for k, v in settings.items())]
    lines += ["", "Versions: " + ", ".join(f"{k} {v}" for k, v in storage.versions().items()), ""]
    return "\n".join(lines)


def report(found: dict, place: Path) -> None:
    """The result in three lines."""
    base, adapter = found["validation_loss_base"], found["validation_loss_adapter"]
    print(f"Validation loss: base {base:.4f}, adapter {adapter:.4f} (step {found['best_step']} of {found['steps']})")
    if adapter >= base:
        print("The adapter is no better than the base on the validation patients: more prompts, epochs or another --lr")
    print(f"Wrote {place}")


if __name__ == "__main__":
    storage.run(main)
