"""The verdict on each column, and what step 3 says in sentences."""

from collections import Counter

from mimic_qlora.features import ablation, matrix, permutation
from mimic_qlora.features.column_roles import reason_for

FEW = 100  # test patients: with fewer, an AUROC says little
MIN_SEEN = 50  # train and validation patients with rows of a table: with fewer, its columns are not called unimportant
FIGURES = (
    "permutation_drop",
    "drop_low",
    "drop_high",
    "drop_sd",
    "selected_share",
    "best_drop",
    "best_target",
)
FIGURES += ("gain_share", "cluster", "cluster_drop")
VERDICTS = {
    "important": "shown to matter, alone or for its cluster",
    "least": "not shown to matter, and proven free to go",
    "unproven": "not shown to matter, but a loss without it is not ruled out",
    "protected": "not shown to matter, but safety rests on it",
    "rows": "a table's number of rows, no column",
    "unjudged": "too little is known of it",
    "excluded": "never a feature",
}


def weigh(built, people, own, judged, targets: list) -> list:
    """One row per column of the data, most important first: verdict (see VERDICTS), reason, figures.

    `own` are the units, `judged` how they did (None: no target has skill), `targets` those with skill. What may go is
    "unproven" until a refit without it has shown that nothing is lost.
    """
    develop = (people.split != "test").to_numpy()
    seen = {
        table: int((rows[develop] > 0).sum())
        for (table, item), rows in built.rows.items()
        if not item
    }
    place = {column: i for i, column in enumerate(own.columns)}
    stands = _representatives(own, judged) if judged else {}
    counts = [f.column for f in built.features]
    rows = []
    for column in sorted({*own.columns, *built.silent, *built.excluded}):
        row = {"column": column, "verdict": "unjudged", "reason": "", **dict.fromkeys(FIGURES)}
        row["features"] = counts.count(column)
        protected = reason_for("protected", column)
        if column in built.excluded:
            row |= {"verdict": "excluded", "reason": built.excluded[column]}
        elif column in built.silent:
            is_idle = judged is not None and built.silent[column] not in (
                matrix.EMPTY,
                matrix.COUNTLESS,
            )
            is_idle &= (
                develop.sum() >= ablation.MIN_HELD_OUT
            )  # fewer patients are alike, or twins, by chance
            row |= {"verdict": "least" if is_idle else "unjudged", "reason": built.silent[column]}
        elif judged is None:
            row["reason"] = "no target is predicted well enough to judge by"
        else:
            row |= _figures(place[column], own, judged, targets)
            row |= _verdict(place[column], own, judged, row, stands)
        if protected and row["verdict"] in ("least", "unproven"):
            row |= {"verdict": "protected", "reason": protected}
        table = column.partition(".")[0]
        if row["verdict"] in ("least", "unproven") and seen[table] < MIN_SEEN:
            few = (
                f"only {seen[table]} patients have rows of {table}: too few to call it unimportant"
            )
            row |= {"verdict": "unjudged", "reason": few}
        rows.append(row)
    return sorted(
        rows,
        key=lambda r: (r["permutation_drop"] is None, -(r["permutation_drop"] or 0), r["column"]),
    )


def _figures(i: int, own, judged, targets: list) -> dict:
    cluster = next((unit for unit, members in own.members.items() if i in members), None)
    return {
        "permutation_drop": float(judged.drop[i]),
        "drop_low": float(judged.low[i]),
        "drop_high": float(judged.high[i]),
        "drop_sd": float(judged.spread[i]),
        "selected_share": float(judged.selected[i]),
        "best_drop": float(judged.best[i]),
        "best_target": targets[judged.best_target[i]].name if judged.best[i] > 0 else "",
        "gain_share": float(judged.gain[i]),
        "cluster": " + ".join(own.columns[c] for c in own.members[cluster])
        if cluster is not None
        else "",
        "cluster_drop": float(judged.drop[cluster]) if cluster is not None else None,
    }


def _representatives(own, judged) -> dict:
    """Per column of a cluster that matters: the columns that stay for it. Those above the null, else the one that
    matters most, of the protected if there are any."""
    result = {}
    for unit, members in own.members.items():
        if judged.above[unit]:
            safe = [c for c in members if reason_for("protected", own.columns[c])]
            best = max(safe or members, key=lambda c: (judged.drop[c], judged.gain[c], -c))
            result |= dict.fromkeys(
                members.tolist(), [c for c in members if judged.above[c]] or [best]
            )
    return result


