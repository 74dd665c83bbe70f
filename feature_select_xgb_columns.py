"""Step 3: which columns matter for the diagnoses, and which can be left out.

    python feature_select_xgb_columns.py

One XGBoost model per target diagnosis (the 20 most frequent) on what was known 24 hours into a
patient's first coded stay. Leaves `features/` in the storage folder: columns_top.csv,
columns_least.csv (step 4 reads it), columns_all.csv, metrics.csv, metrics.json and a page with
plots, features.html.
"""

import argparse
import os
import textwrap
from pathlib import Path

from mimic_qlora import storage
from mimic_qlora.storage import UserError

TOP = 20
VERDICTS = ("important", "least", "protected", "rows", "unjudged", "excluded")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = "phenotypes join ICD-9 and ICD-10; codes are each over the stays of their own version (default: %(default)s)"
    parser.add_argument("--targets", choices=("phenotypes", "codes"), default="phenotypes", help=what)
    many = "how many targets, the most frequent first (default: %(default)s)"
    parser.add_argument("--n-targets", type=int, default=20, help=many)
    landmark = "hours after admission: what was known by then is a feature (default: %(default)s)"
    parser.add_argument("--landmark-hours", type=float, default=24, help=landmark)
    seeds = "models per target, each with its own shadows and held-out patients (default: %(default)s)"
    parser.add_argument("--seeds", type=int, default=3, help=seeds)
    storage.add_arguments(parser)
    args = parser.parse_args()
    storage.check_positive(args, "n_targets", "seeds")
    storage.check_range(args, "landmark_hours", 0.1, 10_000)
    return args


def main():
    args = arguments()
    store = storage.open_storage(args.storage)
    manifest = storage.read_manifest(store, "subjects")
    print(storage.data_line(manifest))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads are ten times slower on a busy machine

    from mimic_qlora import clinical, database, features, importance, targets, verdicts

    settings = {name: getattr(args, name) for name in ("targets", "n_targets", "landmark_hours", "seeds")}
    roles = storage.digest(sorted(features.roles().items()))
    inputs = {"subjects": manifest["id"], "clinical content": clinical.content_sha256(), "column roles": roles}
    with storage.step_output(store, "features", settings, inputs, args.force) as out:
        con = database.connect(store, out.path / "cohort")
        people = features.cohort(con, args.landmark_hours)
        chosen, passed_over = targets.choose(con, people, args.targets, args.n_targets)
        con.close()
        setup = [cohort_line(people, manifest, args.landmark_hours), *passed_over]
        print(wrapped(setup))

        built = features.build(store, people, out.path)
        on = importance.device()
        print(f"Features: {len(built.features):,} of {len({f.column for f in built.features})} columns; models on {on}")

        found = importance.explore(built, people, chosen, args.seeds, on)
        has_skill = importance.skilled(found)
        judged = importance.judge(found, has_skill) if has_skill.any() else None
        columns = verdicts.weigh(built, people, found, judged, chosen)
        metrics, change = verdicts.confirm(built, people, chosen, columns, found, has_skill, args.seeds, on)

        says = setup + verdicts.statements(columns, metrics, change, judged)
        lists = {verdict: [row for row in columns if row["verdict"] == verdict] for verdict in VERDICTS}
        report(lists, metrics, says[len(setup) :])
        write_files(out.path, columns, lists, metrics, {"statements": says, "without_least": change})
        write_page(out.path / "features.html", columns, lists, metrics, says, judged, manifest)
        out.manifest |= {"device": on, "patients": len(people), "targets": len(chosen), "without_least": change}
        out.manifest["columns"] = {verdict: len(rows) for verdict, rows in lists.items()}
    print(f"\nWrote {store / 'features'}: columns_least.csv goes into step 4; open features.html in a browser")


def wrapped(lines: list) -> str:
    return "\n".join(textwrap.fill(line, 100) for line in lines)


def cohort_line(people, manifest: dict, hours: float) -> str:
    """Who is studied. Raises UserError when no train patient is left."""
    sizes = {name: int((people.split == name).sum()) for name in ("train", "validation", "test")}
    if not sizes["train"]:
        raise UserError("no train patient has a stay with coded diagnoses: convert more patients with step 1")
    return (
        f"Cohort: {len(people):,} of {manifest['source']['patients']:,} patients have a coded stay "
        f"({', '.join(f'{name} {n:,}' for name, n in sizes.items())}); the others are left out, not counted as well. "
        f"Index stay: the first coded one. Features: what was known {hours:g} hours after admission"
    )


def report(lists: dict, metrics: list, says: list) -> None:
    """The same results as the files, in 100 columns."""
    from mimic_qlora import page

    rows = said_undefined(metrics)
    names = ["label", "train_share", "test_with", "auroc", "auroc_low", "auroc_high", "auroc_rows", "skill"]
    print(
        page.terminal(rows, "Targets: AUROC on test patients, beside that of the numbers of rows alone", columns=names)
    )
    names = ["column", "permutation_drop", "selected_share", "gain_share", "best_target"]
    top = f"Most important columns, the first {TOP}: fall of AUROC when permuted"
    print(page.terminal(lists["important"][:TOP], top, columns=names))
    least = lists["least"][-TOP:]
    heading = f"Least important columns, the last {len(least)} of {len(lists['least'])}"
    print(page.terminal(least, heading, columns=["column", "reason"]))
    print("\n" + wrapped(says))


def said_undefined(metrics: list) -> list:
    return [{**row, "auroc": "undefined" if row["auroc"] is None else row["auroc"]} for row in metrics]


