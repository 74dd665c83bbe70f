"""All that status.py tells of a storage folder, as data and as lines for a terminal."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from mimic_qlora.display import text_tables
from mimic_qlora.display.cells import Row
from mimic_qlora.display.text import size
from mimic_qlora.prompts import audit
from mimic_qlora.step import files, manifests, terminal
from mimic_qlora.step.errors import UserError
from mimic_qlora.study import leftovers, next_step, runs, state
from mimic_qlora.study.leftovers import Leftover
from mimic_qlora.study.runs import Opened, TrainedRun
from mimic_qlora.study.state import UNREADABLE, StepState
from mimic_qlora.subjects.manifest import SubjectsManifest, damaged_parts, data_line

_FULL = 100 << 20  # bytes free, below which a disk is called full


@dataclass(frozen=True)
class DataFacts:
    """The data of step 1; `line` is the sentence that each step begins with."""

    line: str = ""
    kind: str = ""
    version: str = ""
    folder: str = ""
    folder_is_there: bool = True
    patients: int = 0
    split: dict[str, int] | None = None


@dataclass(frozen=True)
class Overview:
    """What is in a storage folder. Sizes are in bytes, `next` is a command or ""."""

    storage: str
    writable: bool
    bytes: int
    free: int
    data: DataFacts
    steps: Sequence[StepState]
    audited: audit.Audit | None  # the last audit of the records that are there
    runs: Sequence[TrainedRun]
    ledger: Opened
    leftovers: Sequence[Leftover]
    studies: dict[str, str]  # step -> name and hash of the study file that last ran it
    next: str

    def as_json(self) -> dict[str, Any]:
        """Return it for programs, with the size of each step's folder."""
        return asdict(self) | {
            "leftovers": [{**asdict(one), "path": str(one.path)} for one in self.leftovers],
            "audited": self.audited and {**self.audited.counts, "faults": self.audited.n_faults},
        }


def of_storage(store: Path, root: Path, writable: bool) -> Overview:
    """Return what is in a storage folder. Nothing in it is changed."""
    prompt = files.read_text(root / "run_files" / "system_prompt.txt").strip()
    states = state.of_storage(store, prompt)
    return Overview(
        storage=str(store),
        writable=writable,
        bytes=state.folder_bytes(store),
        free=shutil.disk_usage(store).free,
        data=_data(store),
        steps=states,
        audited=audit.kept(store),
        runs=runs.of_storage(store),
        ledger=runs.opened(store),
        leftovers=leftovers.of_storage(store),
        studies=_studies(store, states),
        next=next_step.command(store, states, root),
    )


def _data(store: Path) -> DataFacts:
    manifest = manifests.read_any(files.linked_place(store / "subjects"))
    if damaged_parts(manifest):  # nothing converted, or the manifest is damaged
        return DataFacts()
    source = cast(SubjectsManifest, manifest)["source"]
    return DataFacts(
        line=data_line(source),
        kind=source["kind"],
        version=source["version"],
        folder=source["folder"],
        folder_is_there=os.path.isdir(source["folder"]),  # also where a colleague may not look
        patients=source["patients"],
        split=manifest["split"],
    )


def _studies(store: Path, states: Sequence[StepState]) -> dict[str, str]:
    found = {}
    for one in states:
        study = (manifests.read(files.linked_place(store / one.step)) or {}).get("study")
        if isinstance(study, dict):
            found[one.step] = f"{study.get('file')} {str(study.get('sha256'))[:12]}"
    return found


# ---------------------------------------------------------------- for a terminal


def lines(found: Overview) -> list[str]:
    """Return the overview as lines for the terminal, folded to its width."""
    told = [*_head(found), "", text_tables.text_table([_step(one) for one in found.steps])]
    whys = [one.why for one in found.steps if one.why and one.number < 6]
    for why in dict.fromkeys(whys):
        told.append(f"{', '.join(one.step for one in found.steps if one.why == why)}: {why}")
    told += _audited(found)
    if found.runs:
        told.append(text_tables.text_table([_trained(one) for one in found.runs], "Adapters"))
    told += [*_old_exports(Path(found.storage)), "", *_ledger(found.ledger)]
    if found.studies:
        named = sorted({*found.studies.values()})
        told.append(f"Study: {', '.join(named)} (last in {', '.join(found.studies)})")
    if found.leftovers:
        n, total = len(found.leftovers), sum(one.bytes for one in found.leftovers)
        told.append(f"Leftovers: {n:,}, {size(total)} (--clean lists and removes them)")
    return [terminal.fitted(line, terminal.width()) for line in told] + ["", *_next(found)]


def _head(found: Overview) -> list[str]:
    free = f"{size(found.free)} free on its disk"
    if found.free < _FULL:
        free = f"its disk is FULL: {size(found.free)} free"
    told = [f"Storage: {found.storage}, {size(found.bytes)}; {free}"]
    if not found.writable:
        told.append("It is read-only for you: no step can write there")
    data = found.data
    if not data.line:
        return [*told, "Data: none converted yet"]
    split = ", ".join(f"{n:,} {name}" for name, n in (data.split or {}).items())
    told.append(f"{data.line} ({split})")
    if not data.folder_is_there:
        told.append(f"{data.folder} is not there any more, or not for you: only step 1 needs it")
    return told


