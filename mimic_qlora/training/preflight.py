"""Everything that training needs, checked before minutes are spent on it."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.llm import chat, embedded, finding
from mimic_qlora.processes import environment
from mimic_qlora.step import plain_text, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects.manifest import subjects_manifest
from mimic_qlora.training import data, hardware, packing, preparation
from mimic_qlora.training.settings import Job

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


class Needs:
    """Prints one line for each need; a missing one stops none of the others."""

    def __init__(self) -> None:
        """Begin with nothing missing."""
        self.missing: list[str] = []

    def check(self, what: str, find: Callable[..., T], *inputs: Any) -> T | None:
        """Return what `find(*inputs)` gives; None if it raises UserError or an input is None."""
        if any(value is None for value in inputs):
            print(f"not seen {what}: first fix what is missing above")
            return None
        try:
            result = find(*inputs)
        except UserError as error:
            self.missing.append(what)
            print(f"missing  {what}: {plain_text.unhidden(str(error))}")
            return None
        print(f"ok       {what}")
        return result


def check(job: Job) -> int:
    """Print what is there and what is missing; return 0 when nothing is missing, else 2.

    Of several processes the first does it for all.
    """
    if not hardware.is_main():
        return 0
    needs, settings = Needs(), job.settings
    with ExitStack() as stack:

        def read_prompts(store: Path) -> data.Prompts:
            return stack.enter_context(data.opened(store, settings.limit))

        def find_model() -> Path:
            own = job.model in (None, embedded.EMBEDDED)
            return find_whole_model(job.model, store if own and store else Path())

        store = needs.check("storage folder with subjects and prompts", find_store, job)
        prompts = needs.check("every prompt a conversation with an answer", read_prompts, store)
        needs.check("every patient in the split of step 1", data.check_split, store, prompts)
        model = needs.check("model on this machine, whole", find_model)
        tokenizer = needs.check("tokenizer with a chat template", chat.load_tokenizer, model)
        needs.check("prompts made for this model", data.check_model, store, model, tokenizer)
        samples = needs.check(
            "every prompt whole, its answer and end token supervised",
            describe_samples,
            job,
            store,
            model,
            tokenizer,
            prompts,
        )
        needs.check("driver and number type", describe_device, job)
        # without its weights too
        config = model or finding.config_folder(job.model, store or Path())
        needs.check("memory", lambda folder: describe_memory(job, samples, folder), config)
        needs.check("disk", describe_disk, job, store, config)
    missing = needs.missing
    print("Nothing is missing" if not missing else f"{len(missing)} missing: {'; '.join(missing)}")
    return 2 if missing else 0


def find_store(job: Job) -> Path:
    """Return the storage folder, with what steps 1 and 4 left in it."""
    store = storage.open_storage(job.storage)
    subjects_manifest(store)
    storage.verified_manifest(store, "prompts")
    ContextSettings.read(store)
    return store


def find_whole_model(name: str | None, store: Path) -> Path:
    """Return the folder of a model whose weights can be read, and are whole as far as known."""
    path = finding.model_path(name, store)
    preparation.checked_shape(path)
    if embedded.is_embedded(path):
        embedded.check_weights(path, convert=True)
    return path


def describe_samples(
    job: Job,
    store: Path,
    model: Path,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: data.Prompts,
) -> packing.Split:
    """Encode all prompts and print how much there is to train on."""
    settings = job.settings
    wanted = data.Wanted(store, model, tokenizer, settings.max_length, settings.limit)
    samples = data.encode(wanted, prompts)
    data.describe(samples, tokenizer)
    return samples


def describe_device(job: Job) -> None:
    """Print what training would run on."""
    if without_gpu := hardware.check_driver():
        print(f"         {without_gpu}")
    hardware.check_sharding(job.recipe)
    dtype = hardware.dtype(job.settings.compute)
    print(f"         {hardware.name()} computing in {dtype}, recipe {job.recipe}")
    if alone := environment.alone():
        print(f"         {alone}")


def describe_memory(job: Job, samples: packing.Split | None, config: Path) -> None:
    """Print the memory that training needs, by its longest row where there is one, and check it."""
    settings = job.settings
    packs = packing.pack(samples["train"], settings.batch_tokens) if samples else None
    shape = preparation.shape_of(config)
    room = preparation.memory(shape, settings, hardware.dtype(settings.compute), packs)
    print(f"         {room.in_words()}")
    preparation.check_memory(room)


def describe_disk(job: Job, store: Path, config: Path) -> None:
    """Check the disk and print what is free."""
    preparation.check_disk(preparation.shape_of(config), job.settings, store)
    print(f"         {shutil.disk_usage(store).free / 1e9:.1f} GB free")
