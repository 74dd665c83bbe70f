"""Step 1 as a whole: read the tables, write records and typed tables, prove nothing is lost."""

import secrets
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mimic_qlora.display.cells import Row
from mimic_qlora.display.text import counted
from mimic_qlora.display.text_tables import text_table
from mimic_qlora.mimic import download, modules, passed_over, releases, tables
from mimic_qlora.mimic.tables import Columns, Source
from mimic_qlora.step import files, limits, manifests, storage, terminal
from mimic_qlora.step.errors import GoesOn, UserError
from mimic_qlora.step.files import FileIdentity
from mimic_qlora.subjects import (
    buckets,
    cell_report,
    dictionaries,
    nesting,
    partition,
    patients,
    rejects,
    replacement,
    runs,
    split_file,
)
from mimic_qlora.subjects.dictionaries import DictionaryRows
from mimic_qlora.subjects.manifest import CHECKS, checks_sha256, data_line, subjects_manifest
from mimic_qlora.subjects.nesting import NestedBucket
from mimic_qlora.subjects.partition import RowCounts
from mimic_qlora.subjects.runs import Run
from mimic_qlora.subjects.split_file import Split
from mimic_qlora.work.cluster import Cluster, Target
from mimic_qlora.work.engine import Engine

LEAST_MEMORY = 0.5  # GB
DICTIONARIES = {  # the table that each explains, and what its absence means
    "d_icd_diagnoses": ("diagnoses_icd", "diagnoses go without titles"),
    "d_icd_procedures": ("procedures_icd", "procedures go without titles"),
    "d_labitems": ("labevents", "labs go by their number"),
    "d_items": ("chartevents", "charted values are not compared with their normal range"),
}
DISK_SHARE = 0.8  # of the CSV; measured on the demo x10 with chartevents: 0.77, 0.45 of it output


@dataclass(frozen=True)
class ConversionSettings:
    """The choices of a run of step 1."""

    folder: Path  # with MIMIC-IV's tables
    synthetic: bool  # they are the built-in ones
    sample: float  # share of the patients, above 0, up to 1
    subjects_file: str | None  # lists the patients, as it was given
    seed: int  # of the sample and of the split
    memory: int  # bytes to keep within
    workers: int | None  # processes that nest side by side, None for one a core
    max_rejects: int  # rows that may be unreadable or belong to nobody
    replace_patients: bool = False  # real ones may give way to others
    cluster: Target | None = None  # that does the work; None for this machine

    def in_manifest(self) -> dict[str, Any]:
        """Return the settings that shape the output, by the names of the manifest."""
        return {
            "sample": self.sample,
            "seed": self.seed,
            "subjects_file": self.subjects_file,
            "folder": str(self.folder),
            "bucket_bytes": buckets.bytes_per_bucket(self.memory),
        }


class RowFlow(NamedTuple):
    """The way of a table's rows: in = kept + unsampled + rejected, kept = jsonl = columnar."""

    counts: RowCounts
    jsonl: int  # in the records
    columnar: int  # in the typed tables

    def in_manifest(self) -> dict[str, int]:
        """Return the numbers of rows by the names of the manifest."""
        written = {"jsonl": self.jsonl, "columnar": self.columnar}
        return partition.counts_in_manifest(self.counts) | written


class Converted(NamedTuple):
    """The content of step 1's output."""

    rows: dict[str, RowFlow]  # by table
    dictionaries: dict[str, DictionaryRows]  # by table
    cells: cell_report.Counts  # how they fit their columns' types
    columns: dict[str, Columns]  # by table, those of the record
    split: Split


