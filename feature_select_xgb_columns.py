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
from pathlib import Path

from mimic_qlora.features.files import cohort_line, report, wrapped, write_files
from mimic_qlora.step import command_line, files, storage


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = "phenotypes join ICD-9 and ICD-10; codes are each over the stays of their own version (default: %(default)s)"
    parser.add_argument(
        "--targets", choices=("phenotypes", "codes"), default="phenotypes", help=what
    )
    many = "how many targets, the most frequent first (default: %(default)s)"
    parser.add_argument("--n-targets", type=int, default=20, help=many)
    landmark = "hours after admission: what was known by then is a feature (default: %(default)s)"
    parser.add_argument("--landmark-hours", type=float, default=24, help=landmark)
    seeds = (
        "models per target, each with its own shadows and held-out patients (default: %(default)s)"
    )
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
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # spinning threads are ten times slower on a busy machine

    from mimic_qlora.clinical import content as clinical
    from mimic_qlora.features import boosting, cohort, leakage, matrix, selection
    from mimic_qlora.features import page as selection_page
    from mimic_qlora.subjects import database

    on = boosting.device(args.device)
    settings = {
        name: getattr(args, name)
        for name in ("targets", "n_targets", "landmark_hours", "seeds", "margin")
    }
    inputs = {"subjects": manifest["id"], "clinical content": clinical.content_sha256()}
    for name in ("column_roles.csv", "plausible_features.csv"):
        inputs[name] = files.file_sha256(Path(boosting.__file__).with_name(name))
    inputs["visibility.csv"] = files.file_sha256(
        Path(boosting.__file__).parents[1] / "chart" / "visibility.csv"
    )
    with storage.step_output(
        store, "features", settings | {"device": on}, inputs, args.force
    ) as out:
        con = database.connect(store, out.path / "cohort")
        people = cohort.gather(con, args.landmark_hours)
        setup = [cohort_line(people, manifest, args.landmark_hours)]
        print(wrapped(setup))
        boosting.check_folds(people, args.seeds)
        chosen, passed_over = cohort.choose(con, people, args.targets, args.n_targets)
        con.close()
        setup += passed_over
        if passed_over:
            print(wrapped(passed_over))

        built = matrix.build(store, people, out.path)
        print(
            f"Features: {len(built.features):,} of {len({f.column for f in built.features})} columns; models on {on}"
        )
        odd = leakage.find(built, people, chosen)
        result = selection.select(built, people, chosen, args.seeds, args.margin, on)

        says = [*setup, leakage.sentence(odd), *result.says]
        report(result, says[len(setup) :])
        write_files(out.path, result, odd, says)
        selection_page.write(out.path / "features.html", result, odd, says, manifest)
        out.manifest |= {
            "patients": len(people),
            "targets": len(chosen),
            "without_least": result.test,
        }
        out.manifest["columns"] = {verdict: len(rows) for verdict, rows in result.lists.items()}
    print(
        f"\nWrote {store / 'features'}: columns_least.csv goes into step 4; open features.html in a browser"
    )


if __name__ == "__main__":
    command_line.run(main)
