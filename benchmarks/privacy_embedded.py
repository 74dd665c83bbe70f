"""What does the memorisation audit find on the embedded model, and what does each remedy change?

    python benchmarks/privacy_embedded.py [FOLDER] [--only canaries,epochs,...]

Writes short records of made-up patients into FOLDER, each with an answer of random letters that
nothing but training on it could tell: a worst case, since real answers mostly follow from charts.
Trains and audits an adapter whose recipe is made to memorise, the recipe with one remedy each, and
an audit run of it with canaries. Prints a line each with CPU seconds and peak memory of one
process, and exposure against records in training. What was trained and read is kept: the same
command goes on.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers import audited_store  # noqa: E402
from mimic_qlora.display import text_tables  # noqa: E402
from mimic_qlora.llm import finding  # noqa: E402

RECIPE = "--recipe cpu --lr 2e-3 --batch-tokens 700 --accumulate 1 --validations 1 --patience 0"
FIGURES = ("loss", "ratio to base")
SECRETS = ("the secret in the answer", "the secret in the chart alone")
FIRST = "first"


class Variant(NamedTuple):
    """A recipe that differs from the first one."""

    options: str = ""  # of training
    is_single: bool = False  # one record a patient


VARIANTS = {
    FIRST: Variant(),
    "epochs": Variant("--epochs 1"),
    "dropout": Variant("--dropout 0.1"),
    "records": Variant(is_single=True),
    "rank": Variant("--rank 4"),
    "canaries": Variant("--canaries {canaries}"),
}


class Cost(NamedTuple):
    cpu_s: float
    peak_mb: float  # resident, of the process itself


def step(script: str, store: Path, options: str) -> Cost:
    """Run a script and return what the system says of its cost."""
    command = [sys.executable, str(ROOT / script), *options.split(), "--storage", str(store)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{script} {options} ended with {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(cpu, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))


def store_of(folder: Path, sizes: argparse.Namespace, is_single: bool) -> Path:
    """Return the storage folder of the records, several a patient or one."""
    place = folder / ("single" if is_single else "several")
    if not (place / "storage" / "adapters").exists():
        place.mkdir(parents=True, exist_ok=True)
        base = finding.model_path(None, place)
        n = 1 if is_single else sizes.records
        audited_store.write(place, audited_store.Plan(sizes.patients, n, sizes.tokens, base=base))
    return place / "storage"


def run(folder: Path, name: str, sizes: argparse.Namespace) -> dict[str, object]:
    """Train one variant, audit it, and return its line."""
    one = VARIANTS[name]
    store = store_of(folder, sizes, one.is_single)
    options = one.options.format(**vars(sizes))
    epochs = "" if "--epochs" in options else f"--epochs {sizes.epochs}"
    run = FIRST if name == "canaries" else name
    trained = step("train_qlora.py", store, f"{RECIPE} {epochs} {options} --run {run}")
    run += "-canaries" if name == "canaries" else ""
    read = step("run_files/audit_adapter.py", store, f"--run {run} --texts 10")
    with open(store / "privacy" / run / "figures.csv", encoding="utf-8") as file:
        found = {row["figure"]: row for row in csv.DictReader(file)}
    if name == "canaries":
        print(text_tables.text_table(doses(found), "Exposure against records in training"))
    print(f"{name}: {store / 'privacy' / run / 'audit.html'}", flush=True)
    return {
        "variant": name,
        **{f"{figure}, AUC": told(found[f"{figure}, answers: AUC"]) for figure in FIGURES},
        "training, CPU s": round(trained.cpu_s),
        "MB": round(trained.peak_mb),
        "audit, CPU s": round(read.cpu_s),
        "MB ": round(read.peak_mb),
    }


def told(row: dict[str, str]) -> str:
    return "{value} ({low} to {high})".format(**row)


def doses(found: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    """Return the exposures of each secret by records in training."""
    return [
        {"records in training": str(n)}
        | {secret: told(found[f"exposure of {secret}, {n} records, bits"]) for secret in SECRETS}
        for n in (0, 1, 10)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path, nargs="?", help="folder for the storage folders (default: a new one)")
    add("--only", default=",".join(VARIANTS), help="what to do (default: %(default)s)")
    add("--patients", type=int, default=50, help="patients trained on (default: %(default)s)")
    add("--records", type=int, default=3, help="records a patient (default: %(default)s)")
    add("--tokens", type=int, default=220, help="of a canary's context (default: %(default)s)")
    add("--epochs", type=int, default=4, help="of the first recipe (default: %(default)s)")
    add("--canaries", type=int, default=60, help="made-up patients (default: %(default)s)")
    sizes = parser.parse_args()
    folder = (sizes.folder or Path(tempfile.mkdtemp(prefix="bench_privacy_"))).resolve()
    print(f"Storage folders: {folder}")
    asked = sizes.only.split(",")
    print(text_tables.text_table([run(folder, name, sizes) for name in asked], width=200))


if __name__ == "__main__":
    main()
