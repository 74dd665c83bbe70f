"""The tables of an urgency run: performance, claims, undertriage, analyses, controls, groups."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mimic_qlora.display.cells import Cell
from mimic_qlora.mimic import races
from mimic_qlora.summary import disclosure
from mimic_qlora.summary.table1 import OTHER_TEXT, PUBLISHED
from mimic_qlora.tasks.urgency.visits import Visit
from mimic_qlora.validation.trial_results import age_band
from mimic_qlora.validation.urgency import claims, endpoint, population, undertriage
from mimic_qlora.validation.urgency.asked import Part
from mimic_qlora.validation.urgency.claims import CLAIMED, Claim, Gain
from mimic_qlora.validation.urgency.endpoint import NURSE, Bools, Floats, Performance, Study
from mimic_qlora.validation.urgency.study import ANALYSES, PRIMARY, Treat, Visits
from mimic_qlora.validation.urgency.undertriage import LEFT, RETURNED

ADAPTER, BASE = "adapter", "base"
SEEN = "seen, not claimed"
MIN_CELL = 10  # visits: smaller cells of groups are hidden
Row = dict[str, Cell]


class Table(NamedTuple):
    """A table of the page: the name of its CSV file, its title, what it rests on, its rows."""

    name: str
    title: str
    note: str
    rows: Sequence[Row]


def percent(value: float | None) -> str:
    """Return a share as a percentage, "" where there is none."""
    return "" if value is None or math.isnan(value) else f"{value:.1%}"


def between(low: float, high: float) -> str:
    """Return an interval of shares."""
    return "" if math.isnan(low) else f"{low:.1%} to {high:.1%}"


def of_gain(by: Gain) -> str:
    """Return a difference of two shares, in points, with its interval."""
    low, value, high = (f"{100 * x:+.1f}" for x in (by.low, by.value, by.high))
    return f"{value} ({low} to {high})"


# ---------------------------------------------------------------- performance and claims


class Measured(NamedTuple):
    """A study and the performance of each arm in it, by name."""

    study: Study
    found: Mapping[str, Performance]


def measure(
    visits: Visits,
    target: frozenset[str],
    arms: Sequence[str],
    treat: Treat | None = None,
    keep: Bools | None = None,
) -> Measured | None:
    """Measure arms and nurse on a target; None where there is too little to set a threshold on."""
    study = visits.study(target, treat or ANALYSES[next(iter(ANALYSES))], keep)
    if not endpoint.is_measurable(study):
        return None
    scores = {arm: visits.scores(target, arm) for arm in arms}
    return Measured(study, endpoint.measure(study, scores, visits.seed))


def performance(of: Measured, name: str, title: str, note: str, exact: bool = True) -> Table:
    """Return how each arm and the nurse did; `exact` where visits of a side weigh the same."""
    rows: list[Row] = []
    study, here = of.study, of.study.held
    for arm, one in of.found.items():
        row: Row = {"": arm}
        for what, part in (("found", study.positive), ("spared", ~study.positive)):
            n = int((here & part).sum())
            hits = int((one.called == (what == "found"))[here & part].sum())
            row[what] = f"{hits:,} of {n:,}"
            place = 0 if what == "found" else 1
            row[one.at._fields[place]] = percent(float(one.at[place][0]))
            if exact:
                low, high = claims.share(hits, n, one.drawn[place])
                row[f"95% of {one.at._fields[place]}"] = between(low, high)
        row["AUROC"] = one.area
        rows.append(row)
    return Table(name, title, note, rows)


def outcome(claim: Claim, may_claim: bool) -> str:
    """Return what became of a claim, in words."""
    return SEEN if claim.outcome == CLAIMED and not may_claim else claim.outcome


def claimed(made: Sequence[Claim], may_claim: bool) -> Table:
    """Return the claims in their order."""
    rows: list[Row] = [
        {
            "the adapter finds more than": claim.than,
            "difference in points (95%)": of_gain(claim.gain),
            "found by it alone": claim.gain.gained,
            "by the other alone": claim.gain.lost,
            "p": round(claim.gain.p, 4),
            "outcome": outcome(claim, may_claim),
        }
        for claim in made
    ]
    return Table("claims", "Claims in their order", CLAIMS_NOTE, rows)


CLAIMS_NOTE = (
    "Sensitivity at the nurse's specificity. Each is tested at 5%, and only where the one before "
    "holds. p is the larger of a bootstrap's, with threshold and nurse in it, and McNemar's."
)


# ---------------------------------------------------------------- undertriage and analyses


def undertriaged(visits: Visits, arms: Sequence[str]) -> Table:
    """Return how many of those who must not wait were called "could wait"."""
    groups = {"A": ("A",), RETURNED: (RETURNED,), "LWBS, eloped or AMA": LEFT}
    rows: list[Row] = []
    for label, among in groups.items():
        for arm in (*arms, NURSE):
            found = _undertriage(visits, arm, among)
            rows.append(
                {
                    "level": label,
                    "by": "nurse (level 4 or 5)" if arm == NURSE else arm,
                    "called D": f"{found.called:,} of {found.n:,}",
                    "rate": percent(found.rate),
                    "at most": percent(found.most) if found.n else "",
                }
            )
    return Table("undertriage", "Called D, and must not wait", UNDERTRIAGE_NOTE, rows)


UNDERTRIAGE_NOTE = (
    "An arm calls D where it finds D the most probable of the four levels. At most: exact 97.5% "
    "bound over patients (Clopper and Pearson). D-returned counts as undertriage; so do LWBS, "
    "eloped and AMA, except where an analysis takes them as D or as lost."
)


def _undertriage(visits: Visits, arm: str, among: Sequence[str]) -> undertriage.Undertriage:
    here = visits.asked
    if arm == NURSE:
        waits = np.array([(visit.acuity or 0) >= 4 for visit in visits.every], dtype=bool)
    else:
        waits = undertriage.waits(visits.said(arm))
    patient = np.array([visit.subject_id for visit in visits.every], dtype=np.int64)
    level = [visit.level for visit, asked in zip(visits.every, here, strict=True) if asked]
    return undertriage.of(patient[here], level, waits[here], among)


def analyses(visits: Visits, best: str | None) -> Table:
    """Return the primary analysis beside those that treat the levels of their own otherwise."""
    rows: list[Row] = []
    for name, treat in ANALYSES.items():
        arms = [ADAPTER, BASE, *([best] if best else [])]
        of = measure(visits, PRIMARY, arms, treat)
        if of is None:
            continue
        others = [*([best] if best else []), BASE, NURSE]
        levels = visits.levels(treat)
        own = [level for level in (RETURNED, *LEFT) if level in set(map(treat, (RETURNED, *LEFT)))]
        bound = _undertriage(visits, ADAPTER, ["A", *own])
        row: Row = {
            "analysis": name,
            "visits": int(of.study.held.sum()),
            "sensitivity": percent(float(of.found[ADAPTER].at.sensitivity[0])),
        }
        for other in others:
            by = claims.gain(of.study, of.found[ADAPTER], of.found[other])
            row[f"minus {other}, points"] = of_gain(by)
        row["called D"] = f"{bound.called} of {bound.n}, at most {percent(bound.most)}"
        row["kappa"] = _kappa(visits, ADAPTER, levels)
        rows.append(row)
    note = (
        "The adapter at the nurse's specificity. In the primary analysis D-returned, LWBS, eloped "
        "and AMA are levels of their own; left early are the last three. Called D: of A and of "
        "each level of its own that is kept, in the mix drawn. Described, not tested."
    )
    return Table("analyses", "The levels of their own, treated otherwise", note, rows)


# ---------------------------------------------------------------- the population


def _kappa(visits: Visits, arm: str, levels: Sequence[str | None]) -> float | None:
    here, said = visits.asked.tolist(), visits.said(arm)
    own = [said for said, asked in zip(said, here, strict=True) if asked]
    told = [level or "" for level, asked in zip(levels, here, strict=True) if asked]
    return population.kappa(own, told, visits.weight[visits.asked])


def calibrated(
    visits: Visits, arms: Sequence[str]
) -> tuple[Table, dict[str, population.Calibration]]:
    """Return calibration and kappa of each arm in the population, and the calibrations."""
    here = visits.asked
    positive = np.array([visit.level in PRIMARY for visit in visits.every], dtype=bool)[here]
    rows: list[Row] = []
    found = {}
    for arm in arms:
        one = population.calibration(
            visits.scores(PRIMARY, arm)[here], positive, visits.weight[here]
        )
        found[arm] = one
        has_levels = (arm, Part.ALL) in visits.splits[-1].said
        rows.append(
            {
                "": arm,
                "predicted": percent(one.predicted),
                "observed": percent(one.observed),
                "Brier score": one.brier,
                "slope": one.slope,
                "intercept": one.intercept,
                "kappa of levels": _kappa(visits, arm, visits.levels()) if has_levels else None,
            }
        )
    note = (
        "Probability of A against A, reweighted from the visits drawn to all visits of the primary "
        "set. Slope and intercept are 1 and 0 when calibrated; kappa is quadratic, over A to D."
    )
    return Table("calibration", "Calibration and agreement in the population", note, rows), found


# ---------------------------------------------------------------- controls


def controls(visits: Visits, arms: Sequence[str]) -> Table | None:
    """Return the performance of each arm with a part of the prompt taken away."""
    study = visits.study(PRIMARY)
    parts = (Part.ALL, Part.COMPLAINT, Part.CHART, Part.OTHER_CHART)
    scores: dict[str, Floats] = {}
    for arm in arms:
        for part in parts:
            found = visits.scores(PRIMARY, arm, part)
            if not np.isnan(found).any():
                scores[f"{arm}: {part.value}"] = found
    if not endpoint.is_measurable(study):
        return None
    done = endpoint.measure(study, scores, visits.seed)
    rows: list[Row] = []
    for name in scores:
        one, whole = done[name], done[f"{name.partition(': ')[0]}: {Part.ALL.value}"]
        is_whole = one is whole
        rows.append(
            {
                "prompt": name,
                "sensitivity": percent(float(one.at.sensitivity[0])),
                "minus as asked, points": ""
                if is_whole
                else of_gain(claims.gain(study, one, whole)),
                "AUROC": one.area,
                "AUROC minus as asked": "" if is_whole else _areas(one, whole),
            }
        )
    note = (
        "Each prompt has a threshold of its own at the nurse's specificity. The simple models are "
        "those that were fitted to whole prompts. Described, not tested."
    )
    return Table("controls", "Parts of the prompt taken away", note, rows)


def _areas(one: Performance, whole: Performance) -> str:
    assert one.area is not None and whole.area is not None
    assert one.areas is not None and whole.areas is not None
    low, high = np.nanquantile(one.areas - whole.areas, (0.025, 0.975))
    return f"{one.area - whole.area:+.3f} ({low:+.3f} to {high:+.3f})"


def swapped(visits: Visits, arms: Sequence[str]) -> Table:
    """Return what the sex that a prompt states changes where nothing in it is sex-linked."""
    study = visits.study(PRIMARY)
    measurable = endpoint.is_measurable(study)
    rows: list[Row] = []
    for arm in arms:
        asked = visits.scores(PRIMARY, arm)
        other = visits.scores(PRIMARY, arm, Part.OTHER_SEX)
        here = visits.asked & ~np.isnan(other)
        if not here.any():
            continue
        weight = visits.weight[here] / visits.weight[here].sum()
        male = np.array([visit.sex == "M" for visit in visits.every], dtype=bool)
        as_man = np.where(male, asked, other)[here] - np.where(male, other, asked)[here]
        limit = endpoint.limits(study, asked) if measurable else np.full(len(asked), np.nan)
        changed = ((asked > limit) != (other > limit))[here]
        rows.append(
            {
                "": arm,
                "visits": int(here.sum()),
                "mean change": float((weight * np.abs(as_man)).sum()),
                "as a man minus as a woman": f"{float((weight * as_man).sum()):+.4f}",
                "calls that change": percent(float((weight * changed).sum())) if measurable else "",
            }
        )
    note = (
        "Of the probability of A, over visits in which neither complaint nor chart is sex-linked, "
        "reweighted to the population. Described."
    )
    return Table("sex_swapped", "The other sex in the same prompt", note, rows)


# ---------------------------------------------------------------- groups and time


def _language(visit: Visit) -> str:
    word = visit.language.casefold()
    if not word or word == "?":
        return races.NOT_RECORDED
    return "English" if word in ("english", "engl") else "another"


def _insurance(visit: Visit) -> str:
    """Return the insurance; a text that MIMIC-IV does not publish may be one patient's."""
    if not visit.insurance:
        return races.NOT_RECORDED
    return visit.insurance if visit.insurance in PUBLISHED["insurance"] else OTHER_TEXT


