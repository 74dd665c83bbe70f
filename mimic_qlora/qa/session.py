"""What an answer of steps 6 and 7 rests on: data, settings, model and adapter, with room for it in tokens."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from mimic_qlora.chart import columns, context, prediction_times
from mimic_qlora.llm import chat, embedded, finding, loading
from mimic_qlora.qa import session
from mimic_qlora.step import files, seeded, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader


def sources(store: Path, model: str | None) -> SimpleNamespace:
    """What every answer rests on: manifest of step 1, settings of step 4, model folder and its tokenizer.

    Raises UserError when a step is missing or stale, or when the model's chat template is not that of the prompts.
    """
    manifest = storage.read_manifest(store, "subjects")
    settings = context.load_settings(store)
    path = finding.model_path(model, store)
    tokenizer = chat.load_tokenizer(path)
    if chat.template_sha256(tokenizer) != settings["template_sha256"]:
        raise UserError(
            f"the prompts were made for {settings['model']}, whose chat template is another than that of "
            f"{finding.model_name(path)}: give --model {settings['model']}, or run "
            f"`{storage.command_for('prompts')} --model {finding.model_name(path)}` again"
        )
    return SimpleNamespace(
        store=store,
        manifest=manifest,
        settings=settings,
        path=path,
        tokenizer=tokenizer,
        labels=context.lab_labels(store),
        count_tokens=chat.token_counter(tokenizer),
    )


def first_lines(source: SimpleNamespace) -> str:
    """Which data and which model: what a run says first."""
    return f"{storage.data_line(source.manifest)}\n{finding.describe(source.path)}"


def trial_only(source: SimpleNamespace) -> bool:
    """Whether the data or the model is a built-in one, so that the answers can show nothing about real use."""
    return source.manifest["source"]["kind"] == "synthetic" or embedded.is_embedded(source.path)


def room(source: SimpleNamespace, conversation: list) -> float:
    """How many tokens of an answer the model can read after this conversation."""
    config = json.loads((source.path / "config.json").read_text(encoding="utf-8"))
    prompt = len(chat.chat_ids(source.tokenizer, conversation, add_generation_prompt=True))
    return config.get("max_position_embeddings", math.inf) - prompt


def check_room(source: SimpleNamespace, conversations: list, max_new_tokens: int) -> None:
    """Raise UserError when a prompt and its answer together are longer than the model can read: nothing is cut."""
    least = min(room(source, conversation) for conversation in conversations)
    if least < max_new_tokens:
        raise UserError(
            f"the longest prompt leaves {least} tokens of those that the model can read for an answer: give a smaller "
            "--max-new-tokens, or a shorter question"
        )


def has_adapter(store: Path, run: str) -> bool:
    return (store / "adapters" / run / "manifest.json").is_file()


def check_runs(store: Path, runs: list) -> None:
    """Raise UserError when a run of step 5 is missing or stale; where there are others, it names them."""
    there = sorted(path.parent.name for path in (store / "adapters").glob("[!.]*/manifest.json"))
    for run in runs:
        if there and run not in there:
            train = f"run `python train_qlora.py --run {run}` first"
            raise UserError(
                f"there is no adapter '{run}': give --run {' or '.join(there)}, or {train}"
            )
        storage.read_manifest(store, f"adapters/{run}")


def load_arms(source: SimpleNamespace, runs: list):
    """The 4-bit base with the adapters of these runs beside it, the first as "default" (see models.adapter_name).

    Raises UserError when a run is missing, stale, or was trained on another base.
    """
    from tqdm import tqdm

    check_runs(source.store, runs)
    tqdm.write(
        "Loading the model" + (f" and adapter {', '.join(runs)}" if runs else "")
    )  # a bar may be on this line
    model = loading.unpacked(loading.load_base(source.path))
    for place, run in enumerate(runs):
        model = loading.load_adapter(
            model, source.store / "adapters" / run, loading.adapter_name(place)
        )
    return model


def identity(source: SimpleNamespace, runs: list) -> dict:
    """What answers are made by: base and adapters by their content, the software, the device."""
    import torch

    return {
        "model": finding.model_name(source.path),
        "fingerprint": finding.fingerprint(source.path),
        "runs": runs,  # their order: a digest forgets that of a dict, and the journal knows adapters by their place
        "adapters": {
            run: files.file_sha256(source.store / "adapters" / run / "adapter_model.safetensors")
            for run in runs
        },
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": storage.versions(),
    }


def build(source: SimpleNamespace, record: dict, as_of) -> context.Context:
    return context.build(record, as_of, source.settings, source.labels, source.count_tokens)


def charts(source: SimpleNamespace, split: str, seed: int) -> Iterator[tuple]:
    """Yield (subject_id, moment, context) of a split's patients with a coded stay and a time to ask, shuffled."""
    members = [
        subject_id for subject_id, name in reader.split_of(source.store).items() if name == split
    ]
    for subject_id in seeded.order(members, "trials", seed):
        record = reader.record(source.store, subject_id, columns.WANTED)
        found = prediction_times.of(record, source.settings["seed"])
        if found and record["diagnoses_icd_labeled"]:
            yield subject_id, found[-1], session.build(source, record, found[-1].as_of)
