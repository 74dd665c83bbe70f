"""Two controls of the audit: an adapter that must be found, and membership that is shuffled.

The first is trained by the adapter's own recipe, but twenty epochs on fifty patients: one that was
not told from the others would show that the audit is blind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimic_qlora.llm import finding, loading
from mimic_qlora.privacy import audit, membership
from mimic_qlora.privacy.audit import Found, How, Settings
from mimic_qlora.privacy.cohort import MEMBER
from mimic_qlora.privacy.limits import Frozen
from mimic_qlora.privacy.rule import EXCEEDED
from mimic_qlora.step import files
from mimic_qlora.training import data, loop
from mimic_qlora.training.encoding import new_lines
from mimic_qlora.training.memorisation import audited
from mimic_qlora.training.settings import TrainSettings

if TYPE_CHECKING:
    from mimic_qlora.qa.session import Session

PATIENTS, EPOCHS = 50, 20
CALLED = (0.02, 0.09)  # share of shuffles that 5% may call

FAILED = "controls not passed: this audit shows nothing"


@dataclass(frozen=True)
class Controls:
    """What the controls found; `called` is the share of shuffles called at 5%."""

    positive: Found
    called: float

    @property
    def are_passed(self) -> bool:
        """Return whether the audit finds what is there, and nothing where nothing is."""
        found = self.positive.decision.verdict == EXCEEDED
        return found and CALLED[0] <= self.called <= CALLED[1]

    def lines(self) -> list[str]:
        """Return the controls in words."""
        part, attack = self.positive.worst
        area = self.positive.separations[part, attack].auc
        n = self.positive.n(MEMBER)
        what = "is found" if self.positive.decision.verdict == EXCEEDED else "is not found"
        passed = "Controls passed" if self.are_passed else FAILED.capitalize()
        return [
            f"An adapter trained {EPOCHS} epochs on {n} patients {what}: "
            f"{membership.name_of(part, attack)}, AUC {area.value:.2f} ({area.low:.2f} to "
            f"{area.high:.2f}).",
            f"Membership shuffled {membership.SHUFFLED} times is called at 5% in {self.called:.1%} "
            f"of them ({CALLED[0]:.0%} to {CALLED[1]:.0%} is right). {passed}.",
        ]


def run(
    opened: "Session",
    found: Found,
    manifest: Mapping[str, Any],
    settings: Settings,
    frozen: Frozen,
) -> Controls:
    """Train the adapter that must be found, unless it is there, and audit it the same way."""
    members = found.cohort.of(MEMBER)[:PATIENTS]
    adapter = _trained(opened, manifest, {patient.subject_id for patient in members})
    chosen = [p for p in found.cohort.patients if p.side != MEMBER] + members
    compared = replace(found.cohort, patients=tuple(chosen), chosen_by_all=False)
    name = f"{found.run}, control"
    how = How(settings, frozen, loading.weights_sha256(adapter), anew=False)
    positive = audit.of_adapter(opened, adapter, name, compared, how)
    part, attack = found.worst
    return Controls(positive, membership.shuffled(found.table, part, attack, settings.seed))


def _trained(opened: "Session", manifest: Mapping[str, Any], patients: set[int]) -> Path:
    """Return the folder of the control's adapter."""
    settings = _settings(manifest)
    wanted = data.Wanted(
        opened.store, opened.path, opened.tokenizer, settings.max_length, settings.limit
    )
    samples = data.read_samples(wanted)
    few = {**samples, "train": [s for s in samples["train"] if s.patient in patients]}
    of = [manifest["inputs"]["prompts"], sorted(patients), finding.fingerprint(opened.path)]
    name = files.digest([settings.identity(), *of])
    files.private_folder(opened.store / "privacy")
    work = files.private_folder(opened.store / "privacy" / f"{audited.CONTROL}{name}")
    marked = new_lines.mark(few, opened.tokenizer)
    done = loop.train(settings, opened.path, finding.model_name(opened.path), marked, work, 10.0)
    return work / f"checkpoint-{done.state.best_global_step}"


def _settings(manifest: Mapping[str, Any]) -> TrainSettings:
    """Return the adapter's own settings, but trained long, without a choice of checkpoints."""
    known = {field.name for field in fields(TrainSettings)}
    own = {k: v for k, v in manifest["settings"].items() if k in known}
    long = {"epochs": EPOCHS, "max_steps": None, "validations": 1, "patience": 0}
    return TrainSettings(**{**own, **long})
