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
from collections import Counter
from pathlib import Path

from mimic_qlora import command_line, storage
from mimic_qlora.storage import UserError


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--mimic-dir",
        help="folder with MIMIC-IV's hosp/ and icu/ (default: $MIMIC_DIR, else the built-in synthetic data)",
    )
    add("--fetch-demo", metavar="FOLDER", help="download the open 100-patient demo from PhysioNet and use it")
    add("--verify-checksums", action="store_true", help="first check the files against PhysioNet's SHA256SUMS.txt")
    add("--verify", action="store_true", help="read the JSONL back and compare it with the CSV files, cell by cell")
    add("--synthetic-patients", type=int, default=400, help="patients of the built-in data (default: %(default)s)")
    add("--sample", type=float, default=1.0, help="share of the patients to convert, 0 to 1 (default: all)")
    add("--subjects-file", help="convert only the patients whose subject_ids this file lists, one a line")
    add("--seed", type=int, default=42, help="seed of the sample and of the split (default: %(default)s)")
    add("--memory", type=float, help="memory to keep within, in GB (default: a quarter of the machine's)")
    add("--workers", type=int, help="processes that nest buckets side by side, within --memory (default: one a core)")
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
        raise UserError(f"--sample {args.sample} is not a share of the patients: give a number above 0 and up to 1")
    if args.max_rejects < 0:
        raise UserError(f"--max-rejects {args.max_rejects} is no number of rows: give 0 or more")
    if args.synthetic_patients < 10:
        raise UserError(f"--synthetic-patients {args.synthetic_patients} is too few for three splits: give 10 or more")
    if args.memory is not None:
        command_line.check_range(args, "memory", 0.5, round(machine_memory() / 1e9, 1))
    args.memory = int(args.memory * 1e9) if args.memory else machine_memory() // 4  # bytes
    return args


def main():
    args = arguments()
    store = storage.open_storage(args.storage, create=True)
    mimic_dir = args.fetch_demo or args.mimic_dir or os.environ.get("MIMIC_DIR")
    folder = Path(mimic_dir).expanduser().resolve() if mimic_dir else synthetic(store, args)

    from mimic_qlora import buckets, download, tables

    if args.fetch_demo:
        download.fetch_demo(folder)
    if args.verify_checksums:
        absent = download.verify_checksums(folder)
        print("Checksums are right" + (f"; listed but absent: {', '.join(absent)}" if absent else ""))
    sources = tables.find(folder)
    missing = [n for n, t in tables.schema().items() if t.module in ("hosp", "icu") and n not in sources]
    print(f"Tables: {len(sources)} found in {folder}" + (f"; absent: {', '.join(missing)}" if missing else ""))
    read = {source.path for source in sources.values()}
    if outside := [path.name for path in tables.csv_files(folder) if path not in read]:
        print(f"  not read, as they do not lie in hosp/, icu/, ed/ or note/: {', '.join(outside)}")
    for source in sources.values():
        if source.drift:
            print(f"  {source.path.name}: {source.drift}")

    settings = {k: getattr(args, k) for k in ("sample", "seed", "subjects_file")} | {"folder": str(folder)}
    settings["bucket_bytes"] = buckets.bytes_per_bucket(args.memory)
    inputs = {key(source): storage.file_identity(source.path) for source in sources.values()}
    if args.subjects_file:
        inputs["subjects_file"] = storage.file_identity(given_file(args.subjects_file))
    try:
        write_subjects(store, sources, settings, inputs, mimic_dir, args)
    except storage.UpToDate as message:
        print(message)
    if args.verify:
        verify(store, sources)


