"""The verdict on each column, and the sentences of step 3 on its result."""

from collections import Counter

import pandas as pd

from mimic_qlora.display.text import counted
from mimic_qlora.features import matrix, permutation
from mimic_qlora.features.ablation import MIN_HELD_OUT, Ablation
from mimic_qlora.features.cohort import Target
from mimic_qlora.features.column_roles import reason_for
from mimic_qlora.features.columns_file import ColumnVerdict
from mimic_qlora.features.matrix import Features, in_split
from mimic_qlora.features.permutation import Judged, Units
from mimic_qlora.features.skill import TargetMetrics, WithoutLeast

FEW = 100  # test patients: with fewer, an AUROC says little
MIN_SEEN = 50  # train and validation patients with rows of a table, to call its columns unimportant
VERDICTS = {
    "important": "shown to matter, alone or for its cluster",
    "least": "not shown to matter, and free to go, since refits without it ruled out a loss of "
    "--margin in the mean AUROC of the targets with skill, of three times that in any one of them, "
    "and of 0.05 bits a patient among the few whom it tells of (what serves a target without "
    "skill, or rarer values, is not seen)",
    "unproven": "not shown to matter, but a loss without it is not ruled out",
    "protected": "not shown to matter, but safety rests on it",
    "rows": "a table's row count, no column",
    "unjudged": "too little is known of it",
    "excluded": "never a feature",
}


def weigh(
    built: Features,
    people: pd.DataFrame,
    own: Units,
    judged: Judged | None,
    targets: list[Target],
) -> list[ColumnVerdict]:
    """Return one row per column of the data, the most important first.

    judged: importance of the units `own`, None when no target has skill. targets: those with
    skill. Columns that may go are "unproven" until an ablation has shown that nothing is lost.
    """
    develop = ~in_split(people, "test")
    seen = {
        table: int((rows[develop] > 0).sum())
        for (table, item), rows in built.rows.items()
        if not item
    }
    # With fewer patients, columns are constant or duplicates of others by chance.
    may_be_idle = judged is not None and bool(develop.sum() >= MIN_HELD_OUT)
    place = {column: i for i, column in enumerate(own.columns)}
    kept = representatives(own, judged) if judged else {}
    n_features = Counter(feature.column for feature in built.features)
    rows = []
    for column in sorted({*own.columns, *built.silent, *built.excluded}):
        if column in built.excluded:
            row = ColumnVerdict(column, "excluded", built.excluded[column])
        elif column in built.silent:
            row = _silent(column, built.silent[column], may_be_idle)
        elif judged is None:
            row = ColumnVerdict(
                column, "unjudged", "no target is predicted well enough to judge by"
            )
        else:
            row = _decide(_figures(place[column], own, judged, targets), own, judged, kept)
        rows.append(_restrained(row, seen)._replace(features=n_features[column]))
    return sorted(
        rows,
        key=lambda r: (r.permutation_drop is None, -(r.permutation_drop or 0), r.column),
    )


def _silent(column: str, reason: str, may_be_idle: bool) -> ColumnVerdict:
    """Return the verdict on a column without features: constant or duplicate columns may go."""
    is_idle = may_be_idle and reason not in (matrix.EMPTY, matrix.COUNTLESS)
    return ColumnVerdict(column, "least" if is_idle else "unjudged", reason)


def _restrained(row: ColumnVerdict, seen: dict[str, int]) -> ColumnVerdict:
    """Return the row, but not as free to go when protected or when few patients have its table.

    seen: table -> train and validation patients with rows of it.
    """
    if row.verdict not in ("least", "unproven"):
        return row
    if protected := reason_for("protected", row.column):
        return row._replace(verdict="protected", reason=protected)
    table = row.column.partition(".")[0]
    if seen[table] >= MIN_SEEN:
        return row
    few = f"only {seen[table]} patients have rows of {table}: too few to call it unimportant"
    return row._replace(verdict="unjudged", reason=few)


def _figures(i: int, own: Units, judged: Judged, targets: list[Target]) -> ColumnVerdict:
    """Return the figures of column i, still "unjudged"."""
    cluster = next((unit for unit, members in own.members.items() if i in members), None)
    members = [] if cluster is None else own.members[cluster].tolist()
    return ColumnVerdict(
        column=own.columns[i],
        verdict="unjudged",
        reason="",
        permutation_drop=float(judged.drop[i]),
        drop_low=float(judged.low[i]),
        drop_high=float(judged.high[i]),
        drop_sd=float(judged.spread[i]),
        selected_share=float(judged.selected[i]),
        best_drop=float(judged.best[i]),
        best_target=targets[judged.best_target[i]].name if judged.best[i] > 0 else "",
        gain_share=float(judged.gain[i]),
        cluster=" + ".join(own.columns[c] for c in members),
        cluster_drop=None if cluster is None else float(judged.drop[cluster]),
    )


def representatives(own: Units, judged: Judged) -> dict[int, list[int]]:
    """Return for each column of an important cluster the columns that stay for it.

    These are the members above the null, else the one that matters most, taken from the
    protected members if there are any. Keys and values are column numbers.
    """
    result: dict[int, list[int]] = {}
    for unit, members in own.members.items():
        if judged.above[unit]:
            inside = members.tolist()
            safe = [c for c in inside if reason_for("protected", own.columns[c])]
            best = max(safe or inside, key=lambda c: (judged.drop[c], judged.gain[c], -c))
            stay = [c for c in inside if judged.above[c]] or [best]
            result |= dict.fromkeys(inside, stay)
    return result


