"""The files that step 3 writes."""

import textwrap
from pathlib import Path

from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError

TOP = 20


def wrapped(lines: list) -> str:
    return "\n".join(textwrap.fill(line, 100) for line in lines)


def cohort_line(people, manifest: dict, hours: float) -> str:
    """Who is studied. Raises UserError when no train patient is left."""
    sizes = {name: int((people.split == name).sum()) for name in ("train", "validation", "test")}
    if not sizes["train"]:
        raise UserError(
            "no train patient has a stay with coded diagnoses: convert more patients with step 1"
        )
    return (
        f"Cohort: {len(people):,} of {manifest['source']['patients']:,} patients have a coded stay "
        f"({', '.join(f'{name} {n:,}' for name, n in sizes.items())}); the others are left out, not taken as healthy. "
        f"Index stay: the first coded one. Features: what was known {hours:g} hours after admission"
    )


def report(result, says: list) -> None:
    """The same results as the files, in 100 columns."""
    from mimic_qlora.display import text_tables
    from mimic_qlora.features import page as selection_page

    names = [
        "label",
        "train_share",
        "test_with",
        "auroc",
        "auroc_low",
        "auroc_high",
        "auroc_rows",
        "skill",
    ]
    heading = "Targets: AUROC on test patients, beside that of the numbers of rows alone"
    print(
        text_tables.text_table(
            selection_page.said_undefined(result.metrics), heading, columns=names
        )
    )
    names = ["column", "permutation_drop", "drop_low", "drop_high", "selected_share", "best_target"]
    top = f"Most important columns, the first {TOP}: fall of AUROC when permuted, with 95% interval"
    print(text_tables.text_table(result.lists["important"][:TOP], top, columns=names))
    least = result.lists["least"][-TOP:]
    heading = "Least important columns, proven free to go"
    if least:
        heading += f": the last {len(least)} of {len(result.lists['least'])}"
    print(text_tables.text_table(least, heading, columns=["column", "reason"]))
    print("\n" + wrapped(says))


def write_files(folder: Path, result, odd: list, says: list) -> None:
    from mimic_qlora.display import csv_files

    names = list(result.columns[0])
    csv_files.write(folder / "columns_all.csv", result.columns)
    csv_files.write(folder / "columns_top.csv", result.lists["important"], names)
    csv_files.write(folder / "columns_least.csv", result.lists["least"][::-1], names)
    csv_files.write(
        folder / "columns_per_target.csv",
        result.per_target,
        ["target", "column", "permutation_drop"],
    )
    csv_files.write(folder / "metrics.csv", result.metrics)
    csv_files.write(
        folder / "ablation.csv", result.ablation, ["columns", "target", "change", "low", "high"]
    )
    csv_files.write(
        folder / "giveaways.csv",
        odd,
        ["target", "column", "item", "statistic", "auroc", "plausible"],
    )
    content = {"statements": says, "without_least": result.test, "targets": result.metrics}
    files.write_json(folder / "metrics.json", content)
