"""Skill: which targets the models predict at all, out of fold and on the test patients."""

from typing import NamedTuple

import numpy as np

from mimic_qlora.features import auroc, boosting
from mimic_qlora.features.boosting import Study
from mimic_qlora.features.cohort import Target
from mimic_qlora.features.matrix import MIN_PATIENTS, ROWS, Features, in_split

MIN_AUROC = 0.55  # out of fold: a target below it has no skill
UNDEFINED = "AUROC undefined: the test patients are all with or all without it"
UNTOLD = "no skill told: patients held out are all with or all without it"


class HeldOut(NamedTuple):
    """The out-of-fold performance of one target.

    auroc, baseline: of all features, and of row counts alone. low, high: 95% interval of their
    difference. All four are None where the AUROC is undefined.
    """

    auroc: float | None
    baseline: float | None
    low: float | None
    high: float | None
    skill: bool


class TargetMetrics(NamedTuple):
    """One row of metrics.csv: a target's figures on test patients, then its out-of-fold skill.

    Fields ending in _share are parts of 1, _low and _high ends of 95% intervals; None where a
    figure is undefined. auroc_rows: of row counts alone. auroc_without_least: without the columns
    proven free to go, and `change` its difference to `auroc`.
    """

    target: str
    label: str
    train_patients: int
    train_share: float
    test_patients: int
    test_with: int
    test_share: float | None = None
    auroc: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    auroc_rows: float | None = None
    auroc_without_least: float | None = None
    change: float | None = None
    average_precision: float | None = None
    ap_low: float | None = None
    ap_high: float | None = None
    brier: float | None = None
    predicted_share: float | None = None
    calibration_slope: float | None = None
    held_out_auroc: float | None = None
    held_out_auroc_rows: float | None = None
    beyond_rows_low: float | None = None
    beyond_rows_high: float | None = None
    skill: bool = False
    note: str = ""


class WithoutLeast(NamedTuple):
    """The effect of dropping the columns proven free to go, on test patients.

    columns: dropped. features_left: of the matrix. targets: with skill and a defined AUROC.
    auroc_change: mean over them, None without any. low, high: its 95% bootstrap interval, None
    with too few patients.
    """

    columns: int
    features_left: int
    test_patients: int
    targets: int
    auroc_change: float | None = None
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, int | float | None]:
        """Return the fields as metrics.json has them, without the change where there is none."""
        fields = self._asdict()
        if self.auroc_change is None:
            return {name: fields[name] for name in self._fields[:4]}
        return fields


class RiskTenth(NamedTuple):
    """A tenth of all predictions (pairs of patient and target), by predicted risk.

    predicted_share: mean predicted risk. observed_share: share with the target.
    """

    predictions: int
    predicted_share: float
    observed_share: float


def row_counts(built: Features) -> np.ndarray:
    """Return the features that count rows, float32 [patients, n]: how much was recorded."""
    is_count = [feature.statistic == ROWS for feature in built.features]
    return np.ascontiguousarray(built.matrix[:, is_count])