def _verdict(i: int, own, judged, row: dict, stands: dict) -> dict:
    column, drop, limit = (
        own.columns[i],
        f"mean drop {judged.drop[i]:.4f}",
        f"the shadows' {judged.limit:.4f}",
    )
    is_over = judged.drop[i] > max(judged.limit, 0)
    if judged.above[i]:
        how = f"drop {judged.best[i]:.4f} for {row['best_target']} is above all shadows' {judged.best_limit:.4f}"
        is_stable = is_over and judged.selected[i] >= permutation.SELECTED
        return {"verdict": "important", "reason": f"{drop} is above {limit}" if is_stable else how}
    if column.endswith(".*"):
        return {"verdict": "rows", "reason": "the number of rows of a table, not a column"}
    if i in stands.get(i, []):
        others = ", ".join(own.columns[c] for c in stands if stands[c] is stands[i] and c != i)
        return {
            "verdict": "important",
            "reason": f"stands for its cluster, which matters: {others}",
        }
    if i in stands:
        told = ", ".join(own.columns[c] for c in stands[i])
        return {"verdict": "unproven", "reason": f"tells the same as {told}, which stays"}
    if is_over:
        share = f"{judged.selected[i]:.0%} of the draws of patients"
        return {"verdict": "unproven", "reason": f"{drop} is above {limit} in only {share}"}
    return {
        "verdict": "unproven",
        "reason": f"{drop} is not above {limit}" if judged.gain[i] else "no tree used it",
    }


def candidates(columns: list) -> list:
    """The columns that a refit may prove free to go, the most likely to matter first."""
    return [row["column"] for row in columns if row["verdict"] == "unproven"]


def settle(columns: list, tried: list) -> None:
    """Write the outcome of the refits into the rows: what the last one left out at no loss is "least"."""
    names = candidates(columns)
    proven = set(names[len(names) - tried[-1].columns :]) if tried and tried[-1].holds else set()
    for row in columns:
        if row["column"] in proven:
            row["verdict"] = "least"
        elif row["verdict"] == "unproven":
            row["reason"] += "; but a refit without it cannot rule out a loss"


def statements(columns: list, metrics: list, tried: list, test: dict, judged) -> list:
    """What the run shows and what it does not, in sentences."""
    counts = Counter(row["verdict"] for row in columns)
    n, n_test, undefined = (
        len(metrics),
        test["test_patients"],
        sum(row["auroc"] is None for row in metrics),
    )
    says = [
        f"Skill: {sum(row['skill'] for row in metrics)} of {n} targets are predicted better than from the numbers of "
        f"rows alone, each by its own 95% interval, on train and validation patients held out in turn; only these "
        f"judge the columns"
    ]
    if undefined:
        says.append(
            f"{undefined} of {n} targets have no AUROC on the {n_test} test patients: all are with or without it"
        )
    if n_test < FEW:
        says.append(
            f"{n_test} test patients carry no result: their AUROCs show that the step runs, no more; an interval needs "
            f"{matrix.MIN_PATIENTS} of them with and {matrix.MIN_PATIENTS} without the target"
        )
    if judged is None:
        return [
            *says,
            "No column is called least important: nothing was predicted well enough to judge by",
        ]
    says.append(
        f"Columns: {counts['important']} important, {counts['least']} least important, {counts['unproven']} not shown "
        f"to matter but not proven free to go, {counts['protected']} not shown to matter but protected, "
        f"{counts['unjudged']} not judged, {counts['excluded']} never features. A category is judged by its "
        f"{matrix.MAX_VALUES} most frequent values and by how often it is filled: not by what rarer values or free "
        f"text say"
    )
    for step in tried:
        says.append(
            f"Refit without {step.columns} columns: mean AUROC on patients held out changes by {step.mean:+.4f} "
            f"(interval {step.low:+.4f} to {step.high:+.4f}, 95% for all refits together): "
            + (step.doubt or "they can go")
        )
    if not counts["least"] or "auroc_change" not in test:
        return says
    span = "too few for an interval"
    if test["low"] is not None:
        span = f"95% interval {test['low']:+.3f} to {test['high']:+.3f}"
    return [
        *says,
        f"On the {n_test} test patients, looked at once: without the {test['columns']} least important columns the "
        f"mean AUROC of {test['targets']} targets changes by {test['auroc_change']:+.3f} ({span})",
    ]
