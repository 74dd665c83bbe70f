"""What the models can predict at all: skill on patients held out, and the figures on the test patients."""

from mimic_qlora.features import auroc as discrimination
from mimic_qlora.features import boosting
from mimic_qlora.features.matrix import MIN_PATIENTS, ROWS

MIN_AUROC = 0.55  # on patients held out: below it a target has no skill


def counts(built):
    """The features that are numbers of rows: how much was recorded, not what."""
    import numpy as np

    return np.ascontiguousarray(built.matrix[:, [f.statistic == ROWS for f in built.features]])


def folds_of(target, scores, fold):
    """The turns of the patients whom the target concerns and who have a score; -1 for the others."""
    import numpy as np

    return np.where(target.who & np.isfinite(scores), fold, -1)


def held_out(built, people, targets: list, fold, on: str) -> tuple:
    """Each patient's score by the model fitted without them (targets x patients), and per target what it is worth.

    A target has skill when its AUROC is at least MIN_AUROC and the 95% interval of what it has over a model of the
    numbers of rows alone, patient by patient, lies above 0.
    """
    import numpy as np

    scores = boosting.out_of_fold(built.matrix, people, targets, fold, on, "all columns")
    of_rows = boosting.out_of_fold(counts(built), people, targets, fold, on, "numbers of rows")
    found = []
    for target, full, few in zip(targets, scores, of_rows, strict=True):
        own = folds_of(target, full, fold)
        (auroc, moves), (baseline, other) = (
            discrimination.within_folds(target.y, s, own) for s in (full, few)
        )
        if not np.isfinite(auroc):
            found.append(dict.fromkeys(("auroc", "baseline", "low", "high")) | {"skill": False})
            continue
        low, high = discrimination.bounds(auroc - baseline, moves - other)
        row = {"auroc": auroc, "baseline": baseline, "low": low, "high": high}
        found.append({**row, "skill": auroc >= MIN_AUROC and low > 0})
    return scores, found


def on_test(built, people, targets: list, held: list, proven: set, seeds: int, on: str) -> tuple:
    """The rows of metrics.csv, and what leaving the proven columns out changes in the mean test AUROC.

    `held`: what `held_out` found. Test patients are looked at here and nowhere else.
    """
    import numpy as np

    kept = [i for i, f in enumerate(built.features) if f.column not in proven]
    sets = {"all": built.matrix, "without": built.matrix[:, kept], "rows": counts(built)}
    scores = {
        name: boosting.test_scores(matrix, people, targets, seeds, on, f"test, {name}")
        for name, matrix in sets.items()
    }
    test = (people.split == "test").to_numpy()
    drawn = discrimination.bootstrap_weights(int(test.sum()), seed=0)
    rows, differences = [], []
    for t, target in enumerate(targets):
        row, difference = _row(
            target, people, {name: of_all[t] for name, of_all in scores.items()}, drawn
        )
        if difference is not None and held[t]["skill"]:
            differences.append((row["change"], difference))
        told = {
            "held_out_auroc": held[t]["auroc"],
            "held_out_auroc_rows": held[t]["baseline"],
            "beyond_rows_low": held[t]["low"],
            "beyond_rows_high": held[t]["high"],
            "skill": held[t]["skill"],
        }
        unknown = "no skill told: patients held out are all with or all without it"
        row["note"] = "; ".join([*row["note"], *[unknown] * (held[t]["auroc"] is None)])
        rows.append({**{k: v for k, v in row.items() if k != "note"}, **told, "note": row["note"]})
    change = {"columns": len(proven), "features_left": len(kept), "test_patients": int(test.sum())}
    change["targets"] = len(differences)
    if differences:
        from mimic_qlora.features import permutation

        low, high = discrimination.interval(
            permutation.mean(np.array([draws for _, draws in differences]), 0)
        )
        change |= {
            "auroc_change": float(np.mean([point for point, _ in differences])),
            "low": low,
            "high": high,
        }
    return rows, change


def _row(target, people, scores: dict, drawn) -> tuple:
    """One target's figures on test patients, and its change in AUROC in each draw of them (None where undefined)."""
    train, test = ((people.split == name).to_numpy() for name in ("train", "test"))
    who = target.who[test]
    y, weights, own = (
        target.y[test][who],
        drawn[:, who],
        {name: s[who] for name, s in scores.items()},
    )
    both = 0 < y.sum() < len(y)
    enough = (
        min(y.sum(), len(y) - y.sum()) >= MIN_PATIENTS
    )  # fewer: a bootstrap's interval is too narrow
    auroc = {name: discrimination.auroc(y, s) if both else None for name, s in own.items()}
    draws = {
        name: discrimination.auroc(y, own[name], weights) if both else None
        for name in ("all", "without")
    }
    low, high = discrimination.interval(draws["all"]) if enough else (None, None)
    precision = discrimination.average_precision(y, own["all"]) if y.any() else None
    spread = discrimination.average_precision(y, own["all"], weights) if enough else None
    ap_low, ap_high = discrimination.interval(spread) if enough else (None, None)
    fit = (
        discrimination.calibration(y, own["all"])
        if enough
        else dict.fromkeys(("brier", "predicted_share", "slope"))
    )
    row = {
        "target": target.name,
        "label": target.label,
        "train_patients": int(target.who[train].sum()),
        "train_share": float(target.y[train].sum() / target.who[train].sum()),
        "test_patients": len(y),
        "test_with": int(y.sum()),
        "test_share": float(y.mean()) if len(y) else None,
        "auroc": auroc["all"],
        "auroc_low": low,
        "auroc_high": high,
        "auroc_rows": auroc["rows"],
        "auroc_without_least": auroc["without"],
        "change": auroc["without"] - auroc["all"] if both else None,
        "average_precision": precision,
        "ap_low": ap_low,
        "ap_high": ap_high,
        "brier": fit["brier"],
        "predicted_share": fit["predicted_share"],
        "calibration_slope": fit["slope"],
        "note": ["AUROC undefined: the test patients are all with or all without it"] * (not both),
    }
    return row, draws["without"] - draws["all"] if both else None


def reliability(targets: list, scores) -> list:
    """Risk as told and as found, over all patients held out and all targets together, by tenths of the risk told."""
    import numpy as np

    if not targets:
        return []
    told = np.concatenate([s[t.who & np.isfinite(s)] for t, s in zip(targets, scores, strict=True)])
    found = np.concatenate(
        [t.y[t.who & np.isfinite(s)] for t, s in zip(targets, scores, strict=True)]
    )
    order = np.argsort(told, kind="stable")
    return [
        {
            "patients_times_targets": len(part),
            "told_share": float(told[part].mean()),
            "found_share": float(found[part].mean()),
        }
        for part in np.array_split(order, 10)
        if len(part)
    ]