def write_subjects(store: Path, sources: dict, settings: dict, inputs: dict, mimic_dir: str | None, args) -> None:
    """Convert the tables, look at what cannot be right in them, and show that no row was lost."""
    from mimic_qlora import quality

    with storage.step_output(store, "subjects", settings, inputs, args.force, resumable=True) as out:
        try:
            convert(sources, out, store, args)
            flags = quality.flags(out.path, temp=out.path / "parts")
        except (KeyboardInterrupt, SystemExit):
            print(f"\n{how_far(out.path)}; the same command goes on from there", file=sys.stderr)
            raise
        for source in sources.values():
            if storage.file_identity(source.path) != inputs[key(source)]:
                raise UserError(f"{source.path} changed while it was read: run the same command again")
        for marker in (out.path / "parts").glob("*.done.json"):
            if not marker.name.startswith("bucket-"):
                marker.unlink()  # first, as the rows of buckets are gone: killed here, a run reads the tables anew
        shutil.rmtree(out.path / "parts")  # only now: until here a run that is killed goes on from them
        out.manifest["source"] |= {"kind": "mimic" if mimic_dir else "synthetic", "folder": settings["folder"]}
        out.manifest["quality"] = [flag for flag in flags if flag["rows"]]
        print(storage.data_line(out.manifest))
        quality.print_flags(flags)
        print_proof(out.manifest["rows"])
    print(f"Wrote {store / 'subjects'}")


def verify(store: Path, sources: dict) -> None:
    """Compare what was written with the source files. Raises UserError that names the tables that differ."""
    from mimic_qlora import verification

    columns = storage.read_manifest(store, "subjects")["columns"]
    differing = verification.differences(store / "subjects", sources, columns)
    for name, part, n_csv, n_jsonl in differing:
        print(f"  {name} differs in part-{part:05d}: {n_csv:,} rows in the CSV, {n_jsonl:,} in the JSONL")
    if differing:
        names = ", ".join(sorted({name for name, *_ in differing}))
        raise UserError(f"the JSONL and the CSV files differ in {names}: run the same command with --force")
    print(f"Verified: every cell of {len(columns)} tables is in the JSONL as it is in the CSV files")


def key(source) -> str:
    return f"{source.module}/{source.path.name}"


def how_far(folder: Path) -> str:
    """How much of an interrupted run is done."""
    done = list((folder / "parts").glob("*.done.json"))
    nested = sum(path.name.startswith("bucket-") for path in done)
    return f"stopped with {len(done) - nested} tables read and {nested} buckets of patients nested"


def synthetic(store: Path, args) -> Path:
    """The folder of the built-in synthetic MIMIC-IV, made if it is not there for this number of patients yet."""
    from mimic_qlora import synthetic

    name, settings = "synthetic", {"patients": args.synthetic_patients, "seed": args.seed}
    print(f"No --mimic-dir given: using the built-in synthetic MIMIC-IV with {args.synthetic_patients} patients")
    try:
        with storage.step_output(store, name, settings, {}) as out:
            synthetic.write(out.path, args.synthetic_patients, args.seed)
    except storage.UpToDate:
        pass
    return store / name


def check_space(sources: dict, share: float, folder: Path) -> None:
    """Refuse to start when the disk is too small for the intermediates and the output of a share of the patients.

    What a run that was killed left in `folder` is a part of both.
    """
    from mimic_qlora import buckets

    # measured on the demo x10 with a stand-in chartevents: at most 0.77 of the CSV, of which 0.45 stay as output
    needed = 0.8 * share * sum(map(buckets.unpacked_bytes, sources.values()))
    needed -= sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder.parent} has {free / 1e9:.1f} GB free and about {needed / 1e9:.1f} GB are needed: "
            "free some space or give another --storage"
        )