GROUPS: dict[str, Callable[[Visit], str]] = {
    "sex": lambda visit: {"F": "female", "M": "male"}.get(visit.sex, races.NOT_RECORDED),
    "race": lambda visit: races.group(visit.race),
    "age": lambda visit: age_band(visit.age),
    "language": _language,
    "insurance": _insurance,
}


def by_group(visits: Visits, of: Measured) -> Table:
    """Return performance within groups; small cells, and those that tell them, are hidden."""
    rows: list[Row] = []
    study, here = of.study, of.study.held
    for heading, value in GROUPS.items():
        names = np.array([value(visit) for visit in visits.every])
        counts = {
            (name, is_positive): int(
                (here & (names == name) & (study.positive == is_positive)).sum()
            )
            for name in sorted(set(names[here].tolist()))
            for is_positive in (True, False)
        }
        sums = [[key for key in counts if key[1] == side] for side in (True, False)]
        hidden = disclosure.hidden_cells(counts, sums, MIN_CELL)
        for name in sorted(set(names[here].tolist())):
            row: Row = {"by": heading, "group": name}
            for is_positive, label in ((True, "emergencies"), (False, "others")):
                key = (name, is_positive)
                row[label] = hidden.get(key, counts[key])
                part = here & (names == name) & (study.positive == is_positive)
                what = "sensitivity" if is_positive else "specificity"
                for arm in (ADAPTER, BASE, NURSE):
                    hits = of.found[arm].called[part] == is_positive
                    shown = (
                        "hidden"
                        if key in hidden
                        else percent(float(hits.mean()))
                        if len(hits)
                        else ""
                    )
                    row[f"{what}, {arm}"] = shown
            rows.append(row)
    note = (
        f"Described, not tested. Cells of fewer than {MIN_CELL} visits are hidden, and one beside "
        "them where a sum would tell it."
    )
    return Table("groups", "By sex, race, age, language and insurance", note, rows)


