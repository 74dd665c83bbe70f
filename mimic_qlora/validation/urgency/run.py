"""One urgency run of step 7: draw visits, ask all arms, measure, and say what may be claimed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mimic_qlora.features import auroc
from mimic_qlora.processes import entries
from mimic_qlora.qa import session
from mimic_qlora.qa.session import Session
from mimic_qlora.tasks.urgency import visits
from mimic_qlora.validation.run import Machine
from mimic_qlora.validation.settings import Run, Settings
from mimic_qlora.validation.urgency import claims, gather, simple, tables
from mimic_qlora.validation.urgency.asked import Part
from mimic_qlora.validation.urgency.gather import Training
from mimic_qlora.validation.urgency.report import Found
from mimic_qlora.validation.urgency.study import PRIMARY, SECONDARY, Split, Visits
from mimic_qlora.validation.urgency.tables import ADAPTER, BASE, Measured, Table

VALIDATION, TEST = "validation", "test"


class Ready(NamedTuple):
    """What is asked in a run, and the simple models beside the arms."""

    samples: Sequence[gather.Sample]
    training: Training


def prepare(opened: Session, settings: Settings) -> Ready:
    """Draw visits of validation patients, of test patients too by the frozen plan.

    Raises UserError for all that cannot be asked: nothing has been opened then.
    """
    every = visits.read(opened.store)
    training = gather.train(opened, every, settings.seed)
    names = (VALIDATION, TEST) if settings.is_final else (VALIDATION,)
    return Ready([gather.sample(opened, settings, every, name) for name in names], training)


def find(run: Run, machine: Machine, ready: Ready) -> Found:
    """Ask the visits, and measure."""
    entries.begin(machine.journal.path, machine.identity, machine.anew)
    splits = [gather.ask(run, machine, one, ready.training) for one in ready.samples]
    asked = Visits(splits, run.settings.seed)
    said = list(gather.reasons(run, machine, asked))
    entries.gather(machine.journal.path)
    return conclude(run, asked, ready.training, said)


def chosen(first: Split, training: Training) -> str | None:
    """Return the simple model with the larger AUROC on validation patients, None without any."""
    positive = np.array([one.visit.level in PRIMARY for one in first.shown], dtype=bool)
    models = training.models[PRIMARY]
    if not models:
        return None
    areas = {name: auroc.auroc(positive, first.scores(PRIMARY, name, Part.ALL)) for name in models}
    return simple.better({name: -1.0 if np.isnan(area) else area for name, area in areas.items()})


def may_claim(run: Run) -> bool:
    """Return whether what is shown is claimed: of test patients, with nothing built in."""
    return run.settings.is_final and not session.trial_only(run.session)


def conclude(
    run: Run, asked: Visits, training: Training, reasons: Sequence[gather.Reasons]
) -> Found:
    """Measure everything, apply the order of the claims, and make the tables."""
    best = chosen(asked.splits[0], training)
    further = [arm.name for arm in gather.answering(run) if arm.is_further_run]
    models = list(training.models[PRIMARY])
    arms = [ADAPTER, BASE, *further, *models]
    primary = tables.measure(asked, PRIMARY, [*arms, *training.earlier])
    made: Sequence[claims.Claim] = ()
    told: list[Table] = []
    if primary:
        shown = Measured(
            primary.study, {k: v for k, v in primary.found.items() if k not in training.earlier}
        )
        told.append(tables.performance(shown, "performance", *tables.FIRST))
        if best:
            made = claims.in_order(primary.study, primary.found, ADAPTER, claims.order(best, BASE))
            told.append(tables.claimed(made, may_claim(run)))
    both = [arm for arm in arms if arm not in models or training.models[SECONDARY]]
    if second := tables.measure(asked, SECONDARY, both):
        told.append(tables.performance(second, "secondary", *tables.SECOND, exact=False))
    told += [tables.undertriaged(asked, [ADAPTER, BASE]), tables.analyses(asked, best)]
    calibration, calibrations = tables.calibrated(asked, [ADAPTER, BASE, *models])
    told.append(calibration)
    if controls := tables.controls(asked, [ADAPTER, *models]):
        told.append(controls)
    told.append(tables.swapped(asked, [ADAPTER, *models]))
    if primary:
        told.append(tables.by_group(asked, primary))
        told.append(tables.over_time(asked, primary, [ADAPTER, BASE, *models, *training.earlier]))
    kept = [table for table in told if table.rows]
    return Found(asked, training, best, primary, made, may_claim(run), kept, calibrations, reasons)