def memory_bytes(gigabytes: float | None) -> int:
    """Return the memory to keep within: as given, else a quarter of what the job may use.

    Of little memory it is more than a quarter. Raises UserError when that is too little to work in,
    or more than there is.
    """
    # where addresses run out in Arrow's own threads, the process is aborted
    limits.check_addresses(limits.ENOUGH_ADDRESSES)
    most = limits.memory()
    if gigabytes is None and most < LEAST_MEMORY * 1e9:
        raise UserError(
            f"this job may use {most / 1e9:.2f} GB of memory (by its control group, the scheduler "
            f"or `ulimit -v`) and {LEAST_MEMORY} are needed: ask for more"
        )
    if gigabytes is None:
        return max(most // 4, int(LEAST_MEMORY * 1e9))
    if not LEAST_MEMORY <= gigabytes <= round(most / 1e9, 1):
        raise UserError(
            f"--memory must be a number from {LEAST_MEMORY} to {most / 1e9:.1f} (GB), "
            f"not {gigabytes:g}"
        )
    return int(gigabytes * 1e9)


def print_sources(folder: Path, sources: Mapping[str, Source], empty: Sequence[str]) -> None:
    """Print which tables are there, which are not or `empty`, and which differ from the schema."""
    with_tables = {source.module for source in sources.values()}
    # of a module that nobody has nothing is missing; of note/ steps read one table alone
    asked = {"hosp", "icu", *({"ed"} & with_tables)}
    missing = [
        name
        for name, table in tables.schema().items()
        if table.module in asked and name not in sources
    ]
    absent = f"; absent: {', '.join(missing)}" if missing else ""
    print(f"Tables: {len(sources)} found in {folder}{absent}")
    for name, (table, effect) in DICTIONARIES.items():
        if name in missing and table in sources:
            print(f"  without {name}, {effect}")
    if empty:
        print(f"  no rows: {', '.join(empty)}")
    for module in modules.MODULES:
        if module not in with_tables and (folder / module).is_dir():
            print(f"  no table in {module}/: is its disk mounted?")
    for why, names in passed_over.not_read(folder, sources).items():
        print(f"  not read, as {why}: {', '.join(names)}")
    held = {tables.schema()[name].module for name in sources if name in tables.schema()}
    for module in () if folder.name == replacement.SYNTHETIC else modules.MODULES:
        if module not in held and (apart := modules.apart(folder, module)):
            print(f"  not read: {apart}. Put it, or a link to it, into {folder} as {module}/")
    for source in sources.values():
        if source.drift:
            print(f"  {source.folder or source.path.name}: {source.drift}")


def print_sums(folder: Path, sources: Mapping[str, Source], absent: Sequence[str]) -> None:
    """Print for which files checksums are right, and which are listed but `absent`."""
    read = [path for source in sources.values() for path in source.files]
    unlisted = download.unlisted(folder, read)
    some = f" for {len(read) - len(unlisted):,} of the {len(read):,} files that are read"
    print(f"Checksums are right{some if unlisted else ''}")
    if unlisted:
        print(f"  in no list: {', '.join(unlisted)}")
    if absent:
        print(f"  not checked, as no file has that name: {', '.join(absent)}")


def write_subjects(
    store: Path,
    sources: Mapping[str, Source],
    empty: Sequence[str],
    settings: ConversionSettings,
    force: bool,
) -> None:
    """Write step 1's folder: convert the tables, check their quality, show that no row was lost.

    The tables `empty` have the header alone.
    Raises UpToDate when the folder is there and `force` is not given. Raises UserError when a table
    cannot be read, rows are rejected, a file changes meanwhile, or real patients would be replaced.
    """
    paths = {source.key(path): path for source in sources.values() for path in source.files}
    if settings.subjects_file:
        paths["subjects_file"] = _given_file(settings.subjects_file)
    earlier = replacement.earlier(store)
    inputs = replacement.recognised(paths, settings.in_manifest(), earlier)
    if settings.replace_patients or settings.synthetic:
        earlier = {}
    else:
        replacement.check(
            store,
            settings.folder,
            inputs,
            sources,
            empty,
            lambda: _chosen(patients.read(sources["patients"]), settings),
            earlier,
        )
    with storage.step_output(
        store, "subjects", settings.in_manifest(), inputs, force, resumable=True
    ) as out:
        parts = out.path / "parts"
        try:
            converted = convert(sources, out.path, store, settings, earlier)
            replacement.check_written(store, earlier, out.path)

            from mimic_qlora.subjects import quality  # DuckDB: 30 MB, not to add to the peak above

            flags = quality.flags(out.path, temp=parts)
        except (KeyboardInterrupt, SystemExit):
            terminal.say_aside(f"\n{_how_far(parts)}; the same command goes on from there")
            raise
        for name, path in paths.items():
            inputs[name] = files.summed(path, inputs[name])
        _check_unchanged(paths, inputs)
        manifests.written(out.path)  # sums take minutes: a run killed meanwhile still has its parts
        release = releases.identify(_rows_in(converted), settings.folder)
        unlike = download.unlike_listed(settings.folder, inputs)
        out.facts.update(_facts(converted, settings, release, unlike))
        out.facts["quality"] = [flag._asdict() for flag in flags if flag.rows]
        out.facts[CHECKS] = checks_sha256()
        _print_release(release, unlike)
        print(data_line(out.facts["source"]))
        cell_report.print_cells(converted.cells, {n: s.columns for n, s in sources.items()})
        quality.print_flags(flags)
        _print_proof(converted.rows, converted.dictionaries)
        _remove_parts(parts)


def convert(
    sources: Mapping[str, Source],
    folder: Path,
    store: Path,
    settings: ConversionSettings,
    earlier: replacement.Found,
) -> Converted:
    """Read every table once into buckets, nest the buckets, and check that no row is lost.

    Files go to `folder`, and rejected rows to `store` if they are more than allowed. What a run
    that was killed has finished in `folder` is not redone. `earlier` is the manifest of patients
    whose tables must not become smaller.
    """
    buckets.use_system_allocator()
    for name in ("shards", "tables", "dictionaries", "parts"):
        (folder / name).mkdir(exist_ok=True)
    everybody = patients.read(sources["patients"])
    chosen = _chosen(everybody, settings)
    split = patients.assign(chosen, settings.seed)
    split_file.write(folder, split)
    _say_empty_splits(split)

    ids = {"subject_id", "hadm_id", "stay_id"}
    by_subject = {n: s for n, s in sources.items() if not ids.isdisjoint(s.columns)}
    check_space(by_subject, len(chosen) / len(everybody), folder)
    no_subject = {
        n: dictionaries.write(n, s, folder) for n, s in sources.items() if n not in by_subject
    }
    run = _begin(by_subject, everybody, chosen, folder, settings)
    columns = {name: partition.stored_columns(source) for name, source in by_subject.items()}
    with _engine(settings, run) as engine:
        rows, in_buckets = partition.partition_all(by_subject, run, engine)
        rejected = {name: counts.rejected for name, counts in (rows | no_subject).items()}
        _keep_rejects(rejected, folder, store, settings.max_rejects)
        if rows["admissions"].read == rejected["admissions"]:
            raise UserError(
                f"{sources['admissions'].path} has no rows that can be read, and every later step "
                "needs hospital stays: check the download"
            )
        usable = {
            name: counts.read - rejected[name] for name, counts in (rows | no_subject).items()
        }
        replacement.check_rows(store, earlier, usable)
        in_buckets = partition.split_all(run, engine, columns, in_buckets)
        nested = nesting.nest_all(run, engine, columns, in_buckets)
    nesting.write_index(run)
    parts = [done.cells for done in nested] + [found.cells for found in no_subject.values()]
    cells = cell_report.summed(parts)
    cell_report.refuse_other_forms(cells, sources)
    return Converted(_flows(rows, nested), no_subject, cells, columns, split)


def _begin(
    sources: Mapping[str, Source],
    everybody: Collection[int],
    chosen: Collection[int],
    folder: Path,
    settings: ConversionSettings,
) -> Run:
    """Divide the patients into buckets, and keep them where all tasks of the run find them."""
    bucket_bytes = buckets.bytes_per_bucket(settings.memory)
    n_buckets = buckets.count(sources, len(everybody), len(chosen), bucket_bytes)
    levels = buckets.as_begun(folder / "parts", n_buckets)
    held_bytes = min(settings.memory // 12, buckets.HELD_BYTES)
    run = Run(folder, secrets.token_hex(8), levels.buckets, levels.width, held_bytes)
    owners = partition.stay_owners(sources)
    runs.begin(run.parts, run, runs.layout(everybody, chosen, levels.buckets, owners))
    return run


def _engine(settings: ConversionSettings, run: Run) -> Engine:
    """Return what does the work: a cluster, or as many processes as fit into the memory."""
    each = buckets.MIB_PER_BUCKET * buckets.MEMORY_PER_BUCKET << 20
    if settings.cluster:
        needed = min(settings.memory, each + buckets.PROCESS_BYTES)
        folders = (run.work, settings.folder)
        return Cluster(settings.cluster, buckets.use_system_allocator, folders, needed)
    fitting = (settings.memory - buckets.PROCESS_BYTES) // each
    workers = max(1, min(settings.workers or limits.cores(), fitting, run.n_buckets))
    return Engine(workers, buckets.use_system_allocator)


def _say_empty_splits(split: Split) -> None:
    """Say that there are too few patients for the later steps, before any table is read."""
    if empty := [name for name in patients.SHARES if name not in split.values()]:
        print(
            f"note: {counted(len(split), 'patient')} cannot fill {' and '.join(empty)}, and steps "
            "3 to 7 need some: convert more (--sample, --subjects-file)"
        )


def _chosen(everybody: Collection[int], settings: ConversionSettings) -> set[int]:
    """Return the patients to convert: all or those listed, and of these all or a sample."""
    listed = list(everybody)
    if settings.subjects_file:
        listed = patients.listed(_given_file(settings.subjects_file), listed)
    if settings.sample == 1:
        return set(listed)
    return patients.sample(listed, settings.sample, settings.seed)


def check_space(sources: Mapping[str, Source], share: float, folder: Path) -> None:
    """Raise GoesOn when the disk is too small for a share of the patients.

    The intermediates and the output need room; what a killed run left in `folder` is part of both.
    """
    needed = DISK_SHARE * share * sum(map(buckets.unpacked_bytes, sources.values()))
    needed -= sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise GoesOn(
            f"{folder.parent} has {free / 1e9:.1f} GB free and about {needed / 1e9:.1f} GB are "
            "needed: free some space or give another --storage"
        )


def _flows(rows: Mapping[str, RowCounts], nested: Collection[NestedBucket]) -> dict[str, RowFlow]:
    """Join the counts of both halves. Raises UserError when rows were lost between them."""
    flows = {}
    for name, counts in rows.items():
        jsonl = sum(done.jsonl.get(name, 0) for done in nested)
        columnar = sum(done.columnar.get(name, 0) for done in nested)
        flows[name] = flow = RowFlow(counts, jsonl, columnar)
        if not counts.read - counts.unsampled - counts.rejected == jsonl == columnar:
            raise UserError(
                f"rows of {name} were lost on the way ({flow.in_manifest()}), as a power cut or a "
                "bad disk does: run the same command again, and report it if it says so again"
            )
    return flows


def _keep_rejects(rejected: Mapping[str, int], folder: Path, store: Path, most: int) -> None:
    """Keep the rejected rows, in `folder`. Raises GoesOn when they are more than `most`.

    `rejected` maps each table to its number of them. If they are too many, they go to `store`, and
    a run that allows them reads no table again.
    """
    total = sum(rejected.values())
    shutil.rmtree(folder / "rejects", ignore_errors=True)
    rejects.remove_rejects(store / "rejects")
    names = [name for name, n in rejected.items() if n]
    if not names:
        return
    place = folder / "rejects" if total <= most else store / "rejects"
    place.mkdir(exist_ok=True)
    for name in names:
        path = place / f"{name}.csv"
        if path.exists():
            kept = files.put_aside(path, path)
            print(f"note: {path} was edited and is kept as {kept.name}")
        shutil.copyfile(folder / "parts" / f"{name}.{rejects.NAME}", path)
    if total > most:
        rejects.remember(place, names)
        worst = max(rejected, key=lambda name: rejected[name])
        reasons = rejects.reasons(place / f"{worst}.csv").most_common(3)
        why = ", or ".join(reason for reason, _ in reasons)
        raise GoesOn(
            f"{total:,} rows cannot be read or belong to no patient "
            f"({rejected[worst]:,} of them in {worst}: {why}): {place} lists them with their "
            f"reasons; fix the download or allow them with --max-rejects {total}"
        )


def verify(store: Path, sources: Mapping[str, Source]) -> None:
    """Compare the output with the source files, cell by cell.

    Raises UserError that names the tables that differ, or a file that is damaged.
    """
    from mimic_qlora.subjects import parquet_files, verification

    buckets.use_system_allocator()
    parquet_files.checked(store, (store / "subjects").rglob("*.parquet"))
    columns = subjects_manifest(store)["columns"]
    differing = verification.differences(store / "subjects", sources, columns)
    for name, part, view, n_csv, n_found in differing:
        place = "" if part is None else f" in part-{part:05d}"
        print(f"  {name} differs{place}: {n_csv:,} rows in the CSV, {n_found:,} in the {view}")
    if differing:
        names = ", ".join(sorted({difference.table for difference in differing}))
        raise UserError(
            f"the output and the CSV files differ in {names}: run the same command with --force"
        )
    print(
        f"Verified: every cell of {len(columns)} tables is in the JSONL and in the typed tables, "
        f"and of {len(sources) - len(columns)} that name no patient in theirs,\n"
        "as a second reader finds it in the CSV files"
    )


def _given_file(name: str) -> Path:
    path = files.given_path(name)
    if not path.is_file():
        raise UserError(f"{path} is no file: give one with a subject_id a line by --subjects-file")
    return path


def _how_far(parts: Path) -> str:
    """Word how much of an interrupted run is done."""
    read = len(list(parts.glob("read/*/*.done.json")))
    nested = len(list(parts.glob("bucket-*.done.json")))
    return f"stopped with {read} pieces of tables read and {nested} buckets of patients nested"


def _check_unchanged(paths: Mapping[str, Path], inputs: Mapping[str, FileIdentity]) -> None:
    """Raise UserError when an input file is no longer the one that was read."""
    for name, path in paths.items():
        if not files.file_identity(path).items() <= inputs[name].items():
            raise UserError(f"{path} changed while it was read: run the same command again")


def _remove_parts(parts: Path) -> None:
    """Remove the intermediates; until now a run that is killed goes on from them.

    The markers of rows in buckets go first, as the rows are gone: a run that is killed in between
    then makes the next one read the tables again.
    """
    for marker in parts.glob("*/*/*.done.json"):
        marker.unlink()
    shutil.rmtree(parts)


def _rows_in(converted: Converted) -> dict[str, int]:
    """Return the rows of every source table."""
    rows = {name: flow.counts.read for name, flow in converted.rows.items()}
    return rows | {name: found.read for name, found in converted.dictionaries.items()}


def _facts(
    converted: Converted,
    settings: ConversionSettings,
    release: releases.Match,
    unlike: Sequence[str],
) -> dict[str, Any]:
    """Return what the manifest says of the output (see `SubjectsManifest`)."""
    names = Counter(converted.split.values())
    return {
        "rows": {name: flow.in_manifest() for name, flow in converted.rows.items()},
        "cells_mended": {name: c.mended for name, c in converted.cells.items() if c.mended},
        "cells_not_of_their_type": {
            name: c.misfits for name, c in converted.cells.items() if c.misfits
        },
        "cells_not_of_their_type_patients": {
            name: c.patients for name, c in converted.cells.items() if c.patients
        },
        "columns": converted.columns,
        "split": {name: names[name] for name in patients.SHARES},
        "dictionaries": {
            name: found.read - found.rejected for name, found in converted.dictionaries.items()
        },
        "source": {
            "version": release.name,
            "patients": len(converted.split),
            "unexpected": [*release.differing, *unlike],
            "kind": "synthetic" if settings.synthetic else "mimic",
            "folder": str(settings.folder),
        },
    }


def _print_release(release: releases.Match, unlike: Sequence[str]) -> None:
    """Print whether the tables have as many rows as their release, and which files are `unlike`."""
    n_known = release.agreeing + len(release.differing)
    if n_known:
        print(f"Row counts: {release.agreeing} of {n_known} tables as published for {release.name}")
    for sentence in (*release.differing, *unlike):
        print(f"  {sentence}: check the download, or report it in the paper")


def _print_proof(rows: Mapping[str, RowFlow], dictionaries: Mapping[str, DictionaryRows]) -> None:
    """Print where the rows of every table went, beside what the second reader has counted."""
    by_patient = {name: flow.in_manifest() for name, flow in sorted(rows.items())}
    by_patient["all tables"] = dict(sum(map(Counter, by_patient.values()), Counter[str]()))
    note = "rows in = not sampled + rejected + JSONL; columnar = JSONL"
    print(_table_of_rows(by_patient, _PROOF, note))
    others = {name: found.in_manifest() for name, found in sorted(dictionaries.items())}
    if others:
        kept = {key: title for key, title in _PROOF.items() if key not in ("unsampled", "jsonl")}
        note = "tables that name no patient: rows in = rejected + columnar"
        print(_table_of_rows(others, kept, note))
    print(_LINES)
    print()


_PROOF = {
    "lines": "lines",
    "spanning": "spanning",
    "in": "rows in",
    "unsampled": "not sampled",
    "rejected": "rejected",
    "jsonl": "JSONL",
    "columnar": "columnar",
}
_LINES = (
    "lines and cells that span several: counted by a second reader, which found as many rows;\n"
    "a rejected row counts all its lines"
)


def _table_of_rows(
    counts: Mapping[str, Mapping[str, int]], titles: Mapping[str, str], note: str
) -> str:
    """Return counts by table as a table of text; a count that is missing is 0."""
    lines: list[Row] = [
        {"table": name, **{title: found.get(key, 0) for key, title in titles.items()}}
        for name, found in counts.items()
    ]
    return text_table(lines, note)