def write_files(folder: Path, columns: list, lists: dict, metrics: list, result: dict) -> None:
    from mimic_qlora import spreadsheet

    names = list(columns[0])
    spreadsheet.write(folder / "columns_all.csv", columns)
    spreadsheet.write(folder / "columns_top.csv", lists["important"], names)
    spreadsheet.write(folder / "columns_least.csv", lists["least"][::-1], names)
    spreadsheet.write(folder / "metrics.csv", metrics)
    storage.write_json(folder / "metrics.json", {**result, "targets": metrics})


def write_page(path: Path, columns: list, lists: dict, metrics: list, says: list, judged, manifest: dict) -> None:
    """Skill, importance beside its null, and the lists, as one page."""
    from mimic_qlora import page

    skill = ["label", "train_share", "test_with", "auroc", "auroc_low", "auroc_high", "auroc_rows"]
    more = ["target", "average_precision", "ap_low", "ap_high", "auroc_without_least", "change"]
    more += ["held_out_auroc", "held_out_auroc_rows", "skill"]
    figures = ["column", "reason", "permutation_drop", "drop_sd", "selected_share", "gain_share", "features"]
    weighed = [row for row in columns if row["permutation_drop"] is not None]
    sections = [
        ("What this shows", [page.paragraph(line + ".") for line in says]),
        ("Skill on test patients", [plot_skill(metrics), page.table(said_undefined(metrics), columns=skill)]),
        ("Precision, refit, and skill on patients held out in turn", [page.table(metrics, columns=more)]),
    ]
    if judged is not None:
        used = [row for row in weighed if row["permutation_drop"]]
        plots = [plot_importance(used[:30], judged), plot_null(weighed, judged)]
        sections.append(("Importance beside its null", plots))
    sections += [
        ("Most important columns", [page.table(lists["important"], columns=figures)]),
        ("Least important columns", [page.table(lists["least"][::-1], columns=figures)]),
        ("Kept for safety, though not shown to matter", [page.table(lists["protected"], columns=figures[:2])]),
        ("Not judged", [page.table(lists["unjudged"], columns=figures[:2])]),
        ("Never features", [page.table(lists["excluded"], columns=figures[:2], folded="All of them, with the reason")]),
    ]
    lead = [page.data_line(manifest), "Small counts are not hidden here: treat this page as the data itself."]
    page.write(path, "Which columns matter", lead, sections)


def plot_skill(metrics: list) -> str:
    """AUROC of each target with its interval, beside that of the numbers of rows alone."""
    from mimic_qlora import page

    fig, axes = page.figure(0.9 + 0.24 * len(metrics))
    places = [place for place, row in enumerate(metrics) if row["auroc"] is not None]
    rows = [metrics[place] for place in places]
    bounded = [(place, row) for place, row in zip(places, rows, strict=True) if row["auroc_low"] is not None]
    ends = [[row[end] for _, row in bounded] for end in ("auroc_low", "auroc_high")]
    axes.hlines([place for place, _ in bounded], *ends, color=page.BLUE, linewidth=2)
    axes.plot([row["auroc"] for row in rows], places, "o", color=page.BLUE, label="all columns, 95% interval")
    axes.plot([row["auroc_rows"] for row in rows], places, "x", color=page.ORANGE, label="numbers of rows alone")
    for place in set(range(len(metrics))) - set(places):
        axes.text(0.01, place, "undefined on the test patients", va="center", fontsize=8, color=page.GREY)
    axes.axvline(0.5, color=page.GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(metrics)), [row["label"][:52] for row in metrics])
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("AUROC on test patients (dashed: chance)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return page.image(fig, "AUROC of each target on test patients; the table below has the numbers")


def plot_importance(rows: list, judged) -> str:
    """The largest permutation drops, each with its spread over seeds, and the limit that the shadows set."""
    from mimic_qlora import page

    fig, axes = page.figure(0.9 + 0.21 * len(rows))
    places = range(len(rows))
    drops, spread = ([row[name] for row in rows] for name in ("permutation_drop", "drop_sd"))
    drawn = axes.barh(places, drops, xerr=spread, height=0.7, color=page.BLUE, ecolor=page.INK)
    for bar, row in zip(drawn, rows, strict=True):
        if row["verdict"] != "important":
            bar.set(facecolor="white", edgecolor=page.BLUE, hatch="////")
    axes.axvline(judged.limit, color=page.ORANGE, linestyle="--", label="95% of the shadows are below")
    axes.set_yticks(places, [row["column"] for row in rows])
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xscale("symlog", linthresh=0.002)
    axes.set_xlabel("fall of AUROC when the column is permuted (mean and SD over seeds); hatched: not above the null")
    axes.legend(loc="lower right", frameon=False)
    return page.image(fig, "Permutation importance of the first columns beside the limit of their shadows")


def plot_null(rows: list, judged) -> str:
    """How many columns, and how many of their shadows, have which permutation drop."""
    import numpy as np

    from mimic_qlora import page

    fig, axes = page.figure(2.6)
    real = np.array([row["permutation_drop"] for row in rows])
    span = max(abs(judged.limit) * 6, 1e-3)
    edges = np.linspace(-span / 2, span, 37)
    inside = [np.clip(values, edges[0], edges[-1]) for values in (real, judged.null)]
    axes.hist(inside[0], edges, color=page.BLUE, label="columns")
    axes.hist(inside[1], edges, facecolor="none", edgecolor=page.ORANGE, hatch="////", label="their shadows")
    axes.axvline(judged.limit, color=page.INK, linestyle="--", linewidth=1)
    axes.set_xlabel("mean fall of AUROC; what lies beyond the ends is put into the last bars")
    axes.set_ylabel("columns")
    axes.set_yscale("symlog")
    axes.legend(frameon=False)
    return page.image(fig, "Distribution of the permutation drops of the columns and of their shadows")


if __name__ == "__main__":
    storage.run(main)
