"""The prompts of step 4 for training: read, checked against split and model, encoded.

They are read through Hugging Face `datasets` into memory-mapped Arrow, so that their text takes no
memory: 31 MB for 100,000 prompts in place of 551 MB (`benchmarks/training_memory.py`).
"""

import contextlib
import itertools
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.display.text import counted
from mimic_qlora.llm import chat, embedded, finding
from mimic_qlora.llm.offline import quiet_datasets
from mimic_qlora.prompts import record_files
from mimic_qlora.step import step_commands, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader
from mimic_qlora.training import hardware, packing
from mimic_qlora.training.encoding import in_parallel, kept

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation")
CACHE = ".training-prompts."  # begins the name of the folder of the Arrow files
MINUTE, HOUR = 60, 3600  # seconds

Prompts = dict[str, "Dataset"]  # by split; rows {"messages": [turns], "subject_id": int}


@dataclass(frozen=True)
class BaseModel:
    """The identity of a base model, as the manifest of an adapter holds it."""

    name: str
    fingerprint: str
    template_sha256: str  # of its chat template
    computing: str  # hash of how its config.json uses the weights; manifests until 2026-11 lack it

    @classmethod
    def of(cls, path: Path, tokenizer: "PreTrainedTokenizerBase") -> "BaseModel":
        """Return the identity of the model in a folder. Raises UserError where it is damaged."""
        return cls(
            finding.model_name(path),
            finding.fingerprint(path),
            chat.template_sha256(tokenizer),
            finding.computing(path),
        )


@contextlib.contextmanager
def opened(store: Path, limit: int | None) -> Iterator[Prompts]:
    """Open step 4's prompts for training and validation, of each at most the first `limit`.

    The Arrow files hold patient data: they lie in a private folder of the storage folder, which is
    gone at the end. Raises UserError, with file and line, for a record that cannot be used, and
    when a file holds none.
    """
    _remove_leftovers(store)
    with tempfile.TemporaryDirectory(
        prefix=CACHE, dir=store, ignore_cleanup_errors=True
    ) as folder:  # mode 0700
        yield {split: _open(record_files.path_of(store, split), limit, folder) for split in SPLITS}


