"""Step 1: consolidate the MIMIC-IV relational tables into a subject-keyed JSONL file.

    python convert_to_jsonl.py --mimic-dir /data/mimiciv/3.1

Leaves `subjects/` in the storage folder: one JSON record per patient in compressed, indexed shards, the same rows as
typed columnar tables, and the split of patients into train, validation and test. Without --mimic-dir it uses the
built-in synthetic MIMIC-IV.
"""

import argparse
import os
import shutil
from pathlib import Path

from mimic_qlora import storage
from mimic_qlora.storage import UserError

PATIENTS_PER_BUCKET = 1000
MIB_PER_BUCKET = 256  # of uncompressed CSV: what is in memory, several times over, while a bucket is nested
GZIP_RATIO = 10  # of MIMIC-IV's .csv.gz files, about


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mimic-dir",
        help="folder of MIMIC-IV with hosp/ and icu/ in it (default: $MIMIC_DIR, else the built-in synthetic data)",
    )
    parser.add_argument(
        "--synthetic-patients",
        type=int,
        default=400,
        help="patients of the built-in synthetic data (default: %(default)s)",
    )
    parser.add_argument(
        "--sample", type=float, default=1.0, help="share of the patients to convert, 0 to 1 (default: all)"
    )
    parser.add_argument(
        "--seed", type=int, default=42, help="seed of the sample and of the split (default: %(default)s)"
    )
    storage.add_arguments(parser)
    args = parser.parse_args()
    if not 0 < args.sample <= 1:
        raise UserError(f"--sample {args.sample} is not a share of the patients: give a number above 0 and up to 1")
    if args.synthetic_patients < 10:
        raise UserError(f"--synthetic-patients {args.synthetic_patients} is too few for three splits: give 10 or more")
    return args


def main():
    args = arguments()
    store = storage.open_storage(args.storage, create=True)
    mimic_dir = args.mimic_dir or os.environ.get("MIMIC_DIR")
    folder = Path(mimic_dir).expanduser().resolve() if mimic_dir else synthetic(store, args)

    from mimic_qlora import tables

    sources = tables.find(folder)
    missing = [n for n, t in tables.schema().items() if t.module in ("hosp", "icu") and n not in sources]
    print(f"Tables: {len(sources)} found in {folder}" + (f"; absent: {', '.join(missing)}" if missing else ""))
    for source in sources.values():
        if source.drift:
            print(f"  {source.path.name}: {source.drift}")

    settings = {"sample": args.sample, "seed": args.seed, "folder": str(folder)}
    inputs = {f"{s.module}/{s.path.name}": storage.file_identity(s.path) for s in sources.values()}
    with storage.step_output(store, "subjects", settings, inputs, args.force) as out:
        convert(sources, out, args)
        out.manifest["source"] |= {"kind": "mimic" if mimic_dir else "synthetic", "folder": str(folder)}
        print(storage.data_line(out.manifest))
        print_proof(out.manifest["rows"])
    print(f"Wrote {store / 'subjects'}")


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


