"""Canaries: made-up patients with two secrets each, of whom a coin puts half into training.

They come from the generator of the built-in data and go through steps 1 and 4, so that their charts
have the layout of the others'. They are nobody, so that repeating them harms nobody.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import orjson

from mimic_qlora.chart import context, prediction_times
from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.chart.prompt import Message, messages
from mimic_qlora.llm import chat
from mimic_qlora.mimic import tables
from mimic_qlora.mimic.synthetic import hospital
from mimic_qlora.prompts import records
from mimic_qlora.step import manifests, seeded, storage
from mimic_qlora.step.errors import UpToDate, UserError
from mimic_qlora.subjects import conversion, reader
from mimic_qlora.training import packing
from mimic_qlora.training.packing import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "canaries.jsonl"
STEP = "canaries"
SEED = 7_919  # of the made-up hospital, which is none of the built-in ones
DOSES = (1, 10)  # records of a canary that is put into training
PATIENTS_EACH = 5  # made-up patients for each canary: not all have a chart to ask about
SERIAL = "- Device serial number: "
QUESTION = "Which code did this patient get at registration?"
ANSWER = "The registration code is "
SECRETS = tuple(f"{n:03}" for n in range(1000))


@dataclass(frozen=True)
class Canary:
    """A canary: its conversation, its secrets of three digits, its dose, and the coin.

    `code` stands in the answer and not in the chart, `serial` in the chart alone.
    """

    number: int
    messages: list[Message]
    code: str
    serial: str
    dose: int
    is_in: bool


class Flip(NamedTuple):
    """What is drawn for a canary by hash."""

    code: str
    serial: str
    dose: int
    is_in: bool


def flip(number: int) -> Flip:
    """Draw a canary's secrets, dose and coin; the dose does not hang on the coin."""
    code, serial = (SECRETS[seeded.pick(f"canary {what}:{number}", 1000)] for what in "ab")
    dose = DOSES[number % len(DOSES)]
    return Flip(code, serial, dose, bool(seeded.pick(f"canary coin:{number}", 2)))


def manifest(n: int, prompts_id: str) -> manifests.Manifest:
    """Return the manifest of a run that makes so many canaries."""
    return manifests.new_manifest(STEP, {"n": n}, {"prompts": prompts_id})


def make(store: Path, n: int, prompts_id: str) -> str:
    """Write `canaries/` unless it is there, and return the id of its manifest."""
    run = manifest(n, prompts_id)
    with (
        contextlib.suppress(UpToDate),
        storage.step_output(store, STEP, run["settings"], run["inputs"]) as out,
    ):
        settings = ContextSettings.read(store)
        with open(out.path / FILE, "wb") as file:
            for canary in _made(store, n, settings):
                file.write(orjson.dumps(asdict(canary)) + b"\n")
    return storage.verified_manifest(store, STEP)["id"]


def read(store: Path) -> list[Canary]:
    """Return the canaries of a storage folder."""
    lines = (store / STEP / FILE).read_bytes().splitlines()
    return [Canary(**orjson.loads(line)) for line in lines]


def _made(store: Path, n: int, settings: ContextSettings) -> Iterator[Canary]:
    with tempfile.TemporaryDirectory(prefix=".canaries.", dir=store) as folder:
        charts = _charts(Path(folder), n * PATIENTS_EACH, settings)
        number = -1
        for number, chart in zip(range(n), charts, strict=False):
            drawn = flip(number)
            turns = messages(
                settings.system_prompts["chart_qa"], f"{chart}\n{SERIAL}{drawn.serial}", QUESTION
            )
            answer = {"role": "assistant", "content": f"{ANSWER}{drawn.code}."}
            yield Canary(number, [*turns, answer], *drawn)
    if number + 1 < n:
        raise UserError(f"only {number + 1} canaries could be made: give a smaller --canaries")


def _charts(folder: Path, n: int, settings: ContextSettings) -> Iterator[str]:
    """Yield the charts of made-up patients after their last discharge, without their names."""
    hospital.write(folder / "mimic", n, SEED, progress=False, uncoded_share=0.0)
    store = folder / "storage"
    store.mkdir(mode=0o700)
    how = conversion.ConversionSettings(
        folder=folder / "mimic",
        synthetic=True,
        sample=1.0,
        subjects_file=None,
        seed=SEED,
        memory=conversion.memory_bytes(None),
        workers=1,
        max_rejects=0,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        conversion.write_subjects(store, tables.find(folder / "mimic", []), [], how, False)
    maker = records.PromptMaker(settings, context.lab_labels(store), _words)
    for record in reader.records(store, records.columns.WANTED):
        moments = prediction_times.after_discharge(record, SEED)
        if moments and record["diagnoses_icd_labeled"]:
            yield maker.build(record, moments[-1]).text


def _words(text: str) -> int:
    """Return more than the tokens that a text has, without a tokenizer."""
    return len(text) // 3


def samples(tokenizer: "PreTrainedTokenizerBase", planted: Sequence[Canary]) -> list[Sample]:
    """Return the training samples of the canaries that the coin puts in, as often as their dose."""
    return [
        packing.encode(tokenizer, canary.messages, "a canary", -1 - canary.number)
        for canary in planted
        if canary.is_in
        for _ in range(canary.dose)
    ]


def in_words(planted: Sequence[Canary]) -> str:
    """Return how many canaries are put in."""
    n_in = sum(canary.is_in for canary in planted)
    return (
        f"Canaries: {len(planted):,} made-up patients, {n_in:,} of them put into training, once or "
        f"{DOSES[1]} times: this adapter is for the audit alone"
    )


def text_before(
    tokenizer: "PreTrainedTokenizerBase", canary: Canary, secret: str
) -> tuple[str, str]:
    """Return the conversation up to a secret ("code" or "serial"), and the secret."""
    text = chat.chat_text(tokenizer, canary.messages)
    lead = ANSWER if secret == "code" else SERIAL
    value: str = getattr(canary, secret)
    return text[: text.rindex(f"{lead}{value}") + len(lead)], value
