"""The adapters of a storage folder, and what was asked of them: results, looks, openings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from mimic_qlora.step import files, manifests
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import part_of, read_object
from mimic_qlora.subjects import reader
from mimic_qlora.training.memorisation import audited
from mimic_qlora.validation import ledger, results


@dataclass(frozen=True)
class TrainedRun:
    """An adapter of step 5; losses in nats per supervised token, on the validation patients."""

    run: str
    model: str
    recipe: str  # "" in manifests of earlier versions
    seed: int | None
    steps: int | None
    base_loss: float | None
    loss: float | None
    bits_per_byte: float | None
    looks: int | None = 0  # at validation patients, with this adapter; None with a damaged ledger
    openings: int | None = 0  # of the test patients
    memorisation: str = audited.NOT_AUDITED  # the verdict of its audit


@dataclass(frozen=True)
class Opened:
    """What the ledger holds, counted; `fault` is a sentence where it cannot be read."""

    plan: str = ""  # SHA-256 of the plan that was frozen last
    frozen: int = 0
    looks: int = 0
    openings: int = 0
    asked: int = 0  # test patients about whom an adapter answered in step 6
    stopped: int = 0  # batches of step 6 without an end yet: about whom, no transcript tells
    results: int = 0
    last_results: str = ""  # the newest folder of results
    fault: str = ""


def _asked_in_step_6(store: Path) -> int:
    """Return of how many test patients the transcripts hold an adapter's answer."""
    asked: set[int] = set()
    for path in (store / "qa").glob("[!.]*.jsonl"):
        lines: list[bytes] = []
        with suppress(OSError):
            lines = path.read_bytes().splitlines()
        for line in lines:
            with suppress(ValueError, TypeError, LookupError):  # it was edited: the others count
                entry = json.loads(line)
                if entry["run"]:
                    asked.add(entry["subject_id"])
    with suppress(UserError, OSError):  # a damaged split is told by the steps
        return sum(name == "test" for who, name in reader.split_of(store).items() if who in asked)
    return 0


def _stopped_in_step_6(store: Path) -> int:
    """Return how many batches an adapter answered in part, stopped or running.

    What was printed of them is in no transcript until the same command has gone on to the end.
    """
    return sum(map(bool, _answered(store / "qa" / ".answers")))


def _answered(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the adapters of each journal in a folder, run -> SHA-256, if it has an entry."""
    for path in folder.glob("*.jsonl"):
        with suppress(OSError, ValueError), open(path, "rb") as file:
            first, *entries = islice(file, 2)
            if entries:
                yield part_of(part_of(json.loads(first), "by"), "adapters")


def compared(made: Path) -> Mapping[str, Any]:
    """Return the adapters of results with the SHA-256 of their weights, as far as is noted."""
    return part_of(read_object(made / results.READER), "adapters")


def of_other(store: Path, made: Path) -> str:
    """Return what results were made of that is no longer there; "" if all of it is, or if they are
    of a version that did not note it.
    """
    basis = read_object(made / results.READER)
    if not basis and (made / results.READER).exists():
        return f"unknown adapters: its {results.READER} cannot be read"
    subjects = (manifests.read(files.linked_place(store / "subjects")) or {}).get("id")
    if basis.get("subjects") and basis["subjects"] != subjects:
        return "other patients: step 1 was run again since"
    for run, sha256 in part_of(basis, "adapters").items():
        now = manifests.read(files.linked_place(store / "adapters" / run)) or {}
        if weights_in(now) != sha256:
            return f"another adapter {run}: it was trained again since, or is gone"
    return ""


def of_storage(store: Path) -> list[TrainedRun]:
    """Return the adapters whose manifests can be read, by name."""
    entries = _entries(store)
    found = []
    for place in sorted((store / "adapters").glob("[!.]*")):
        manifest = manifests.read(place)
        if manifest is not None:
            one = _run(place.name, manifest, entries)
            found.append(
                replace(one, memorisation=_memorisation(store, place.name, manifest, entries))
            )
    return found


def _memorisation(
    store: Path, run: str, manifest: Mapping[str, Any], entries: Sequence[ledger.Entry] | None
) -> str:
    """Return the verdict of an adapter's audit, or how far one has come."""
    if audit := audited.read(store, run):
        return audit.verdict
    for entry in reversed(entries or ()):
        for name, weights in part_of(entry, "adapters").items():
            if entry["event"] == "audited" and weights == weights_in(manifest):
                place = f"as {name}" if name != run else "in a folder that is gone"
                return f"{entry['verdict']}, audited {place}"
    read = _answered(store / "privacy" / audited.READINGS)
    is_begun = any(weights_in(manifest) in adapters.values() for adapters in read)
    return "audit begun, not finished" if is_begun else audited.NOT_AUDITED


def _entries(store: Path) -> list[ledger.Entry] | None:
    try:
        return ledger.ledger(store)
    except (UserError, OSError):
        return None


def _run(name: str, manifest: Mapping[str, Any], entries: list[ledger.Entry] | None) -> TrainedRun:
    settings, result = part_of(manifest, "settings"), part_of(manifest, "results")
    # by the weights: a name may have been trained anew since, or given to another adapter
    sha256 = weights_in(manifest)
    of_run = [e["event"] for e in entries or () if sha256 in (e.get("adapters") or {}).values()]
    return TrainedRun(
        run=name,
        model=str(part_of(manifest, "base_model").get("name", "")),
        recipe=str(manifest.get("recipe", "")),
        seed=settings.get("seed"),
        steps=result.get("steps"),
        base_loss=result.get("validation_loss_base"),
        loss=result.get("validation_loss_adapter"),
        bits_per_byte=(part_of(result, "bits_per_byte").get("adapter") or [None])[0],
        looks=None if entries is None else of_run.count("looked"),
        openings=None if entries is None else of_run.count("opened"),
    )


def weights_in(manifest: Mapping[str, Any]) -> str | None:
    """Return the SHA-256 of an adapter's weights as its manifest has it, None where it has none."""
    return part_of(part_of(manifest, "files"), "adapter_model.safetensors").get("sha256")


def opened(store: Path) -> Opened:
    """Return what was frozen, looked at and opened."""
    made: list[Path] = []
    try:
        made = results.in_order(store)
        entries = ledger.ledger(store)
    except (UserError, OSError) as error:
        last = str(made[-1]) if made else ""
        return Opened(results=len(made), last_results=last, fault=str(error))
    events = [entry["event"] for entry in entries]
    plans = [entry["plan_sha256"] for entry in entries if entry["event"] == "frozen"]
    return Opened(
        plan=plans[-1] if plans else "",
        frozen=len(plans),
        looks=events.count("looked"),
        openings=events.count("opened"),
        asked=_asked_in_step_6(store),
        stopped=_stopped_in_step_6(store),
        results=len(made),
        last_results=str(made[-1]) if made else "",
    )
