"""Step 4's prompts as step 5 takes them: read, checked against the split and the model, encoded whole."""

import json
from pathlib import Path

from mimic_qlora.chart import context
from mimic_qlora.llm import chat, embedded, finding
from mimic_qlora.step import storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader


def read(store: Path, limit: int | None) -> dict:
    """The prompts of step 4 for training and validation: split -> records."""
    records = {}
    for split in ("train", "validation"):
        path = store / "prompts" / f"{split}.jsonl"
        try:
            with open(path, encoding="utf-8") as file:
                records[split] = [whole(json.loads(line)) for line in file][:limit]
        except (OSError, ValueError, LookupError, TypeError):
            raise UserError(
                f"{path} cannot be read: run `{storage.command_for('prompts')} --force`"
            ) from None
        if not records[split]:
            raise UserError(
                f"{path} holds no prompt: convert more patients in step 1 (--sample), then run steps 1 to 4 again"
            )
    return records


def whole(row: dict) -> dict:
    """A record that has what is read of it. Raises ValueError, LookupError or TypeError for another."""
    if row["messages"][-1]["role"] != "assistant" or not all(
        turn["content"] + turn["role"] for turn in row["messages"]
    ):
        raise ValueError("no conversation that ends with an answer")
    return row | {"subject_id": int(row["subject_id"])}


def check_split(store: Path, records: dict) -> None:
    """Raise UserError unless every patient stands in the file of the split that step 1 gave it."""
    split = reader.split_of(store)
    for name, rows in records.items():
        for number, row in enumerate(rows, 1):
            if split.get(row["subject_id"]) != name:
                raise UserError(
                    f"{store / 'prompts' / name}.jsonl line {number} is of a patient whom step 1 put into "
                    f"{split.get(row['subject_id'], 'no split')}: run `{storage.command_for('prompts')} --force`"
                )


def check_model(store: Path, path: Path, tokenizer) -> dict:
    """What tells the base model from others: name, fingerprint, hash of its chat template.

    Raises UserError unless the prompts were budgeted for it; a copy in another folder of the same name will do.
    """
    base = {
        "name": finding.model_name(path),
        "fingerprint": finding.fingerprint(path),
        "template_sha256": chat.template_sha256(tokenizer),
    }
    shared = context.load_settings(store)
    again = f"run `{storage.command_for('prompts')} --model {path if not embedded.is_embedded(path) else embedded.EMBEDDED}`"
    if shared["template_sha256"] != base["template_sha256"]:
        raise UserError(
            f"the prompts in {store / 'prompts'} were budgeted for {shared['model']}, whose chat template is not "
            f"that of {base['name']}: {again}"
        )
    if Path(shared["model"]).name != Path(base["name"]).name:
        raise UserError(
            f"the prompts in {store / 'prompts'} were budgeted for {shared['model']}, not for {base['name']}: {again}"
        )
    return base


def encode(tokenizer, records: dict, max_length: int, path: Path) -> dict:
    """The prompts as samples: split -> samples. Raises UserError when one is longer than `max_length` tokens."""
    from mimic_qlora.training import packing

    limit = finding.read_json(path / "config.json").get("max_position_embeddings", max_length)
    if max_length > limit:
        raise UserError(
            f"--max-length {max_length} is more than the {limit} tokens that the model can read"
        )
    encoded = {
        split: [
            packing.encode(
                tokenizer, row["messages"], f"prompts/{split}.jsonl line {n}", row["subject_id"]
            )
            for n, row in enumerate(rows, 1)
        ]
        for split, rows in records.items()
    }
    lengths = [len(sample.ids) for rows in encoded.values() for sample in rows]
    if (long := sum(length > max_length for length in lengths)) > 0:
        raise UserError(
            f"{long} of {len(lengths)} prompts are longer than --max-length {max_length} tokens (the longest has "
            f"{max(lengths)}) and their answers would be cut: raise --max-length or lower step 4's --token-budget"
        )
    return encoded


MADE_UP = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "My knee hurts."},
    {"role": "assistant", "content": "Rest it."},
]


def describe(encoded: dict, tokenizer) -> None:
    """Say how much there is to train on, and show what is supervised, on a made-up sample: logs name no patient."""
    from mimic_qlora.training import packing

    sample = packing.encode(tokenizer, MADE_UP, "a made-up conversation")
    print(
        "Supervised, between ⟦ and ⟧:",
        packing.mark_supervised(tokenizer, sample).replace("\n", "⏎"),
    )
    for split, rows in encoded.items():
        patients = len({sample.patient for sample in rows})
        tokens, supervised = sum(len(s.ids) for s in rows), sum(s.n_supervised for s in rows)
        print(
            f"{split}: {len(rows):,} prompts of {patients:,} patients, {tokens:,} tokens, {supervised:,} supervised"
        )