def _decide(
    row: ColumnVerdict, own: Units, judged: Judged, kept: dict[int, list[int]]
) -> ColumnVerdict:
    """Return the row with its verdict and reason; kept: see `representatives`."""
    i = own.columns.index(row.column)
    drop, limit = f"mean drop {judged.drop[i]:.4f}", f"the shadows' {judged.limit:.4f}"
    is_over = judged.drop[i] > max(judged.limit, 0)
    if judged.above[i]:
        reason = f"{drop} is above {limit}"
        if not (is_over and judged.selected[i] >= permutation.SELECTED):
            best = f"drop {judged.best[i]:.4f} for {row.best_target}"
            reason = f"{best} is above all shadows' {judged.best_limit:.4f}"
        return row._replace(verdict="important", reason=reason)
    if row.column.endswith(".*"):
        rows = "the number of rows of a table, not a column"
        return row._replace(verdict="rows", reason=rows)
    if i in kept.get(i, []):
        others = [c for c in kept if own.cluster[c] == own.cluster[i] and c != i]
        names = ", ".join(own.columns[c] for c in others)
        reason = f"stands for its cluster, which matters: {names}"
        return row._replace(verdict="important", reason=reason)
    if i in kept:
        reason = f"tells the same as {', '.join(own.columns[c] for c in kept[i])}, which stays"
    elif is_over:
        reason = (
            f"{drop} is above {limit} in only {judged.selected[i]:.0%} of the draws of patients"
        )
    else:
        reason = f"{drop} is not above {limit}" if judged.gain[i] else "no tree used it"
    return row._replace(verdict="unproven", reason=reason)


def candidates(columns: list[ColumnVerdict]) -> list[str]:
    """Return the columns that an ablation may prove free to go, most likely to matter first."""
    return [row.column for row in columns if row.verdict == "unproven"]


def settle(columns: list[ColumnVerdict], tried: list[Ablation]) -> list[ColumnVerdict]:
    """Return the rows with the outcome of the ablations: what the last one drops is "least".

    Columns stay that may matter to the few whom they tell of.
    """
    names = candidates(columns)
    proven = set(names[len(names) - tried[-1].columns :]) if tried and tried[-1].holds else set()
    doubt = "; but a refit without it cannot rule out a loss"
    settled = []
    for row in columns:
        if row.column in proven and row.column in tried[-1].sparse:
            n = tried[-1].sparse[row.column]
            few = f"; but it tells of {n} patients, among whom a loss is not ruled out"
            row = row._replace(reason=row.reason + few)
        elif row.column in proven:
            row = row._replace(verdict="least")
        elif row.verdict == "unproven":
            row = row._replace(reason=row.reason + doubt)
        settled.append(row)
    return settled


def statements(
    columns: list[ColumnVerdict],
    metrics: list[TargetMetrics],
    tried: list[Ablation],
    test: WithoutLeast,
    judged: Judged | None,
) -> list[str]:
    """Return sentences on what the run shows and does not show."""
    says = _on_skill(metrics, test.test_patients)
    if judged is None:
        nothing = "No column is called least important: nothing was predicted well enough"
        return [*says, f"{nothing} to judge by"]
    counts = Counter(row.verdict for row in columns)
    says.append(
        f"Columns: {counts['important']} important, {counts['least']} least important, "
        f"{counts['unproven']} not shown to matter but not proven free to go, "
        f"{counts['protected']} not shown to matter but protected, {counts['unjudged']} not "
        f"judged, {counts['excluded']} never features. A category is judged by its "
        f"{matrix.MAX_VALUES} most frequent values and by how often it is filled: not by what "
        f"rarer values or free text say"
    )
    for step in tried:
        says.append(
            f"Refit without {step.columns} columns: mean AUROC on patients held out changes by "
            f"{step.mean:+.4f} (interval {step.low:+.4f} to {step.high:+.4f}, 95% for all refits "
            f"together): " + (step.doubt or "they can go")
        )
    if counts["least"] and test.auroc_change is not None:
        says.append(_on_dropping(test))
    return says


def _on_skill(metrics: list[TargetMetrics], n_test: int) -> list[str]:
    """Return sentences on how many targets are predicted, and on how many test patients."""
    n, undefined = len(metrics), sum(row.auroc is None for row in metrics)
    says = [
        f"Skill: {sum(row.skill for row in metrics)} of {n} targets are predicted better than "
        f"from the numbers of rows alone, each by its own 95% interval, on train and validation "
        f"patients held out in turn; only these judge the columns"
    ]
    if undefined:
        says.append(
            f"{undefined} of {n} targets have no AUROC on the {n_test} test patients: all are "
            f"with or without it"
        )
    if n_test < FEW:
        says.append(
            f"{n_test} test patients carry no result: their AUROCs show that the step runs, no "
            f"more; an interval needs {matrix.MIN_PATIENTS} of them with and "
            f"{matrix.MIN_PATIENTS} without the target"
        )
        says.append(
            "How many test patients have a target is shown, however few they are: step 2 would "
            "hide it, so look for small counts before any of this leaves the machine"
        )
    return says


def _on_dropping(test: WithoutLeast) -> str:
    """Return the sentence on the test patients' AUROC without the least important columns."""
    span = "too few for an interval"
    if test.low is not None:
        span = f"95% interval {test.low:+.3f} to {test.high:+.3f}"
    return (
        f"On the {test.test_patients} test patients, looked at once: without "
        f"{counted(test.columns, 'least important column')} the mean AUROC of {test.targets} "
        f"targets changes by {test.auroc_change:+.3f} ({span})"
    )
