"""What steps 6 and 7 do around an answer: which data, model and adapter it rests on, how its text is shown and kept."""

import csv
import json
import math
import os
import tempfile
import unicodedata
from pathlib import Path
from types import SimpleNamespace

from mimic_qlora import context, models, storage
from mimic_qlora.storage import UserError


def sources(store: Path, model: str | None) -> SimpleNamespace:
    """What every answer rests on: manifest of step 1, settings of step 4, model folder and its tokenizer.

    Raises UserError when a step is missing or stale, or when the model's chat template is not that of the prompts.
    """
    manifest = storage.read_manifest(store, "subjects")
    settings = context.load_settings(store)
    path = models.model_path(model, store)
    tokenizer = models.load_tokenizer(path)
    if models.template_sha256(tokenizer) != settings["template_sha256"]:
        raise UserError(
            f"the prompts were made for {settings['model']}, whose chat template is another than that of "
            f"{models.model_name(path)}: give --model {settings['model']}, or run "
            f"`{storage.command_for('prompts')} --model {models.model_name(path)}` again"
        )
    return SimpleNamespace(
        store=store,
        manifest=manifest,
        settings=settings,
        path=path,
        tokenizer=tokenizer,
        labels=context.lab_labels(store),
        count_tokens=lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]),
    )


def first_lines(source: SimpleNamespace) -> str:
    """Which data and which model: what a run says first."""
    return f"{storage.data_line(source.manifest)}\n{models.describe(source.path)}"


def trial_only(source: SimpleNamespace) -> bool:
    """Whether the data or the model is a built-in one, so that the answers can show nothing about real use."""
    return source.manifest["source"]["kind"] == "synthetic" or models.is_embedded(source.path)


def check_room(source: SimpleNamespace, conversations: list, max_new_tokens: int) -> None:
    """Raise UserError when a prompt and its answer together are longer than the model can read."""
    config = json.loads((source.path / "config.json").read_text(encoding="utf-8"))
    longest = max(len(models.chat_ids(source.tokenizer, c, add_generation_prompt=True)) for c in conversations)
    limit = config.get("max_position_embeddings", math.inf)
    if longest + max_new_tokens > limit:
        raise UserError(
            f"the longest prompt has {longest} tokens, which leaves {limit - longest} of the {limit} that the model "
            "can read: give a smaller --max-new-tokens"
        )


def has_adapter(store: Path, run: str) -> bool:
    return (store / "adapters" / run / "manifest.json").is_file()


def load_arms(source: SimpleNamespace, run: str | None):
    """The 4-bit base with the adapter of `run` beside it; the base alone when `run` is None.

    Raises UserError when the run is missing, stale, or was trained on another base.
    """
    if run is not None:
        storage.read_manifest(source.store, f"adapters/{run}")
    print("Loading the model" + (f" and adapter {run}" if run else ""), flush=True)
    if run is None:
        return models.load_base(source.path)
    return models.load_adapter(models.load_base(source.path), source.store / "adapters" / run)


def build(source: SimpleNamespace, record: dict, as_of) -> context.Context:
    return context.build(record, as_of, source.settings, source.labels, source.count_tokens)


# ---------------------------------------------------------------- text of a model, on a terminal and in a file


def printable(text: str) -> str:
    """The text without what could steer a terminal: control, formatting and bidirectional characters. Newlines stay."""
    text = text.replace("\t", " ")
    return "".join(c for c in text if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp"))


def one_line(text: str, width: int) -> str:
    """The text in quotation marks on one line of at most `width` terminal columns, newlines folded."""
    text = " ".join(printable(text.replace("\n", " ")).split())
    room, kept = width - 2, ""
    if columns(text) > room:
        for character in text:
            if columns(kept + character) > room - 1:
                break
            kept += character
        text = kept.rstrip() + "…"
    return f'"{text}"'


def columns(text: str) -> int:
    """Terminal columns that the text takes: East Asian wide characters and emoji take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def safe_cell(value):
    """A CSV cell that no spreadsheet runs: text that starts like a formula gets a leading apostrophe."""
    if isinstance(value, str):
        value = printable(value.replace("\r\n", "\n"))
        return f"'{value}" if value.lstrip().startswith(tuple("=+-@＝＋－＠")) else value
    return "" if value is None else value


def write_csv(path: Path, rows: list, first: tuple = ()) -> None:
    """Rows as UTF-8 CSV, the named columns first, with no cell that a spreadsheet would run."""
    columns = dict.fromkeys([*first, *(column for row in rows for column in row)])
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([safe_cell(row.get(column)) for column in columns] for row in rows)


def private_file(folder: Path, prefix: str, suffix: str) -> Path:
    """A fresh file with a name of its own that its owner alone can read, in a folder made private."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=folder)
    os.close(handle)
    return Path(name)
