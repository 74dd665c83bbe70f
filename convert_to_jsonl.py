"""Step 1: consolidate the MIMIC-IV relational tables into a subject-keyed JSONL file.

    python convert_to_jsonl.py --mimic-dir /data/mimiciv/3.1

Leaves `subjects/` in the storage folder: one JSON record per patient in compressed, indexed shards,
and the same rows as typed columnar tables. It also splits the patients into train, validation and
test. Without --mimic-dir it uses the built-in synthetic MIMIC-IV. Stopped or killed, the same
command goes on where it was.
"""

import argparse

from mimic_qlora.step import command_line, ending, errors, files, storage

SYNTHETIC_PATIENTS = 400


def add_tables(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which tables are read, and how they are checked."""
    add = parser.add_argument
    add(
        "--mimic-dir",
        help="folder with MIMIC-IV's hosp/ and icu/ "
        "(default: $MIMIC_DIR, else the built-in synthetic data)",
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
        help="read JSONL and typed tables back and compare them with the CSV files, cell by cell",
    )
    add(
        "--multiline",
        metavar="TABLE.COLUMN",
        nargs="+",
        default=[],
        help="columns of texts whose cells may span lines, besides comments and note/",
    )
    add(
        "--synthetic-patients",
        type=command_line.whole_number(10, 10_000_000),
        help=f"patients of the built-in data (default: {SYNTHETIC_PATIENTS})",
    )
    add(
        "--synthetic-emergency",
        action="store_true",
        help="give the built-in data an emergency department too: ed/ and radiology",
    )


def arguments() -> argparse.Namespace:
    """Read the command line. Raises UserError for a value that cannot be."""
    parser = command_line.Parser(__doc__)
    add_tables(parser)
    add = parser.add_argument
    add(
        "--sample",
        type=command_line.share,
        default=1.0,
        help="share of the patients to convert, 0 to 1 (default: all)",
    )
    add(
        "--subjects-file",
        help="convert only the patients whose subject_ids this file lists, one a line",
    )
    add(
        "--seed",
        type=command_line.seed,
        default=42,
        help="seed of the sample and of the split (default: %(default)s)",
    )
    add(
        "--memory",
        type=command_line.positive_number,
        help="memory to keep within, in GB (default: a quarter of the machine's)",
    )
    add(
        "--workers",
        type=command_line.positive_int,
        help="processes that work side by side, within --memory (default: one a core)",
    )
    command_line.add_cluster(parser)
    add(
        "--max-rejects",
        type=command_line.whole_number(0, 10**12),
        default=0,
        help="rows that may be unreadable or belong to nobody (default: %(default)s)",
    )
    command_line.add_arguments(parser)
    add(
        "--replace-patients",
        action="store_true",
        help="let these patients take the place of real ones that were converted before",
    )
    return parser.parse_args()


def main() -> None:
    """Find or make the tables, convert them, and compare the result with them if asked to."""
    args = arguments()

    from mimic_qlora.mimic import download, own_ids, passed_over, tables
    from mimic_qlora.subjects import conversion, manifest, replacement
    from mimic_qlora.work import certificates, cluster

    if args.make_certificates:
        print(f"Wrote {certificates.make(args.make_certificates)}")
        return
    mimic_dir = replacement.one_source(vars(args))
    target = cluster.target(args.scheduler, args.scheduler_file, args.certificates)
    memory = conversion.memory_bytes(args.memory)
    store = storage.open_storage(args.storage, create=True)
    if mimic_dir:
        folder = files.resolved_path(mimic_dir)
    else:
        from mimic_qlora.mimic.synthetic import hospital

        n_patients = args.synthetic_patients or SYNTHETIC_PATIENTS
        if not args.replace_patients:
            replacement.check_synthetic(store)
        print(
            "No --mimic-dir given: using the built-in synthetic MIMIC-IV "
            f"with {n_patients} patients"
        )
        folder = hospital.in_storage(store, n_patients, args.seed, args.synthetic_emergency)
    if args.fetch_demo:
        download.fetch_demo(folder)
    if args.verify_checksums:
        absent = download.verify_checksums(folder)
    sources = tables.find(folder, args.multiline)
    own_ids.check(sources)
    if args.verify_checksums:
        conversion.print_sums(folder, sources, absent)
    empty = passed_over.without_rows(sources)
    conversion.print_sources(folder, sources, empty)
    settings = conversion.ConversionSettings(
        folder=folder,
        synthetic=not mimic_dir,
        sample=args.sample,
        subjects_file=args.subjects_file,
        seed=args.seed,
        memory=memory,
        workers=args.workers,
        max_rejects=args.max_rejects,
        replace_patients=args.replace_patients,
        cluster=target,
    )
    with ending.told("subjects", store, ending.Options(args.storage)):
        try:
            conversion.write_subjects(store, sources, empty, settings, args.force)
        except errors.UpToDate:
            manifest.say_outdated(store)
            if args.verify:
                conversion.verify(store, sources)
            raise
        if args.verify:
            conversion.verify(store, sources)


if __name__ == "__main__":
    command_line.run(main)
