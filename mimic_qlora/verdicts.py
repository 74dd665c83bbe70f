"""The verdict on each column and the figures on test patients: what step 3 reports."""

from mimic_qlora import features, importance

FEW = 100  # test patients: with fewer, an AUROC says little
MIN_SEEN = 50  # train and validation patients with rows of a table: with fewer, its columns are not called unimportant
FIGURES = ("permutation_drop", "drop_sd", "best_drop", "best_target", "selected_share", "gain_share")


def weigh(built, people, found, judged, chosen: list) -> list:
    """One row per column of the data, most important first: verdict, reason, figures.

    Verdicts: important, least (not shown to matter, free to be left out), protected (not shown to matter, but safety
    rests on it), rows (a table's number of rows, no column), unjudged, excluded.
    """
    develop = (people.split != "test").to_numpy()
    seen = {table: int((rows[develop] > 0).sum()) for table, rows in built.rows.items()}
    place = {column: i for i, column in enumerate(found.columns)}
    counts = [f.column for f in built.features]
    rows = []
    for column in sorted({*found.columns, *built.silent, *built.excluded}):
        row = {"column": column, "verdict": "unjudged", "reason": "", **dict.fromkeys(FIGURES)}
        row["features"] = counts.count(column)
        protected = features.reason_for("protected", column)
        if column in built.excluded:
            row |= {"verdict": "excluded", "reason": built.excluded[column]}
        elif column in built.silent:
            is_idle = built.silent[column] != features.EMPTY and judged is not None
            verdict = "protected" if protected else "least" if is_idle else "unjudged"
            row |= {"verdict": verdict, "reason": protected or built.silent[column]}
        elif judged is None:
            row["reason"] = "no target is predicted well enough to judge by"
        else:
            i = place[column]
            row |= {
                "permutation_drop": float(judged.drop[i]),
                "drop_sd": float(judged.spread[i]),
                "best_drop": float(judged.best[i]),
                "best_target": chosen[judged.best_target[i]].name if judged.best[i] > 0 else "",
                "selected_share": float(judged.selected[i]),
                "gain_share": float(judged.gain[i]),
            }
            row |= _verdict(column, row, bool(judged.above[i]), protected, judged)
        table = column.partition(".")[0]
        if row["verdict"] == "least" and seen[table] < MIN_SEEN:
            few = f"only {seen[table]} patients have rows of {table}: too few to call it unimportant"
            row |= {"verdict": "unjudged", "reason": few}
        rows.append(row)
    return sorted(rows, key=lambda r: (r["permutation_drop"] is None, -(r["permutation_drop"] or 0), r["column"]))


def _verdict(column: str, row: dict, is_above: bool, protected: str, judged) -> dict:
    drop, best = f"{row['permutation_drop']:.4f}", f"{row['best_drop']:.4f}"
    if is_above:
        if row["permutation_drop"] > max(judged.limit, 0):
            return {"verdict": "important", "reason": f"mean drop {drop} is above the shadows' {judged.limit:.4f}"}
        how = f"drop {best} for {row['best_target']} is above all shadows' {judged.best_limit:.4f}"
        return {"verdict": "important", "reason": how}
    if column.endswith(".*"):
        return {"verdict": "rows", "reason": "the number of rows of a table, not a column"}
    if protected:
        return {"verdict": "protected", "reason": protected}
    used = f"mean drop {drop} is not above the shadows' {judged.limit:.4f}" if row["gain_share"] else "no tree used it"
    return {"verdict": "least", "reason": used}


