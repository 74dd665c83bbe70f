"""The audit of one adapter: read, attack, decide."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from mimic_qlora.llm import chat, loading
from mimic_qlora.privacy import cohort, membership, people, planted, reading
from mimic_qlora.privacy.cohort import MEMBER, OTHER, Cohort
from mimic_qlora.privacy.extraction import extract
from mimic_qlora.privacy.extraction.extract import Extracted
from mimic_qlora.privacy.limits import Frozen
from mimic_qlora.privacy.membership import Table
from mimic_qlora.privacy.planted import Planted
from mimic_qlora.privacy.rule import CANNOT_TELL, HELD, Criterion, Decision, decide
from mimic_qlora.privacy.separation import Separation
from mimic_qlora.processes import entries
from mimic_qlora.qa import session
from mimic_qlora.step import files, manifests
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.manifests import Manifest
from mimic_qlora.training import packed_attention
from mimic_qlora.training.memorisation import audited
from mimic_qlora.training.memorisation.canaries import Canary

if TYPE_CHECKING:
    from peft import PeftModel

    from mimic_qlora.qa.session import Session

CHOSEN_BY_ALL = (
    "this adapter's checkpoint was chosen by all validation patients, which hides leakage: train "
    "again, so that half of them choose nothing"
)


@dataclass(frozen=True)
class Settings:
    """The settings of an audit, as its manifest holds them."""

    most: int  # patients of a side
    texts: int  # patients of a side whose charts are continued, and samples without one
    seed: int
    min_cell: int
    limits_sha256: str


@dataclass(frozen=True)
class Found:
    """All that an audit found of one adapter.

    `apart` are the separations without near-duplicates, None where too few patients are left.
    """

    run: str
    cohort: Cohort
    table: Table
    separations: dict[tuple[str, str], Separation]
    apart: dict[tuple[str, str], Separation] | None
    blind: Separation
    criteria: Sequence[Criterion]
    decision: Decision
    tokens: int  # of the charts and answers that were scored, by one arm
    extracted: Extracted
    planted: Planted | None = None  # what it has kept of canaries, where it is an audit run

    @property
    def worst(self) -> tuple[str, str]:
        """The part and the attack that find most."""
        return max(self.separations, key=lambda key: self.separations[key].auc.value)

    def n(self, side: str) -> int:
        """Return the number of patients of a side."""
        return len(self.cohort.of(side))


def _number_type() -> torch.dtype:
    """Return what the model computes in: float32 on a CPU, where few are fast in bfloat16."""
    return loading.compute_dtype(on_cpu=torch.float32)


def say_replaced(store: Path, asked: Manifest) -> None:
    """Say which finished audit of a run an audit takes the place of, if of other settings."""
    found = manifests.read(files.linked_place(store / asked["step"]))
    if found and not manifests.is_same_run(found, asked):
        now = {**asked["settings"], **asked["inputs"]}
        before = {**found["settings"], **found["inputs"]}
        names = [name for name in now if now[name] != before.get(name)] or ["software"]
        print(
            f"note: the audit of {found['finished'][:10]} had another {', '.join(names)}: this one "
            "takes its place at the end, and the ledger keeps its verdict",
            flush=True,
        )


def load(opened: "Session", adapter: Path, weights: str) -> "PeftModel":
    """Load the base once, in 4 bits as in training, and the adapter beside it.

    Raises UserError where its weights have no longer the SHA-256 `weights`: another adapter has
    taken its place, and would be read as this one.
    """
    from tqdm import tqdm

    chat.check_tokenizer(opened.store, opened.path, opened.tokenizer, [adapter.name])
    tqdm.write("Loading the model")
    base = loading.unpacked(loading.load_base(opened.path, dtype=_number_type()))
    packed_attention.use_packed(base)
    model = loading.load_adapter(base, adapter)
    if loading.weights_sha256(adapter) != weights:
        raise UserError(f"{adapter} was replaced meanwhile: the same command audits the new one")
    return model


def cache(opened: "Session", weights: str, name: str, anew: bool) -> Path:
    """Return the file of the readings by this base, adapter, software and device."""
    identity: dict[str, Any] = {**session.identity(opened, ()), "what": "readings"}
    identity["computing"] = str(_number_type())
    identity["adapters"] = {name: weights}
    files.private_folder(opened.store / "privacy")
    folder = files.private_folder(opened.store / "privacy" / audited.READINGS)
    path = folder / f"{files.digest(identity)}.jsonl"
    entries.begin(path, identity, anew)
    return path


class How(NamedTuple):
    """How an adapter is audited; `weights` is its SHA-256, `anew` reads again what is cached."""

    settings: Settings
    frozen: Frozen
    weights: str
    anew: bool
    canaries: Sequence[Canary] = ()


def of_adapter(opened: "Session", adapter: Path, run: str, compared: Cohort, how: How) -> Found:
    """Audit the adapter in a folder on these patients, and on its canaries.

    Raises UserError where another one has taken its place since it was asked for.
    """
    path = cache(opened, how.weights, run, how.anew)
    once: Callable[[], Any] = functools.cache(lambda: load(opened, adapter, how.weights))
    readings = list(reading.of_patients(once, opened.tokenizer, compared.patients, path))
    kept = None
    if how.canaries:
        values = planted.read(once, opened.tokenizer, how.canaries, path)
        kept = planted.conclude(how.canaries, values)
    texts, seed = how.settings.texts, how.settings.seed
    extracted = extract.read(once, opened, compared, path, texts, seed)
    entries.gather(path)
    who = people.read(opened.store, compared.patients)
    of = membership.table(compared.patients, who, readings)
    tokens = sum(part.n for found in readings for parts in found for part in parts.values())
    return replace(conclude(run, compared, of, how, (extracted, kept)), tokens=tokens)


def conclude(
    run: str, compared: Cohort, of: Table, how: How, told: tuple[Extracted, Planted | None]
) -> Found:
    """Measure all attacks and apply the rule."""
    extracted, kept = told
    seed, limits = how.settings.seed, how.frozen.limits
    separations = membership.separations(of, seed=seed)
    single = np.array([p.subject_id not in compared.doubles for p in of.patients])
    few = min(int((of.side(side) & single).sum()) for side in (MEMBER, OTHER)) < cohort.FEWEST
    blind = membership.blind(of, seed)
    criteria = [*membership.criteria(separations, limits), *extracted.criteria(limits)]
    if kept is not None:
        criteria += kept.criteria(limits)
    return Found(
        run=run,
        cohort=compared,
        table=of,
        separations=separations,
        apart=None if few else membership.separations(of, single, seed),
        blind=blind,
        criteria=criteria,
        decision=decided(criteria, blind, compared),
        tokens=0,
        extracted=extracted,
        planted=kept,
    )


def decided(criteria: Sequence[Criterion], blind: Separation, compared: Cohort) -> Decision:
    """Apply the rule, unless the sides differ without the model or leakage may be hidden."""
    void = ""
    if blind.auc.low > 0.5:
        void = (
            f"the sides differ without the model (blind baseline, AUC {blind.auc.value:.2f}), so "
            "that the comparison shows nothing"
        )
    found = decide(criteria, void)
    if found.verdict == HELD and compared.chosen_by_all:
        return Decision(CANNOT_TELL, CHOSEN_BY_ALL, found.adjusted, found.worst)
    return found