def convert(sources: dict, out, store: Path, args) -> None:
    """Read every table once into buckets, nest the buckets, and prove that no row was lost on the way."""
    from mimic_qlora import buckets, dictionaries, nesting, releases, roster, splits

    folder = out.path
    for name in ("shards", "tables", "dictionaries", "parts"):
        (folder / name).mkdir(exist_ok=True)
    by_subject = {n: s for n, s in sources.items() if not {"subject_id", "hadm_id", "stay_id"}.isdisjoint(s.columns)}
    patients = roster.read(sources["patients"])
    listed = roster.listed(given_file(args.subjects_file), patients) if args.subjects_file else patients
    chosen = set(listed) if args.sample == 1 else splits.sample(listed, args.sample, args.seed)
    split = splits.assign(chosen, args.seed)
    (folder / "split.csv").write_text("subject_id,split\n" + "".join(f"{s},{name}\n" for s, name in split.items()))

    check_space(by_subject, len(chosen) / len(patients), folder)
    n_buckets = buckets.count(by_subject, len(patients), len(chosen), buckets.bytes_per_bucket(args.memory))
    plan = buckets.layout(patients, chosen, n_buckets)
    no_subject = {n: dictionaries.write(s, folder) for n, s in sources.items() if n not in by_subject}
    rows = buckets.partition_all(by_subject, plan, folder / "parts", args.memory)
    keep_rejects(rows | no_subject, folder, store, args.max_rejects)
    columns = {name: buckets.stored_columns(source) for name, source in by_subject.items()}
    nested = nesting.nest_all(plan, columns, folder, args.memory, args.workers)

    for name, counts in rows.items():
        counts |= {view: sum(done[view].get(name, 0) for done in nested) for view in ("jsonl", "columnar")}
        if not counts["in"] - counts["unsampled"] - counts["rejected"] == counts["jsonl"] == counts["columnar"]:
            raise RuntimeError(f"rows of {name} were lost: {counts}")
    misfits = sum((Counter(done["misfits"]) for done in [*nested, *no_subject.values()]), Counter())
    nesting.write_index([place for done in nested for place in done["index"]], folder / "index.parquet")
    out.manifest["rows"] = rows
    out.manifest["cells_not_of_their_type"] = dict(misfits)
    out.manifest["columns"] = columns
    out.manifest["split"] = {name: sum(s == name for s in split.values()) for name in splits.SHARES}
    found = {name: counts["in"] for name, counts in (rows | no_subject).items()}
    version, agreeing, differing = releases.identify(found, Path(out.manifest["settings"]["folder"]))
    out.manifest["dictionaries"] = {name: counts["in"] - counts["rejected"] for name, counts in no_subject.items()}
    out.manifest["source"] = {"version": version, "patients": len(chosen), "unexpected": differing}
    if agreeing or differing:
        print(f"Row counts: {agreeing} of {agreeing + len(differing)} tables as published for {version}")
    for sentence in differing:
        print(f"  {sentence}: check the download, or say so in the paper")


def keep_rejects(rows: dict, folder: Path, store: Path, most: int) -> None:
    """Keep the rows that were rejected. Raises UserError when they are more than `most`."""
    rejected = sum(counts["rejected"] for counts in rows.values())
    for old in (folder / "rejects", store / "rejects"):
        shutil.rmtree(old, ignore_errors=True)
    if not rejected:
        return
    place = folder / "rejects" if rejected <= most else store / "rejects"
    place.mkdir()
    for path in (folder / "parts").glob("*.rejects.csv"):
        shutil.copyfile(path, place / path.name.replace(".rejects", ""))
    if rejected > most:
        worst = max(rows, key=lambda name: rows[name]["rejected"])
        raise UserError(
            f"{rejected} rows cannot be read or belong to no patient ({rows[worst]['rejected']} of them in {worst}): "
            f"{place} lists them with their reasons; mend the download or allow them with --max-rejects {rejected}"
        )


def given_file(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}: give one with a subject_id a line by --subjects-file")
    return path


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's if that is less."""
    import psutil

    limit = Path("/sys/fs/cgroup/memory.max")
    contained = limit.read_text().strip() if limit.exists() else ""
    return min(psutil.virtual_memory().total, int(contained) if contained.isdecimal() else sys.maxsize)


def print_proof(rows: dict) -> None:
    """The table that shows where every row went."""
    columns = ("in", "unsampled", "rejected", "jsonl", "columnar")
    total = {key: sum(counts[key] for counts in rows.values()) for key in columns}
    print(f"\n{'table':<20}{'rows in':>14}{'not sampled':>14}{'rejected':>14}{'JSONL':>14}{'columnar':>14}")
    for name, counts in [*sorted(rows.items()), ("all tables", total)]:
        print(f"{name:<20}" + "".join(f"{counts[key]:>14,}" for key in columns))
    print("rows in = rows not sampled + rows rejected + rows out, for every table\n")


if __name__ == "__main__":
    command_line.run(main)