def convert(sources: dict, out, args) -> None:
    """Read every table once into buckets, nest the buckets, and prove that no row was lost on the way."""
    from tqdm import tqdm

    from mimic_qlora import buckets, splits

    folder = out.path
    for name in ("shards", "tables", "dictionaries", "parts"):
        (folder / name).mkdir()
    by_subject = {name: s for name, s in sources.items() if "subject_id" in s.columns}
    dictionaries = {name: read_dictionary(name, s, folder) for name, s in sources.items() if name not in by_subject}

    patients = read_subject_ids(sources["patients"])
    chosen = set(patients) if args.sample == 1 else splits.sample(patients, args.sample, args.seed)
    split = splits.assign(chosen, args.seed)
    (folder / "split.csv").write_text("subject_id,split\n" + "".join(f"{s},{name}\n" for s, name in split.items()))

    n_buckets = count_buckets(by_subject, len(patients), len(chosen))
    layout = buckets.Layout(patients, chosen, n_buckets)
    rows = {}
    with tqdm(total=len(by_subject), desc="reading tables", unit="table", disable=None) as bar:
        for name, source in by_subject.items():
            bar.set_postfix_str(name)
            rejects = folder / "rejects" / f"{name}.csv"
            rejects.parent.mkdir(exist_ok=True)
            rows[name] = buckets.partition(name, source, layout, folder / "parts", rejects, lambda n: bar.refresh())
            if rows[name]["rejected"]:
                raise UserError(
                    f"{rows[name]['rejected']} of {rows[name]['in']} rows of {source.path} belong to no patient in "
                    f"patients: check that all files are of one version of MIMIC-IV"
                )
            bar.update()

    nester = buckets.Nester(by_subject, dictionaries, folder)
    for bucket in tqdm(range(n_buckets), desc="nesting patients", unit="bucket", disable=None):
        subject_ids = layout.chosen[layout.bucket_of(layout.chosen) == bucket]
        nester.nest(bucket, subject_ids, folder / "parts")
    buckets.write_index(nester.index, folder / "index.parquet")
    for name in ("parts", "rejects"):
        shutil.rmtree(folder / name)

    for name, counts in rows.items():
        counts |= {view: nester.rows[view].get(name, 0) for view in nester.rows}
        if not counts["in"] - counts["unsampled"] - counts["rejected"] == counts["jsonl"] == counts["columnar"]:
            raise RuntimeError(f"rows of {name} were lost: {counts}")
    out.manifest["rows"] = rows
    out.manifest["cells_not_of_their_type"] = nester.misfits
    out.manifest["columns"] = {name: s.columns for name, s in by_subject.items()}
    out.manifest["split"] = {name: sum(s == name for s in split.values()) for name in splits.SHARES}
    out.manifest["source"] = {"version": version_of(rows, patients), "patients": len(chosen)}


def read_dictionary(name: str, source, folder: Path):
    """A table without subject_id, kept whole as dictionaries/<table>.parquet. Returns its strings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mimic_qlora import tables

    rows = pa.Table.from_batches(
        tables.read(source), pa.schema([(c, pa.string()) for c in source.columns])
    ).combine_chunks()
    pq.write_table(
        tables.typed(name, source.columns, rows)[0], folder / "dictionaries" / f"{name}.parquet", compression="zstd"
    )
    return rows


def read_subject_ids(source) -> list:
    """The subject_ids of `patients`. Raises UserError when one is not a whole number or stands there twice."""
    from mimic_qlora import tables

    ids = [value for batch in tables.read(source) for value in batch["subject_id"].to_pylist()]
    bad = [i for i, value in enumerate(ids) if not (value or "").isdecimal()]
    if bad:
        raise UserError(
            f"{source.path} has {len(bad)} rows whose subject_id is not a whole number (first: data row {bad[0] + 1})"
        )
    if not ids:
        raise UserError(f"{source.path} has no patients: check the download")
    if len(set(ids)) < len(ids):
        raise UserError(f"{source.path} has {len(ids) - len(set(ids))} subject_ids twice: check the download")
    return [int(value) for value in ids]


def count_buckets(sources: dict, n_patients: int, n_chosen: int) -> int:
    """How many buckets keep one bucket's rows small, whatever the size of the data."""
    unpacked = sum(s.path.stat().st_size * (GZIP_RATIO if s.path.suffix == ".gz" else 1) for s in sources.values())
    by_size = unpacked * n_chosen / n_patients / (MIB_PER_BUCKET << 20)
    return min(n_chosen, 512, max(1, round(by_size + 0.5), round(n_chosen / PATIENTS_PER_BUCKET + 0.5)))


def version_of(rows: dict, patients: list) -> str:
    """Which release of MIMIC-IV has this many patients and admissions (counts published by PhysioNet)."""
    known = {
        (100, 275): "MIMIC-IV Clinical Database Demo (2.2)",
        (364_627, 546_028): "MIMIC-IV 3.0 or 3.1",
        (299_712, 431_231): "MIMIC-IV 2.2",
    }
    return known.get((len(patients), rows["admissions"]["in"]), "MIMIC-IV tables of an unlisted release")


def print_proof(rows: dict) -> None:
    """The table that shows where every row went."""
    columns = ("in", "unsampled", "rejected", "jsonl", "columnar")
    total = {key: sum(counts[key] for counts in rows.values()) for key in columns}
    print(f"\n{'table':<20}{'rows in':>14}{'not sampled':>14}{'rejected':>14}{'JSONL':>14}{'columnar':>14}")
    for name, counts in [*sorted(rows.items()), ("all tables", total)]:
        print(f"{name:<20}" + "".join(f"{counts[key]:>14,}" for key in columns))
    print("rows in = rows not sampled + rows rejected + rows out, for every table\n")


if __name__ == "__main__":
    storage.run(main)
