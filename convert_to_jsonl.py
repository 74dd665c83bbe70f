"""Step 1: consolidate the MIMIC-IV relational tables into a subject-keyed JSONL file.

    python convert_to_jsonl.py --mimic-dir /data/mimiciv/3.1

Leaves `subjects/` in the storage folder: one JSON record per patient in compressed, indexed
shards, the same rows as typed columnar tables, and the split of patients into train, validation
and test. Without --mimic-dir it uses the built-in synthetic MIMIC-IV. Stopped or killed, the same
command goes on where it was.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from mimic_qlora.step import command_line, errors, files, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects.conversion import (
    convert,
    given_file,
    how_far,
    key,
    machine_memory,
    print_proof,
    verify,
)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--mimic-dir",
        help="folder with MIMIC-IV's hosp/ and icu/ (default: $MIMIC_DIR, else the built-in synthetic data)",
    )
    add(
        "--fetch-demo",
        metavar="FOLDER",
        help="download the open 100-patient demo from PhysioNet and use it",
    )
    add(
        "--verify-checksums",
        action="store_true",
        help="first check the files against PhysioNet's SHA256SUMS.txt",
    )
    add(
        "--verify",
        action="store_true",
        help="read the JSONL back and compare it with the CSV files, cell by cell",
    )
    add(
        "--synthetic-patients",
        type=int,
        default=400,
        help="patients of the built-in data (default: %(default)s)",
    )
    add(
        "--sample",
        type=float,
        default=1.0,
        help="share of the patients to convert, 0 to 1 (default: all)",
    )
    add(
        "--subjects-file",
        help="convert only the patients whose subject_ids this file lists, one a line",
    )
    add(
        "--seed",
        type=int,
        default=42,
        help="seed of the sample and of the split (default: %(default)s)",
    )
    add(
        "--memory",
        type=float,
        help="memory to keep within, in GB (default: a quarter of the machine's)",
    )
    add(
        "--workers",
        type=int,
        help="processes that nest buckets side by side, within --memory (default: one a core)",
    )
    add(
        "--max-rejects",
        type=int,
        default=0,
        help="rows that may be unreadable or belong to nobody (default: %(default)s)",
    )
    command_line.add_arguments(parser)
    args = parser.parse_args()
    command_line.check_positive(args, "memory", "workers")
    command_line.check_range(args, "seed", 0, 2**32 - 1)
    if not 0 < args.sample <= 1:
        raise UserError(
            f"--sample {args.sample} is not a share of the patients: give a number above 0 and up to 1"
        )
    if args.max_rejects < 0:
        raise UserError(f"--max-rejects {args.max_rejects} is no number of rows: give 0 or more")
    if args.synthetic_patients < 10:
        raise UserError(
            f"--synthetic-patients {args.synthetic_patients} is too few for three splits: give 10 or more"
        )
    if args.memory is not None:
        command_line.check_range(args, "memory", 0.5, round(machine_memory() / 1e9, 1))
    args.memory = int(args.memory * 1e9) if args.memory else machine_memory() // 4  # bytes
    return args


def main():
    args = arguments()
    store = storage.open_storage(args.storage, create=True)
    mimic_dir = args.fetch_demo or args.mimic_dir or os.environ.get("MIMIC_DIR")
    folder = Path(mimic_dir).expanduser().resolve() if mimic_dir else synthetic(store, args)

    from mimic_qlora.mimic import download, tables
    from mimic_qlora.subjects import buckets

    if args.fetch_demo:
        download.fetch_demo(folder)
    if args.verify_checksums:
        absent = download.verify_checksums(folder)
        print(
            "Checksums are right" + (f"; listed but absent: {', '.join(absent)}" if absent else "")
        )
    sources = tables.find(folder)
    missing = [
        n for n, t in tables.schema().items() if t.module in ("hosp", "icu") and n not in sources
    ]
    print(
        f"Tables: {len(sources)} found in {folder}"
        + (f"; absent: {', '.join(missing)}" if missing else "")
    )
    read = {source.path for source in sources.values()}
    if outside := [path.name for path in tables.csv_files(folder) if path not in read]:
        print(f"  not read, as they do not lie in hosp/, icu/, ed/ or note/: {', '.join(outside)}")
    for source in sources.values():
        if source.drift:
            print(f"  {source.path.name}: {source.drift}")

    settings = {k: getattr(args, k) for k in ("sample", "seed", "subjects_file")} | {
        "folder": str(folder)
    }
    settings["bucket_bytes"] = buckets.bytes_per_bucket(args.memory)
    inputs = {key(source): files.file_identity(source.path) for source in sources.values()}
    if args.subjects_file:
        inputs["subjects_file"] = files.file_identity(given_file(args.subjects_file))
    try:
        write_subjects(store, sources, settings, inputs, mimic_dir, args)
    except errors.UpToDate as message:
        print(message)
    if args.verify:
        verify(store, sources)


def write_subjects(
    store: Path, sources: dict, settings: dict, inputs: dict, mimic_dir: str | None, args
) -> None:
    """Convert the tables, look at what cannot be right in them, and show that no row was lost."""
    from mimic_qlora.subjects import quality

    with storage.step_output(
        store, "subjects", settings, inputs, args.force, resumable=True
    ) as out:
        try:
            convert(sources, out, store, args)
            flags = quality.flags(out.path, temp=out.path / "parts")
        except (KeyboardInterrupt, SystemExit):
            print(f"\n{how_far(out.path)}; the same command goes on from there", file=sys.stderr)
            raise
        for source in sources.values():
            if files.file_identity(source.path) != inputs[key(source)]:
                raise UserError(
                    f"{source.path} changed while it was read: run the same command again"
                )
        for marker in (out.path / "parts").glob("*.done.json"):
            if not marker.name.startswith("bucket-"):
                marker.unlink()  # first, as the rows of buckets are gone: killed here, a run reads the tables anew
        shutil.rmtree(
            out.path / "parts"
        )  # only now: until here a run that is killed goes on from them
        out.manifest["source"] |= {
            "kind": "mimic" if mimic_dir else "synthetic",
            "folder": settings["folder"],
        }
        out.manifest["quality"] = [flag for flag in flags if flag["rows"]]
        print(storage.data_line(out.manifest))
        quality.print_flags(flags)
        print_proof(out.manifest["rows"])
    print(f"Wrote {store / 'subjects'}")


def synthetic(store: Path, args) -> Path:
    """The folder of the built-in synthetic MIMIC-IV, made if it is not there for this number of patients yet."""
    from mimic_qlora.mimic.synthetic import hospital as synthetic

    name, settings = "synthetic", {"patients": args.synthetic_patients, "seed": args.seed}
    print(
        f"No --mimic-dir given: using the built-in synthetic MIMIC-IV with {args.synthetic_patients} patients"
    )
    try:
        with storage.step_output(store, name, settings, {}) as out:
            synthetic.write(out.path, args.synthetic_patients, args.seed)
    except errors.UpToDate:
        pass
    return store / name


if __name__ == "__main__":
    command_line.run(main)
