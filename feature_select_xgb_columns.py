"""Step 3: which columns matter for the diagnoses, and which can be left out.

    python feature_select_xgb_columns.py

One XGBoost model per target diagnosis (the 20 most frequent) on what was known 24 hours into a
patient's first coded stay. A column is called least important when it does no better than its
shadow and refits without it have shown that nothing is lost. Leaves `features/` in the storage
folder: columns_top.csv, columns_least.csv (step 4 reads it), columns_all.csv,
columns_per_target.csv, metrics.csv, metrics.json, ablation.csv, giveaways.csv and a page with
plots, features.html.
"""

import argparse
import os
import textwrap
from pathlib import Path

from mimic_qlora import command_line, storage
from mimic_qlora.storage import UserError

TOP = 20


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = "phenotypes join ICD-9 and ICD-10; codes are each over the stays of their own version (default: %(default)s)"
    parser.add_argument("--targets", choices=("phenotypes", "codes"), default="phenotypes", help=what)
    many = "how many targets, the most frequent first (default: %(default)s)"
    parser.add_argument("--n-targets", type=int, default=20, help=many)
    landmark = "hours after admission: what was known by then is a feature (default: %(default)s)"
    parser.add_argument("--landmark-hours", type=float, default=24, help=landmark)
    seeds = "models per target, each with its own shadows and held-out patients (default: %(default)s)"
    parser.add_argument("--seeds", type=int, default=5, help=seeds)
    margin = "a loss of AUROC that the refits must rule out before a column may go (default: %(default)s)"
    parser.add_argument("--margin", type=float, default=0.01, help=margin)
    on = "where the models are fitted; auto: on a GPU where there is one (default: %(default)s)"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=on)
    command_line.add_arguments(parser)
    args = parser.parse_args()
    command_line.check_positive(args, "n_targets", "seeds")
    command_line.check_range(args, "landmark_hours", 0.1, 10_000)
    command_line.check_range(args, "margin", 0.0001, 0.5)
    return args


def main():
    args = arguments()
    store = storage.open_storage(args.storage)
    manifest = storage.read_manifest(store, "subjects")
    print(storage.data_line(manifest))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads are ten times slower on a busy machine

    from mimic_qlora import (
        boosters,
        clinical,
        cohort,
        database,
        features,
        giveaways,
        selection,
        selection_page,
        targets,
    )

    on = boosters.device(args.device)
    settings = {name: getattr(args, name) for name in ("targets", "n_targets", "landmark_hours", "seeds", "margin")}
    inputs = {"subjects": manifest["id"], "clinical content": clinical.content_sha256()}
    for name in ("column_roles.csv", "plausible_features.csv", "visibility.csv"):
        inputs[name] = storage.file_sha256(Path(boosters.__file__).with_name(name))
    with storage.step_output(store, "features", settings | {"device": on}, inputs, args.force) as out:
        con = database.connect(store, out.path / "cohort")
        people = cohort.gather(con, args.landmark_hours)
        setup = [cohort_line(people, manifest, args.landmark_hours)]
        print(wrapped(setup))
        boosters.check_folds(people, args.seeds)
        chosen, passed_over = targets.choose(con, people, args.targets, args.n_targets)
        con.close()
        setup += passed_over
        if passed_over:
            print(wrapped(passed_over))

        built = features.build(store, people, out.path)
        print(f"Features: {len(built.features):,} of {len({f.column for f in built.features})} columns; models on {on}")
        odd = giveaways.find(built, people, chosen)
        result = selection.select(built, people, chosen, args.seeds, args.margin, on)

        says = [*setup, giveaways.sentence(odd), *result.says]
        report(result, says[len(setup) :])
        write_files(out.path, result, odd, says)
        selection_page.write(out.path / "features.html", result, odd, says, manifest)
        out.manifest |= {"patients": len(people), "targets": len(chosen), "without_least": result.test}
        out.manifest["columns"] = {verdict: len(rows) for verdict, rows in result.lists.items()}
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
        f"({', '.join(f'{name} {n:,}' for name, n in sizes.items())}); the others are left out, not taken as healthy. "
        f"Index stay: the first coded one. Features: what was known {hours:g} hours after admission"
    )


def report(result, says: list) -> None:
    """The same results as the files, in 100 columns."""
    from mimic_qlora import page, selection_page

    names = ["label", "train_share", "test_with", "auroc", "auroc_low", "auroc_high", "auroc_rows", "skill"]
    heading = "Targets: AUROC on test patients, beside that of the numbers of rows alone"
    print(page.terminal(selection_page.said_undefined(result.metrics), heading, columns=names))
    names = ["column", "permutation_drop", "drop_low", "drop_high", "selected_share", "best_target"]
    top = f"Most important columns, the first {TOP}: fall of AUROC when permuted, with 95% interval"
    print(page.terminal(result.lists["important"][:TOP], top, columns=names))
    least = result.lists["least"][-TOP:]
    heading = "Least important columns, proven free to go"
    if least:
        heading += f": the last {len(least)} of {len(result.lists['least'])}"
    print(page.terminal(least, heading, columns=["column", "reason"]))
    print("\n" + wrapped(says))


def write_files(folder: Path, result, odd: list, says: list) -> None:
    from mimic_qlora import spreadsheet

    names = list(result.columns[0])
    spreadsheet.write(folder / "columns_all.csv", result.columns)
    spreadsheet.write(folder / "columns_top.csv", result.lists["important"], names)
    spreadsheet.write(folder / "columns_least.csv", result.lists["least"][::-1], names)
    spreadsheet.write(folder / "columns_per_target.csv", result.per_target, ["target", "column", "permutation_drop"])
    spreadsheet.write(folder / "metrics.csv", result.metrics)
    spreadsheet.write(folder / "ablation.csv", result.ablation, ["columns", "target", "change", "low", "high"])
    spreadsheet.write(folder / "giveaways.csv", odd, ["target", "column", "item", "statistic", "auroc", "plausible"])
    content = {"statements": says, "without_least": result.test, "targets": result.metrics}
    storage.write_json(folder / "metrics.json", content)


if __name__ == "__main__":
    command_line.run(main)
