"""Step 1 as a whole: read the source tables, write records and typed tables, prove nothing is lost."""

import shutil
import sys
from collections import Counter
from pathlib import Path

from mimic_qlora.step import storage
from mimic_qlora.step.errors import UserError


def verify(store: Path, sources: dict) -> None:
    """Compare what was written with the source files. Raises UserError that names the tables that differ."""
    from mimic_qlora.subjects import verification

    columns = storage.read_manifest(store, "subjects")["columns"]
    differing = verification.differences(store / "subjects", sources, columns)
    for name, part, n_csv, n_jsonl in differing:
        print(
            f"  {name} differs in part-{part:05d}: {n_csv:,} rows in the CSV, {n_jsonl:,} in the JSONL"
        )
    if differing:
        names = ", ".join(sorted({name for name, *_ in differing}))
        raise UserError(
            f"the JSONL and the CSV files differ in {names}: run the same command with --force"
        )
    print(
        f"Verified: every cell of {len(columns)} tables is in the JSONL as it is in the CSV files"
    )


def key(source) -> str:
    return f"{source.module}/{source.path.name}"


def how_far(folder: Path) -> str:
    """How much of an interrupted run is done."""
    done = list((folder / "parts").glob("*.done.json"))
    nested = sum(path.name.startswith("bucket-") for path in done)
    return f"stopped with {len(done) - nested} tables read and {nested} buckets of patients nested"


def check_space(sources: dict, share: float, folder: Path) -> None:
    """Refuse to start when the disk is too small for the intermediates and the output of a share of the patients.

    What a run that was killed left in `folder` is a part of both.
    """
    from mimic_qlora.subjects import buckets

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
    from mimic_qlora.mimic import releases
    from mimic_qlora.subjects import buckets, dictionaries, nesting, patients

    folder = out.path
    for name in ("shards", "tables", "dictionaries", "parts"):
        (folder / name).mkdir(exist_ok=True)
    by_subject = {
        n: s
        for n, s in sources.items()
        if not {"subject_id", "hadm_id", "stay_id"}.isdisjoint(s.columns)
    }
    everybody = patients.read(sources["patients"])
    listed = (
        patients.listed(given_file(args.subjects_file), everybody)
        if args.subjects_file
        else everybody
    )
    chosen = set(listed) if args.sample == 1 else patients.sample(listed, args.sample, args.seed)
    split = patients.assign(chosen, args.seed)
    (folder / "split.csv").write_text(
        "subject_id,split\n" + "".join(f"{s},{name}\n" for s, name in split.items())
    )

    check_space(by_subject, len(chosen) / len(everybody), folder)
    n_buckets = buckets.count(
        by_subject, len(everybody), len(chosen), buckets.bytes_per_bucket(args.memory)
    )
    plan = buckets.layout(everybody, chosen, n_buckets)
    no_subject = {
        n: dictionaries.write(s, folder) for n, s in sources.items() if n not in by_subject
    }
    rows = buckets.partition_all(by_subject, plan, folder / "parts", args.memory)
    keep_rejects(rows | no_subject, folder, store, args.max_rejects)
    columns = {name: buckets.stored_columns(source) for name, source in by_subject.items()}
    nested = nesting.nest_all(plan, columns, folder, args.memory, args.workers)

    for name, counts in rows.items():
        counts |= {
            view: sum(done[view].get(name, 0) for done in nested) for view in ("jsonl", "columnar")
        }
        if (
            not counts["in"] - counts["unsampled"] - counts["rejected"]
            == counts["jsonl"]
            == counts["columnar"]
        ):
            raise RuntimeError(f"rows of {name} were lost: {counts}")
    misfits = sum((Counter(done["misfits"]) for done in [*nested, *no_subject.values()]), Counter())
    nesting.write_index(
        [place for done in nested for place in done["index"]], folder / "index.parquet"
    )
    out.manifest["rows"] = rows
    out.manifest["cells_not_of_their_type"] = dict(misfits)
    out.manifest["columns"] = columns
    out.manifest["split"] = {
        name: sum(s == name for s in split.values()) for name in patients.SHARES
    }
    found = {name: counts["in"] for name, counts in (rows | no_subject).items()}
    version, agreeing, differing = releases.identify(
        found, Path(out.manifest["settings"]["folder"])
    )
    out.manifest["dictionaries"] = {
        name: counts["in"] - counts["rejected"] for name, counts in no_subject.items()
    }
    out.manifest["source"] = {"version": version, "patients": len(chosen), "unexpected": differing}
    if agreeing or differing:
        print(
            f"Row counts: {agreeing} of {agreeing + len(differing)} tables as published for {version}"
        )
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
        raise UserError(
            f"there is no file {path}: give one with a subject_id a line by --subjects-file"
        )
    return path


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's if that is less."""
    import psutil

    limit = Path("/sys/fs/cgroup/memory.max")
    contained = limit.read_text().strip() if limit.exists() else ""
    return min(
        psutil.virtual_memory().total, int(contained) if contained.isdecimal() else sys.maxsize
    )


def print_proof(rows: dict) -> None:
    """The table that shows where every row went."""
    columns = ("in", "unsampled", "rejected", "jsonl", "columnar")
    total = {key: sum(counts[key] for counts in rows.values()) for key in columns}
    print(
        f"\n{'table':<20}{'rows in':>14}{'not sampled':>14}{'rejected':>14}{'JSONL':>14}{'columnar':>14}"
    )
    for name, counts in [*sorted(rows.items()), ("all tables", total)]:
        print(f"{name:<20}" + "".join(f"{counts[key]:>14,}" for key in columns))
    print("rows in = rows not sampled + rows rejected + rows out, for every table\n")