def _step(one: StepState) -> Row:
    return {
        "step": str(one.number),
        "folder": one.step,
        "state": one.state,
        "finished": one.finished[:16].replace("T", " "),
        "size": size(one.bytes) if one.bytes else "",
        "what": one.why if one.number > 5 else "",
    }


def _audited(found: Overview) -> list[str]:
    """Return the line that says whether the records were held against the chart."""
    if found.audited:
        n = found.audited.n_faults
        return [f"Audit of prompts: {found.audited.in_words}, {n:,} fault{'s' * (n != 1)}"]
    if any(one.step == "prompts" and one.holds_for_later for one in found.steps):
        return ["Audit of prompts: none yet (step 4 with --audit)"]
    return []


def _trained(one: TrainedRun) -> Row:
    return {
        "run": one.run,
        "seed": "" if one.seed is None else str(one.seed),
        "base loss": one.base_loss,
        "loss": one.loss,
        "bits a byte": one.bits_per_byte,
        "steps": one.steps,
        "recipe": one.recipe,
        "looks": one.looks,
        "opened": one.openings,
        "memorisation": one.memorisation.removesuffix(" for memorisation"),
        "model": one.model.rpartition("/")[2],
    }


def _old_exports(store: Path) -> list[str]:
    """Return a line for each merged model of an adapter that was trained again since, or is gone.

    Other programs load it without these steps, which would notice.
    """
    told = []
    for place in sorted((store / "exports").glob("[!.]*")):
        adapter = f"adapters/{place.name}"
        was = ((manifests.read(place) or {}).get("inputs") or {}).get(adapter)
        if was and was != (manifests.read(files.linked_place(store / adapter)) or {}).get("id"):
            told.append(f"exports/{place.name}: of another {adapter} than is there now")
    return told


def _ledger(of: Opened) -> list[str]:
    if of.fault:
        return [f"Ledger: {of.fault}"]
    plan = f"plan {of.plan[:12]} frozen" if of.plan else "no plan frozen"
    opened = f"opened {_times(of.openings)}" if of.openings else "never opened"
    looks = f"{of.looks:,} look{'s' * (of.looks != 1)} at validation patients"
    told = [f"Ledger: {plan}, {looks}, test patients {opened}"]
    if of.asked:
        told.append(f"Step 6 asked an adapter about {of.asked:,} of the test patients (qa/)")
    if of.stopped:
        told.append(
            f"Step 6 has {of.stopped:,} --batch without an end that an adapter answered: about "
            "whom is known once the same command has gone on"
        )
    if of.last_results:
        told.append(f"Newest results: {of.last_results}")
    return told


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n:,} times"


def _next(found: Overview) -> list[str]:
    if not found.next and any(one.state == UNREADABLE for one in found.steps):
        return ["Next: let what cannot be read be read again, and look once more"]
    if not found.next:
        return ["Next: wait for the step that runs"]
    before = ", when there is room" if found.free < _FULL else ""
    before += "" if found.writable else ", where you can write"
    if found.studies and any(one.is_to_do for one in found.steps):
        before += ", or the same run_all.py command, which goes on"
    return [f"Next{before}:", terminal.pasteable(found.next)]


# ---------------------------------------------------------------- cleaning


def clean(found: Sequence[Leftover], ask: Callable[[str], bool]) -> str:
    """Remove the leftovers of each kind that `ask` agrees to. Returns what was removed.

    Raises UserError, which names them, where some of these stay.
    """
    removed, freed, faults = 0, 0, []
    for kind in dict.fromkeys(one.kind for one in found):
        of_kind = [one for one in found if one.kind == kind]
        parent = Path(os.path.commonpath([one.path.parent for one in of_kind]))
        names = {one: str(one.path.relative_to(parent)) for one in of_kind}
        rows: list[Row] = [
            {"name": names[one], "size": size(one.bytes), "age": age(one.age)} for one in of_kind
        ]
        print(text_tables.text_table(rows, f"\n{kind[0].upper()}{kind[1:]}, in {parent}"))
        for note in dict.fromkeys(one.note for one in of_kind if one.note):
            lost = ", ".join(names[one] for one in of_kind if one.note == note)
            print(f"Lost with {lost}: {note}")
        total = sum(one.bytes for one in of_kind)
        what = "it" if len(of_kind) == 1 else f"these {len(of_kind)}"
        if not ask(f"Remove {what} ({size(total)})? [y/N] "):
            continue
        for one in of_kind:
            try:
                leftovers.remove(one)
                removed, freed = removed + 1, freed + one.bytes
            except UserError as error:
                faults.append(str(error))
    told = f"Removed {removed:,} of {len(found):,}, {size(freed)}"
    if faults:
        print(told)
        raise UserError("\n".join(faults))
    return told


def age(seconds: float) -> str:
    """Return an age as people read it: "3 days"."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            n = int(seconds // length)
            return f"{n:,} {unit}{'s' * (n != 1)}"
    return "now"
