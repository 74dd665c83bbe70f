"""A session of steps 6 and 7: the data, settings, model and adapters that every answer rests on."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mimic_qlora.chart import columns, context, prediction_times
from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.llm import chat, embedded, finding, generation, loading
from mimic_qlora.step import manifests, seeded, step_commands, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader
from mimic_qlora.subjects.manifest import SubjectsManifest, data_line, subjects_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Turn = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
Record = dict[str, Any]  # one patient, as step 1 writes it


@dataclass(frozen=True)
class Session:
    """The data, settings and model folder of a run, the same for all its answers.

    `manifest` is that of step 1, `settings` those that step 4 left in context.json. `path` is the
    folder of the base model, `labels` names each lab by its itemid. `count_tokens` gives the length
    of a text in tokens.
    """

    store: Path
    manifest: SubjectsManifest
    settings: ContextSettings
    path: Path
    tokenizer: "PreTrainedTokenizerBase"
    labels: dict[int, str]
    count_tokens: Callable[[str], int]


@dataclass(frozen=True)
class Answerer:
    """A loaded model with its adapters, and how it answers.

    `arms` are those that answer: "base", "adapter" or both. `run` names the adapter of step 5,
    `max_new_tokens` bounds an answer, `batch_size` is the number of answers that are generated at
    once. `weights` is the SHA-256 of the loaded adapter's weights, which tells it from one that is
    trained later under the same name.
    """

    session: Session
    model: "PreTrainedModel"
    arms: tuple[str, ...]
    run: str
    max_new_tokens: int
    batch_size: int = 1
    weights: str | None = None

    @property
    def has_adapter(self) -> bool:
        return hasattr(self.model, "peft_config")


class Chart(NamedTuple):
    """A patient of a split at the last time at which they may ask, with the context then."""

    subject_id: int
    moment: prediction_times.Moment
    context: context.Context


def load(store: Path, model: str | None) -> Session:
    """Return the session of a storage folder and a base model (a folder, a hub name, or None for
    the embedded one).

    Raises UserError when a step is missing or stale, or when the model's chat template is not that
    of the prompts.
    """
    manifest = subjects_manifest(store)
    settings = ContextSettings.read(store)
    path = finding.model_path(model, store)
    tokenizer = chat.load_tokenizer(path)
    if chat.template_sha256(tokenizer) != settings.template_sha256:
        name, made_for = finding.model_name(path), settings.model
        raise UserError(
            f"the prompts were made for {made_for}, whose chat template differs from that of "
            f"{name}: give --model {made_for}, or run "
            f"`{step_commands.command_for('prompts', model=name)}` again"
        )
    return Session(
        store=store,
        manifest=manifest,
        settings=settings,
        path=path,
        tokenizer=tokenizer,
        labels=context.lab_labels(store),
        count_tokens=chat.token_counter(tokenizer),
    )


def first_lines(session: Session) -> str:
    """Return the two lines that a run prints first: which data and which model."""
    return f"{data_line(session.manifest['source'])}\n{finding.describe(session.path)}"


def trial_only(session: Session) -> bool:
    """Return whether data or model are built-in ones, whose answers show nothing about real use."""
    synthetic = session.manifest["source"]["kind"] == "synthetic"
    return synthetic or embedded.is_embedded(session.path)


def room(session: Session, conversation: list[Turn]) -> float:
    """Return how many tokens of an answer the model can read after this conversation."""
    config = json.loads((session.path / "config.json").read_text(encoding="utf-8"))
    prompt = len(chat.chat_ids(session.tokenizer, conversation, add_generation_prompt=True))
    return config.get("max_position_embeddings", math.inf) - prompt


def check_room(session: Session, conversations: list[list[Turn]], max_new_tokens: int) -> None:
    """Raise UserError when a prompt and its answer exceed the model's context length: nothing is
    cut.
    """
    least = min(room(session, conversation) for conversation in conversations)
    if least <= 0:
        raise UserError(
            "the longest prompt leaves no token of the model's context length for an answer "
            f"({-least:,} too many): give a shorter question"
        )
    if least < max_new_tokens:
        raise UserError(
            f"the longest prompt leaves {least} tokens of the model's context length for an "
            "answer: give a smaller --max-new-tokens, or a shorter question"
        )


# ---------------------------------------------------------------- the model and its adapters


def has_adapter(store: Path, run: str) -> bool:
    """Return whether step 5 has left an adapter of this name."""
    return (store / "adapters" / run / "manifest.json").is_file()


def load_arms(session: Session, runs: Sequence[str]) -> "PreTrainedModel":
    """Return the 4-bit base with the adapters of these runs, the first as "default"
    (loading.adapter_name).

    Raises UserError when a run is missing, stale, or was trained on another base.
    """
    from tqdm import tqdm

    storage.check_adapters(session.store, runs)
    chat.check_tokenizer(session.store, session.path, session.tokenizer, runs)
    # a progress bar may be on this line
    tqdm.write("Loading the model" + (f" and adapter {', '.join(runs)}" if runs else ""))
    model = loading.unpacked(loading.load_base(session.path))
    for place, run in enumerate(runs):
        folder = session.store / "adapters" / run
        model = loading.load_adapter(model, folder, loading.adapter_name(place))
    return model


def load_known(session: Session, runs: Sequence[str]) -> tuple["PreTrainedModel", dict[str, str]]:
    """Return the model of load_arms, and run -> SHA-256 of the weights that were loaded.

    Raises UserError also when an adapter is replaced meanwhile.
    """
    storage.check_adapters(session.store, runs)
    adapters = {run: weights_sha256(session.store, run) for run in runs}
    model = load_arms(session, runs)
    if changed := replaced(session.store, adapters):
        raise UserError(
            f"the adapter {changed[0]} was replaced while the model was loaded: the same command "
            "asks the new one"
        )
    return model, adapters


def identity(session: Session, runs: Sequence[str]) -> dict[str, Any]:
    """Return what answers are made by: base and adapters by their content, the software, the
    device. Where the model lies is none of it.
    """
    return {
        "fingerprint": finding.fingerprint(session.path),
        "beside_weights": finding.beside_weights(session.path),
        # a digest ignores the order of a dict, and the cache knows adapters by their place
        "runs": list(runs),
        "adapters": {run: weights_sha256(session.store, run) for run in runs},
        "device": device(),
        "computing": str(loading.compute_dtype()),
        "versions": manifests.versions(),
    }


def weights_sha256(store: Path, run: str) -> str:
    """Return the SHA-256 of an adapter's weights, as they lie there now."""
    return loading.weights_sha256(store / "adapters" / run)


