"""Does the demo's adapter help? The demo's recipe by three training seeds, and two controls.

    python benchmarks/demo.py FOLDER

Runs what run_files/studies/demo.yaml says, which is frozen: prints its SHA-256, trains with each of
SEEDS, and asks the demo's trials of each adapter. The controls have the same budget:

- shuffled: the gold answers of each symptom change hands between training patients. Such an adapter
  knows what is said of a symptom; what it says of the chart can only be right by chance.
- other chart: the adapter is given the chart of another patient, and asked the same.

Prints a table, and whether the aims are met. A missed aim is a result, not a failure. Two hours or
more on two cores; a run that was stopped goes on with the same command.
"""

import argparse
import csv
import random
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean as mean_of

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mimic_qlora.display.text_tables import text_table  # noqa: E402
from mimic_qlora.prompts import record_files  # noqa: E402
from mimic_qlora.step import files, manifests  # noqa: E402
from mimic_qlora.study import commands, running, study_file  # noqa: E402
from mimic_qlora.validation import results, statistics  # noqa: E402
from mimic_qlora.validation.arms import ADAPTER, ARMS, BASE, Arm  # noqa: E402

STUDY = ROOT / "run_files" / "studies" / "demo.yaml"
SEEDS = (0, 1, 2)
AIMED = ("rubric", "red_flags", "cautions_trained")  # each to rise by AIM, in every seed
AIM = 0.15
FEW_REPEATED = 1 / 20  # lines
SHOWN = (*AIMED, "cautions_held_out", "false_statements", "cut", "repeated")
FIRST_STEPS = ("subjects", "features", "prompts")


def variant(seed: int, other_chart: bool) -> study_file.StudyFile:
    """Return the demo's study with this training seed, with or without the second control."""
    file = study_file.read(STUDY)
    study = file.study
    training = study.training.model_copy(update={"seed": seed, "run": f"seed{seed}"})
    arms = ["base", "adapter", *["adapter-other-chart"] * other_chart]
    validation = study.validation.model_copy(update={"arms": arms})
    return replace(
        file, study=study.model_copy(update={"training": training, "validation": validation})
    )


def run(store: Path, seed: int, steps: tuple[str, ...], other_chart: bool = False) -> None:
    """Run some steps of the study in a storage folder."""
    chosen = [c for c in commands.of(variant(seed, other_chart), store) if c.step in steps]
    ended = running.run_all(chosen, ROOT, {})
    if ended:
        sys.exit(ended.code)


def shuffle(store: Path, other: Path) -> None:
    """Copy the steps before training, the answers of each symptom dealt to other patients."""
    if (other / "prompts" / "manifest.json").exists():
        return
    for name in FIRST_STEPS:
        shutil.copytree(store / name, other / name, dirs_exist_ok=True)
    path = record_files.path_of(other, "train")
    records = list(record_files.read(path))
    by_symptom: dict[str | None, list[int]] = {}
    for place, record in enumerate(records):
        by_symptom.setdefault(record.symptom, []).append(place)
    dealt = list(records)
    alone = sum(len(places) == 1 for places in by_symptom.values())
    print(f"Shuffled: {len(records) - alone} answers change hands; {alone} have no other to take")
    for places in by_symptom.values():
        random.Random(0).shuffle(places)
        for place, giver in zip(places, places[1:] + places[:1], strict=True):
            messages = [*records[place].messages[:-1], records[giver].messages[-1]]
            dealt[place] = replace(records[place], messages=messages)
    path.write_bytes(b"".join(record.as_json() for record in dealt))
    folder = other / "prompts"
    before = manifests.read(folder) or {}
    (folder / manifests.NAME).unlink()
    made = manifests.finish_manifest(folder, before, time.time(), other)
    files.write_json(folder / manifests.NAME, made)


def add(arms: dict[str, dict[str, float]], store: Path, named: dict[str, Arm]) -> None:
    """Add the means over questions of the newest results: of the base, and of each arm named."""
    folder = results.newest(store)
    if folder is None:
        sys.exit(f"{store} has no results")
    with open(folder / "output.csv", newline="", encoding="utf-8") as file:
        rows = [
            {name: cell if name == "question_id" else value(cell) for name, cell in row.items()}
            for row in csv.DictReader(file)
        ]
    for name, arm in named.items():
        found = statistics.compare(rows, SHOWN, (BASE, arm))
        arms.setdefault("base", {metric: d.base for metric, d in found.items()})
        arms[name] = {metric: d.adapter for metric, d in found.items()}


def value(cell: str) -> float | None:
    """Return a score of output.csv; None for an empty cell, and for text, which no score is."""
    try:
        return float(cell)
    except ValueError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder for the storage folders of the runs")
    args = parser.parse_args()
    store, other = (args.folder.resolve() / name for name in ("as_it_is", "shuffled"))
    store.mkdir(parents=True, exist_ok=True)
    print(f"{STUDY.name}, SHA-256 {study_file.read(STUDY).sha256}")
    run(store, SEEDS[0], FIRST_STEPS)
    shuffle(store, other)

    arms: dict[str, dict[str, float]] = {}
    for seed in SEEDS:
        first = seed == SEEDS[0]
        run(store, seed, ("adapters", "validation"), other_chart=first)
        named = {f"adapter, seed {seed}": ADAPTER}
        if first:
            named[f"other chart, seed {seed}"] = ARMS["adapter-other-chart"]
        add(arms, store, named)
    run(other, SEEDS[0], ("adapters", "validation"))
    add(arms, other, {f"shuffled, seed {SEEDS[0]}": ADAPTER})

    print(f"\n{STUDY.name}, SHA-256 {study_file.read(STUDY).sha256}")
    table = [
        {"arm": arm, **{name: f"{mean:.2f}" for name, mean in row.items()}}
        for arm, row in arms.items()
    ]
    print(text_table(table, width=120))
    for line in aims(arms):
        print(line)


def aims(arms: dict[str, dict[str, float]]) -> list[str]:
    """Return a line for each aim: what was aimed at, what was found, met or not."""
    tuned = [arms[f"adapter, seed {seed}"] for seed in SEEDS]
    said = []
    for name in AIMED:
        rises = [one[name] - arms["base"][name] for one in tuned]
        met = mean_of(rises) >= AIM and min(rises) > 0
        each = ", ".join(f"{rise:+.2f}" for rise in rises)
        said.append(
            f"{name}: mean rise {mean_of(rises):+.2f} ({each}), aimed at {AIM}: {told(met)}"
        )
    cut, repeated = (max(one[name] for one in tuned) for name in ("cut", "repeated"))
    said.append(f"answers cut, at most: {cut:.2f}, aimed at 0: {told(cut == 0)}")
    said.append(
        f"lines that repeat, at most: {repeated:.2f}, aimed at less than {FEW_REPEATED}: "
        f"{told(repeated < FEW_REPEATED)}"
    )
    name = "cautions_trained"
    own = tuned[0][name]
    for control in (f"shuffled, seed {SEEDS[0]}", f"other chart, seed {SEEDS[0]}"):
        fell = arms[control][name]
        said.append(f"{name} of {control}: {fell:.2f}, of its own {own:.2f}")
    return said


def told(met: bool) -> str:
    return "met" if met else "missed"


if __name__ == "__main__":
    main()