def _remove_leftovers(store: Path) -> None:
    """Remove the folders of runs that were killed; what an open file still maps stays readable."""
    for folder in store.glob(f"{CACHE}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > HOUR:
                shutil.rmtree(folder)


def _open(path: Path, limit: int | None, cache: str) -> "Dataset":
    """Write one split as Arrow into a folder and map it into memory."""
    datasets = quiet_datasets()
    text = datasets.Value("string")
    turns = [{"role": text, "content": text}]
    try:
        return datasets.Dataset.from_generator(
            _rows,
            features=datasets.Features({"messages": turns, "subject_id": datasets.Value("int64")}),
            cache_dir=cache,
            gen_kwargs={"path": path, "limit": limit},
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


def _rows(path: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    """Yield the messages and the patient of each record of a file."""
    number = 0  # records so far
    for record in itertools.islice(record_files.read(path), limit):
        yield {"messages": record.messages, "subject_id": record.subject_id}
        number += 1
    if not number:
        raise UserError(
            f"{path} holds no prompt: convert more patients in step 1 (--sample), then run steps "
            "1 to 4 again"
        )


def _again() -> str:
    return f"run `{step_commands.command_for('prompts')} --force`"


def check_split(store: Path, prompts: Prompts) -> None:
    """Raise UserError unless every patient stands in the file of the split that step 1 gave it."""
    check_patients(store, {name: rows["subject_id"] for name, rows in prompts.items()})


def check_patients(store: Path, patients: Mapping[str, Iterable[int]]) -> None:
    """Raise UserError unless each split's patients, in the order of its lines, are step 1's."""
    split = reader.split_of(store)
    for name, ids in patients.items():
        for number, subject_id in enumerate(ids, 1):
            if split.get(subject_id) != name:
                raise UserError(
                    f"{store / 'prompts' / name}.jsonl line {number} is of a patient whom step 1 "
                    f"put into {split.get(subject_id, 'no split')}: {_again()}"
                )


def check_model(store: Path, path: Path, tokenizer: "PreTrainedTokenizerBase") -> BaseModel:
    """Return the identity of the base model in a folder.

    Raises UserError unless the prompts were budgeted for it; another folder with the same tokenizer
    will do, or of the same name where step 4 has left no sum of the tokenizer.
    """
    base = BaseModel.of(path, tokenizer)
    shared = ContextSettings.read(store)
    same_name = Path(shared.model).name == Path(base.name).name
    meant = f"give --model {shlex.quote(shared.model)}, or "
    if shared.model == embedded.EMBEDDED_ORIGIN:
        meant = "leave --model out, or "
    model = embedded.EMBEDDED if embedded.is_embedded(path) else str(path)
    again = f"run `{step_commands.command_for('prompts', model=model)}`"
    again = again if same_name else meant + again
    if shared.template_sha256 != base.template_sha256:
        raise UserError(
            f"the prompts in {store / 'prompts'} were budgeted for {shared.model}, whose chat "
            f"template is not that of {base.name}: {again}"
        )
    inputs = storage.verified_manifest(store, "prompts")["inputs"]
    if counted_by := inputs.get("tokenizer"):
        is_its = counted_by == finding.tokenizer_sha256(path)
    else:
        is_its = same_name
    if not is_its:
        other = "with another tokenizer" if same_name else f"not for {base.name}"
        raise UserError(
            f"the prompts in {store / 'prompts'} were budgeted for {shared.model}, {other}: {again}"
        )
    return base


@dataclass(frozen=True)
class Wanted:
    """The prompts that a run trains on, and the model that they are encoded for."""

    store: Path
    model: Path  # its folder
    tokenizer: "PreTrainedTokenizerBase"
    max_length: int  # tokens of a prompt with its answer
    limit: int | None  # prompts of each split, from the first

    @property
    def kept(self) -> Path:
        """The file that holds them encoded."""
        return kept.place(self.store, self.model, SPLITS, self.limit)


def read_samples(wanted: Wanted) -> packing.Split:
    """Return the prompts checked and encoded; of several processes the first one encodes them.

    Raises UserError for what cannot be trained on.
    """
    check_limit(wanted)
    if hardware.is_main():
        samples = kept.read(wanted.kept)
        if samples is None:
            with opened(wanted.store, wanted.limit) as prompts:
                check_split(wanted.store, prompts)
                return encode(wanted, prompts)
    else:
        samples = kept.wait_for(wanted.kept)
    patients = {split: [s.patient for s in rows] for split, rows in samples.items()}
    check_patients(wanted.store, patients)
    check_lengths(samples, wanted.max_length)
    return samples


def encode(wanted: Wanted, prompts: Prompts) -> packing.Split:
    """Encode the prompts in their order, unless they are kept from before, and keep them.

    Raises UserError for a conversation that cannot be trained on, or is too long.
    """
    check_limit(wanted)
    place = wanted.kept
    encoded = kept.read(place)
    if encoded is None:
        encoded = {
            split: in_parallel.encode(
                wanted.tokenizer, rows, f"prompts/{split}.jsonl", _progress(place, split, len(rows))
            )
            for split, rows in prompts.items()
        }
        try:
            kept.write(place, encoded)
        except OSError as error:
            if hardware.n_processes() > 1:  # the others wait for the file
                raise
            print(f"Not kept encoded: {place.parent} cannot be written ({error.strerror})")
    check_lengths(encoded, wanted.max_length)
    return encoded


def _progress(place: Path, split: str, total: int) -> Callable[[int], None]:
    """Return what to call with the number of prompts just encoded."""
    done, told = 0, time.monotonic()

    def progress(n: int) -> None:
        nonlocal done, told
        done += n
        if hardware.n_processes() > 1:
            kept.sign_of_life(place)
        if time.monotonic() - told > MINUTE:
            told = time.monotonic()
            print(f"Encoded {done:,} of {total:,} prompts for {split}", flush=True)

    return progress


def check_limit(wanted: Wanted) -> None:
    """Raise UserError when `max_length` is more tokens than the model can read.

    Or more than the window of some of its layers: in training each token sees all before it.
    """
    config = finding.read_json(wanted.model / "config.json")
    limit = config.get("max_position_embeddings", wanted.max_length)
    if wanted.max_length > limit:
        raise UserError(
            f"--max-length {wanted.max_length} is more than the {limit} tokens that the model can "
            "read"
        )
    window = finding.attention_window(wanted.model)
    if window is not None and wanted.max_length > window:
        raise UserError(
            f"--max-length {wanted.max_length} is more than the {window} tokens that some layers "
            f"of {finding.model_name(wanted.model)} see, and in training each token sees all "
            "before it: use a model without such a window, such as "
            "meta-llama/Meta-Llama-3-8B-Instruct"
        )


def check_lengths(encoded: packing.Split, max_length: int) -> None:
    """Raise UserError when a prompt with its answer is longer than `max_length` tokens."""
    lengths = [len(sample.ids) for rows in encoded.values() for sample in rows]
    if (long := sum(length > max_length for length in lengths)) > 0:
        raise UserError(
            f"{long} of {len(lengths)} prompts are longer than --max-length {max_length} tokens "
            f"(the longest has {max(lengths)}) and their answers would be cut: raise --max-length "
            "or lower step 4's --token-budget"
        )


MADE_UP = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "My knee hurts."},
    {"role": "assistant", "content": "Rest it."},
]


def describe(encoded: packing.Split, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Print how much there is to train on, and what is supervised in a made-up sample.

    Logs name no patient.
    """
    sample = packing.encode(tokenizer, MADE_UP, "a made-up conversation")
    marked = packing.mark_supervised(tokenizer, sample).replace("\n", "⏎ ")
    print(f"Supervised, between ⟦ and ⟧ (⏎ ends a line): {marked}")
    for split, rows in encoded.items():
        patients = len({sample.patient for sample in rows})
        tokens, supervised = sum(len(s.ids) for s in rows), sum(s.n_supervised for s in rows)
        print(
            f"{split}: {counted(len(rows), 'prompt')} of {counted(patients, 'patient')}, "
            f"{tokens:,} tokens, "
            f"{supervised:,} supervised"
        )
