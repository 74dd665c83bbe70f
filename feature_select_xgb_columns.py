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
from dataclasses import asdict

from mimic_qlora.features.settings import FeatureSettings
from mimic_qlora.step import command_line, ending, storage


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(__doc__)
    add, default = parser.add_argument, FeatureSettings()
    add(
        "--targets",
        choices=("phenotypes", "codes"),
        default=default.targets,
        help="phenotypes join ICD-9 and ICD-10; codes are each over the stays of their own version "
        "(default: %(default)s)",
    )
    add(
        "--n-targets",
        type=command_line.positive_int,
        default=default.n_targets,
        help="how many targets, the most frequent first (default: %(default)s)",
    )
    add(
        "--landmark-hours",
        type=command_line.number(0.1, 10_000),
        default=default.landmark_hours,
        help="hours after admission: what was known by then is a feature (default: %(default)s)",
    )
    add(
        "--seeds",
        type=command_line.positive_int,
        default=default.seeds,
        help="models per target, each with its own shadows and held-out patients "
        "(default: %(default)s)",
    )
    add(
        "--margin",
        type=command_line.number(0.0001, 0.5),
        default=default.margin,
        help="a loss of AUROC that the refits must rule out before a column may go "
        "(default: %(default)s)",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where the models are fitted; auto: on a GPU where there is one "
        "(default: %(default)s)",
    )
    command_line.add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Judge the columns and write `features/`."""
    args = arguments()
    store = storage.open_storage(args.storage)

    from mimic_qlora.subjects.manifest import data_line, subjects_manifest

    manifest = subjects_manifest(store)
    source = manifest["source"]
    print(data_line(source))

    from mimic_qlora.features import (
        boosting,
        cohort,
        files,
        inputs,
        leakage,
        matrix,
        page,
        selection,
    )
    from mimic_qlora.subjects import database

    settings = FeatureSettings(
        args.targets, args.n_targets, args.landmark_hours, args.seeds, args.margin
    )
    device = boosting.device(args.device)
    recorded = asdict(settings) | {"device": device}
    depends = inputs.of_step(manifest["id"])
    with (
        ending.told("features", store, ending.Options(args.storage), "features.html"),
        storage.step_output(store, "features", recorded, depends, args.force) as out,
    ):
        con = database.connect(store, out.path / "cohort")
        most = matrix.most_patients()
        people = cohort.gather(con, settings.landmark_hours, most)
        is_sample = len(people) == most
        setup = [files.cohort_line(people, source, settings.landmark_hours, is_sample)]
        print(files.wrapped(setup))
        boosting.check_folds(people, settings.seeds)
        targets, passed_over = cohort.choose(con, people, settings.targets, settings.n_targets)
        con.close()
        if passed_over:
            print(files.wrapped(passed_over))

        built = matrix.build(store, people, out.path)
        n_columns = len({feature.column for feature in built.features})
        print(f"Features: {len(built.features):,} of {n_columns} columns; models on {device}")
        odd = leakage.find(built, people, targets)
        result = selection.select(built, people, targets, settings, device)

        found = [leakage.sentence(odd), *result.says]
        says = [*setup, *passed_over, *found]
        files.print_report(result, found)
        files.write(out.path, result, odd, says)
        named = page.Named(result, files.item_names(store))
        page.write(out.path / "features.html", named, odd, says, source)
        out.facts.update(files.results(result, len(people), len(targets)))


if __name__ == "__main__":
    command_line.run(main)