def replaced(store: Path, adapters: Mapping[str, str]) -> list[str]:
    """Return the runs whose weights are no longer those with these hashes: trained again, or gone.

    Step 5 may end while another step answers.
    """
    found = []
    for run, sha256 in adapters.items():
        with suppress(OSError):
            if weights_sha256(store, run) == sha256:
                continue
        found.append(run)
    return found


def device() -> str:
    """Return the kind of GPU that answers, or "cpu"."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def generate(
    answerer: Answerer,
    conversations: list[list[Turn]],
    on_batch: Callable[[int], object] | None = None,
) -> list[dict[str, generation.Answer]]:
    """Return {arm: answer} for each conversation, each answered by every arm of the answerer.

    `on_batch` is called with the number of answers that were just generated.
    """
    arms = answerer.arms
    check_room(answerer.session, conversations, answerer.max_new_tokens)
    flat = generation.generate(
        answerer.model,
        answerer.session.tokenizer,
        [turns for turns in conversations for _ in arms],
        [*arms] * len(conversations),
        answerer.max_new_tokens,
        answerer.batch_size,
        on_batch,
    )
    rows = (flat[i : i + len(arms)] for i in range(0, len(flat), len(arms)))
    return [dict(zip(arms, row, strict=True)) for row in rows]


# ---------------------------------------------------------------- patients


def build(session: Session, record: Record, as_of: datetime) -> context.Context:
    """Return the context of one patient at one time, by the settings of step 4."""
    return context.build(record, as_of, session.settings, session.labels, session.count_tokens)


def charts(session: Session, split: str, seed: int) -> Iterator[Chart]:
    """Yield a split's patients with a coded stay and a time to ask, in an order drawn by `seed`."""
    members = [
        subject_id for subject_id, name in reader.split_of(session.store).items() if name == split
    ]
    for subject_id in seeded.order(members, "trials", seed):
        record = reader.record(session.store, subject_id, columns.WANTED)
        moments = prediction_times.after_discharge(record, session.settings.seed)
        if moments and record["diagnoses_icd_labeled"]:
            moment = moments[-1]
            yield Chart(subject_id, moment, build(session, record, moment.as_of))