def over_time(visits: Visits, of: Measured, arms: Sequence[str]) -> Table:
    """Return performance in the latest group of years and in those before.

    Other tables tell the sum of both, so that a small cell hides the one beside it too.
    """
    years = np.array([visit.year_group for visit in visits.every])
    latest = max(years.tolist(), default="")
    study, here = of.study, of.study.held
    parts = {f"latest years ({latest})": years == latest, "before": years != latest}
    rows: list[Row] = [{"patients of": label} for label in parts]
    sides = {"emergencies": study.positive, "others": ~study.positive}
    counts = {
        name: [int((here & part & side).sum()) for part in parts.values()]
        for name, side in sides.items()
    }
    few = {name for name in sides if any(disclosure.is_small(n, MIN_CELL) for n in counts[name])}
    for name in sides:
        for row, n in zip(rows, counts[name], strict=True):
            row[name] = disclosure.HIDDEN if name in few else n
    for arm in (*arms, NURSE):
        for what, name in (("sensitivity", "emergencies"), ("specificity", "others")):
            for row, part in zip(rows, parts.values(), strict=True):
                hits = of.found[arm].called[here & part & sides[name]] == (what == "sensitivity")
                share = percent(float(hits.mean())) if len(hits) else ""
                row[f"{what}, {arm}"] = disclosure.HIDDEN if name in few else share
    return Table("temporal", "The temporal split", TEMPORAL_NOTE, rows)


TEMPORAL_NOTE = (
    "By anchor_year_group of the patient. Thresholds are those of the primary analysis. The "
    "adapter was trained on patients of all years; the models called 'earlier years' were fitted "
    "to training patients of the years before alone."
)

FIRST = (
    "Emergencies told from all other visits",
    "A against all others, at the specificity of the nurse's level 1 or 2 on other patients. Found "
    "and spared are the visits drawn. Intervals: bootstrap over patients, never narrower than the "
    "exact ones.",
)
SECOND = (
    "Secondary: A or B told from all others",
    "By the probability of A or B; shares are reweighted to the population. Described, not tested.",
)