def folds_of(target: Target, scores: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return the folds of patients at risk of the target who have a score, -1 for the others.

    scores: float [patients], nan without a model. fold: int [patients].
    """
    return np.where(target.who & np.isfinite(scores), fold, -1)


def held_out(study: Study, targets: list[Target]) -> tuple[np.ndarray, list[HeldOut]]:
    """Return out-of-fold scores, float [targets, patients], and each target's performance.

    A target with skill has an AUROC of at least MIN_AUROC. The 95% interval of its advantage over a
    model of row counts alone, paired by patient, lies above 0.
    """
    scores = boosting.out_of_fold(study, study.built.matrix, targets, "all columns")
    counts = row_counts(study.built)
    of_counts = boosting.out_of_fold(study, counts, targets, "row counts alone")
    found = []
    for target, full, few in zip(targets, scores, of_counts, strict=True):
        own = folds_of(target, full, study.fold)
        area, moves = auroc.within_folds(target.y, full, own)
        baseline, other = auroc.within_folds(target.y, few, own)
        if not np.isfinite(area):
            found.append(HeldOut(None, None, None, None, False))
            continue
        low, high = auroc.bounds(area - baseline, moves - other)
        found.append(HeldOut(area, baseline, low, high, area >= MIN_AUROC and low > 0))
    return scores, found


class Scores(NamedTuple):
    """Scores of the test patients: float [targets, test patients], or [patients] of one target.

    full: of all features. without: without the columns proven free to go. rows: of row counts.
    """

    full: np.ndarray
    without: np.ndarray
    rows: np.ndarray


def on_test(
    study: Study, targets: list[Target], held: list[HeldOut], proven: set[str], seeds: int
) -> tuple[list[TargetMetrics], WithoutLeast]:
    """Return each target's metrics, and the effect of dropping the `proven` columns.

    Test patients are scored here and nowhere else.
    """
    built = study.built
    kept = [i for i, feature in enumerate(built.features) if feature.column not in proven]
    scores = Scores(
        boosting.test_scores(study, built.matrix, targets, seeds, "test, all columns"),
        boosting.test_scores(
            study, built.matrix[:, kept], targets, seeds, "test, without what may go"
        ),
        boosting.test_scores(study, row_counts(built), targets, seeds, "test, row counts alone"),
    )
    n_test = int(in_split(study.people, "test").sum())
    draws = auroc.bootstrap_draws(n_test, seed=0)
    rows, changes, drawn_changes = [], [], []
    for t, target in enumerate(targets):
        own = Scores(scores.full[t], scores.without[t], scores.rows[t])
        row, drawn = _metrics(study, target, own, held[t], draws)
        rows.append(row)
        if row.change is not None and held[t].skill:
            changes.append(row.change)
            drawn_changes.append(drawn)
    effect = WithoutLeast(len(proven), len(kept), n_test, len(changes))
    if changes:
        low, high = auroc.interval(auroc.defined_mean(np.array(drawn_changes), 0))
        effect = effect._replace(auroc_change=float(np.mean(changes)), low=low, high=high)
    return rows, effect


def _metrics(
    study: Study, target: Target, scores: Scores, held: HeldOut, draws: np.ndarray
) -> tuple[TargetMetrics, np.ndarray]:
    """Return one target's metrics, and its change of AUROC in each bootstrap draw, float [draws].

    scores: of this target. draws: int [draws, test patients].
    """
    train, test = in_split(study.people, "train"), in_split(study.people, "test")
    at_risk = target.who[test]
    y, draws = target.y[test][at_risk], draws[:, at_risk]
    full, without, rows = scores.full[at_risk], scores.without[at_risk], scores.rows[at_risk]
    n_with, n_train = int(y.sum()), int(target.who[train].sum())
    is_defined = 0 < n_with < len(y)
    notes = [] if is_defined else [UNDEFINED]
    notes += [UNTOLD] if held.auroc is None else []
    row = TargetMetrics(
        target=target.name,
        label=target.label,
        train_patients=n_train,
        train_share=float(target.y[train].sum() / n_train),
        test_patients=len(y),
        test_with=n_with,
        test_share=float(y.mean()) if len(y) else None,
        average_precision=auroc.average_precision(y, full) if n_with else None,
        held_out_auroc=held.auroc,
        held_out_auroc_rows=held.baseline,
        beyond_rows_low=held.low,
        beyond_rows_high=held.high,
        skill=held.skill,
        note="; ".join(notes),
    )
    if not is_defined:
        return row, np.empty(0)
    area, area_without = auroc.auroc(y, full), auroc.auroc(y, without)
    row = row._replace(
        auroc=area,
        auroc_rows=auroc.auroc(y, rows),
        auroc_without_least=area_without,
        change=area_without - area,
    )
    drawn = auroc.auroc_of_draws(y, full, draws)
    if min(n_with, len(y) - n_with) >= MIN_PATIENTS:
        row = _with_intervals(row, y, full, drawn, draws)
    return row, auroc.auroc_of_draws(y, without, draws) - drawn


def _with_intervals(
    row: TargetMetrics, y: np.ndarray, scores: np.ndarray, areas: np.ndarray, draws: np.ndarray
) -> TargetMetrics:
    """Return the row with intervals and calibration, which fewer patients do not allow.

    y, scores: [test patients at risk]. areas: AUROC of each draw, float [draws].
    """
    low, high = auroc.interval(areas)
    ap_low, ap_high = auroc.interval(auroc.average_precision_of_draws(y, scores, draws))
    fit = auroc.calibration(y, scores)
    return row._replace(
        auroc_low=low,
        auroc_high=high,
        ap_low=ap_low,
        ap_high=ap_high,
        brier=fit.brier,
        predicted_share=fit.predicted_share,
        calibration_slope=fit.slope,
    )


def reliability(targets: list[Target], scores: np.ndarray) -> list[RiskTenth]:
    """Return predicted and observed risk by tenths of predicted risk, over all targets together.

    scores: out of fold, float [targets, patients]. The tenths equal those of scikit-learn's
    `calibration_curve` (strategy "quantile") where no risks are tied, at 1.4 times less CPU or
    better (benchmarks/metrics.py). It gives no counts, and merges tenths that share a tied risk.
    """
    if not targets:
        return []
    risks, outcomes = [], []
    for target, own in zip(targets, scores, strict=True):
        is_scored = target.who & np.isfinite(own)
        risks.append(own[is_scored])
        outcomes.append(target.y[is_scored])
    risk, outcome = np.concatenate(risks), np.concatenate(outcomes)
    order = np.argsort(risk, kind="stable")
    return [
        RiskTenth(len(part), float(risk[part].mean()), float(outcome[part].mean()))
        for part in np.array_split(order, 10)
        if len(part)
    ]