def confirm(built, people, chosen: list, columns: list, found, has_skill, seeds: int, on: str) -> tuple:
    """The models' figures on test patients, beside a model of row counts and one without the least important columns.

    Returns the rows of metrics.csv, and what leaving the columns out changes in the mean AUROC of targets with skill.
    """
    import numpy as np

    least = {row["column"] for row in columns if row["verdict"] == "least"}
    kept = [i for i, f in enumerate(built.features) if f.column not in least]
    counts = [i for i, f in enumerate(built.features) if f.column.endswith(".*")]
    scores = {
        name: importance.held_out_scores(built.matrix[:, some], people, chosen, seeds, on, name)
        for name, some in (("all columns", slice(None)), ("without the least", kept), ("numbers of rows", counts))
    }
    train, test = ((people.split == name).to_numpy() for name in ("train", "test"))
    drawn = importance.bootstrap_weights(int(test.sum()), seed=0)
    rows, differences = [], []
    for t, target in enumerate(chosen):
        who = target.who[test]
        y, weights = target.y[test][who], drawn[:, who]
        own = {name: of_all[t][who] for name, of_all in scores.items()}
        both = 0 < y.sum() < len(y)
        auroc = {name: importance.auroc(y, s) if both else None for name, s in own.items()}
        draws = {name: importance.auroc(y, s, weights) if both else None for name, s in own.items()}
        enough = min(y.sum(), len(y) - y.sum()) >= features.MIN_PATIENTS  # fewer: a bootstrap's interval is too narrow
        low, high = importance.interval(draws["all columns"]) if enough else (None, None)
        precision = importance.average_precision(y, own["all columns"]) if y.any() else None
        spread = importance.average_precision(y, own["all columns"], weights) if enough else None
        ap_low, ap_high = importance.interval(spread) if enough else (None, None)
        change = auroc["without the least"] - auroc["all columns"] if both else None
        if both and has_skill[t]:
            differences.append((change, draws["without the least"] - draws["all columns"]))
        held_out, of_rows = (_defined(importance.mean(x[t])) for x in (found.auroc, found.baseline))
        notes = ["AUROC undefined: the test patients are all with or all without it"] * (not both)
        notes += ["no skill told: patients held out are all with or all without it"] * (held_out is None)
        rows.append({
            "target": target.name, "label": target.label, "train_patients": int(target.who[train].sum()),
            "train_share": float(target.y[train].sum() / target.who[train].sum()),
            "test_patients": len(y), "test_with": int(y.sum()),
            "auroc": auroc["all columns"], "auroc_low": low, "auroc_high": high, "auroc_rows": auroc["numbers of rows"],
            "auroc_without_least": auroc["without the least"], "change": change,
            "average_precision": precision, "ap_low": ap_low, "ap_high": ap_high,
            "held_out_auroc": held_out, "held_out_auroc_rows": of_rows, "skill": bool(has_skill[t]),
            "note": "; ".join(notes),
        })  # fmt: skip
    change = {"columns": len(least), "features_left": len(kept)}
    change |= {"test_patients": int(test.sum()), "targets": len(differences)}
    if differences:
        draws = importance.mean(np.array([draw for _, draw in differences]), 0)
        low, high = importance.interval(draws)
        change |= {"auroc_change": float(np.mean([point for point, _ in differences])), "low": low, "high": high}
    return rows, change


def _defined(value) -> float | None:
    return float(value) if value == value else None


def statements(columns: list, metrics: list, change: dict, judged) -> list:
    """What the run shows and what it does not, in sentences."""
    counts = {row["verdict"]: 0 for row in columns} | dict.fromkeys(("important", "least", "protected"), 0)
    for row in columns:
        counts[row["verdict"]] += 1
    n, n_test, undefined = len(metrics), change["test_patients"], sum(row["auroc"] is None for row in metrics)
    says = [
        f"Skill: {sum(row['skill'] for row in metrics)} of {n} targets are predicted better than from the numbers of "
        f"rows alone, on train and validation patients held out in turn; only these judge the columns"
    ]
    if undefined:
        says.append(
            f"{undefined} of {n} targets have no AUROC on the {n_test} test patients: all are with or without it"
        )
    if n_test < FEW:
        says.append(
            f"{n_test} test patients carry no result: their AUROCs show that the step runs, no more; an interval needs "
            f"{features.MIN_PATIENTS} of them with and {features.MIN_PATIENTS} without the target"
        )
    if judged is None:
        return [*says, "No column is called least important: nothing was predicted well enough to judge by"]
    says.append(
        f"Columns: {counts['important']} important, {counts['least']} least important, {counts['protected']} not shown "
        f"to matter but protected, {counts.get('unjudged', 0)} not judged, {counts.get('excluded', 0)} never features"
    )
    if "auroc_change" not in change:
        return [
            *says,
            "What the least important columns are worth cannot be told: no target with skill has a test AUROC",
        ]
    has_interval = change["low"] is not None
    span = f"95% interval {change['low']:+.3f} to {change['high']:+.3f}" if has_interval else "too few for an interval"
    says.append(
        f"Without the {change['columns']} least important columns the mean test AUROC of {change['targets']} targets "
        f"changes by {change['auroc_change']:+.3f} ({span})"
    )
    return says
