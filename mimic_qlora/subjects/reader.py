"""Reading what step 1 left: one patient by index, many patients in bulk, as the same typed rows."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mimic_qlora.mimic import tables
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.storage import command_for, read_manifest


def split_of(storage: Path) -> dict:
    """subject_id -> "train", "validation" or "test", in the order of subject_id."""
    lines = (storage / "subjects" / "split.csv").read_text().splitlines()[1:]
    return {
        int(subject_id): name for subject_id, _, name in (line.partition(",") for line in lines)
    }


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged: run `{command_for('subjects')} --force` to write it anew")


def _read_parquet(path: Path, **options):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, **options)
    except (pa.ArrowInvalid, OSError):
        raise _damaged(path) from None


@cache
def _index(storage: Path) -> dict:
    columns = _read_parquet(storage / "subjects" / "index.parquet").to_pydict()
    return {row[0]: row[1:] for row in zip(*columns.values(), strict=True)}


@cache
def _columns(storage: Path) -> dict:
    columns = read_manifest(storage, "subjects")["columns"]
    labeled = {
        f"{name}_labeled": {**columns[name], "long_title": "text"}
        for name in columns
        if name.endswith("_icd")
    }
    return columns | labeled


def table_files(storage: Path, table: str) -> list:
    """The Parquet files of one table, in the order of subject_id; empty when the source folder had no such table."""
    return sorted((storage / "subjects" / "tables" / table).glob("*.parquet"))


def raw_record(storage: Path, subject_id: int) -> dict:
    """One patient's JSON record, found through the index. Raises UserError for an unknown subject_id."""
    import orjson

    return orjson.loads(raw_line(storage, subject_id))


def raw_line(storage: Path, subject_id: int) -> bytes:
    """One patient's line of the JSONL, found through the index. Raises UserError for an unknown subject_id."""
    from isal import igzip_lib

    if subject_id not in _index(storage):
        raise UserError(
            f"subject_id {subject_id} is not in {storage / 'subjects'}: its patients are listed in split.csv there"
        )
    part, offset, length = _index(storage)[subject_id]
    path = storage / "subjects" / "shards" / f"part-{part:05d}.jsonl.gz"
    with open(path, "rb") as shard:
        shard.seek(offset)
        member = shard.read(length)
    # a gzip member ends with its unpacked size (modulo 4 GiB): room for all of it at once saves copying what grows
    room = (
        min(int.from_bytes(member[-4:], "little"), 1032 * length) + 1
    )  # deflate packs 1032 to 1 at most
    try:
        return igzip_lib.decompress(member, flag=igzip_lib.DECOMP_GZIP, bufsize=room)
    except igzip_lib.error:
        raise _damaged(path) from None


def record(storage: Path, subject_id: int, wanted: dict) -> dict:
    """One patient's rows, typed: {table: [{column: int, float, datetime or str}]}, nulls left out.

    `wanted` maps the tables to read to the columns of each.
    """
    raw = raw_record(storage, subject_id)
    typed = {"subject_id": subject_id}
    for table, columns in wanted.items():
        types = _columns(storage).get(table, {})
        kept = {column: types[column] for column in columns if column in types}
        typed[table] = [_typed(row, kept) for row in raw.get(table, [])]
    return typed


def _typed(row: dict, types: dict) -> dict:
    cells = (
        (k, row[k] if isinstance(row[k], int) else tables.parse(row[k], t))
        for k, t in types.items()
        if k in row
    )
    return {k: v for k, v in cells if v is not None}


def records(
    storage: Path, wanted: dict, subject_ids=None, only=None, within=None
) -> Iterator[dict]:
    """What `record` gives for each patient, in the order of subject_id, read in bulk from the columnar tables.

    Two options spare what nobody reads of a big table: `only`, {table: {column: values}}, keeps the rows with one of
    these values, `within`, {table: (column, {subject_id: (first, last)})}, those with a time from first to last.
    """
    import pyarrow.compute as pc

    chosen = set(_index(storage) if subject_ids is None else subject_ids)
    by_part = {}
    for subject_id, (part, _, _) in _index(storage).items():
        if subject_id in chosen:
            by_part.setdefault(part, []).append(subject_id)
    for part, ids in sorted(by_part.items()):
        ids = sorted(ids)
        bucket = {s: {"subject_id": s, **{table: [] for table in wanted}} for s in ids}
        for table, columns in wanted.items():
            path = storage / "subjects" / "tables" / table / f"part-{part:05d}.parquet"
            if not path.exists():
                continue
            kept = [column for column in columns if column in _columns(storage)[table]]
            chosen_rows = pc.field("subject_id").isin(ids)
            for column, values in (only or {}).get(table, {}).items():
                chosen_rows &= pc.field(column).isin(values)
            rows = _read_parquet(path, columns=sorted({*kept, "subject_id"}), filters=chosen_rows)
            if table in (within or {}):
                rows = _between(rows, ids, *within[table])
            for owner, *row in zip(
                *(_values(rows[column]) for column in ("subject_id", *kept)), strict=True
            ):
                bucket[owner][table].append(
                    {k: v for k, v in zip(kept, row, strict=True) if v is not None}
                )
        yield from bucket.values()


def _between(rows, ids: list, column: str, spans: dict):
    """The rows whose time in `column` is within their patient's span; `ids` are the patients in order."""
    import numpy as np

    first, last = np.array([spans[subject_id] for subject_id in ids], dtype="datetime64[us]").T
    owner, when = np.searchsorted(ids, rows["subject_id"]), rows[column].to_numpy()
    return rows.filter((first[owner] <= when) & (when <= last[owner]))


def _values(column) -> list:
    """A column as Python values, None where it is null: by way of numpy, ten times faster than to_pylist."""
    import numpy as np

    values = np.full(len(column), None, dtype=object)
    values[column.is_valid().to_numpy()] = column.drop_null().to_numpy()
    return values.tolist()


@cache
def labels(storage: Path, dictionary: str, key: str = "itemid", value: str = "label") -> dict:
    """One column of a dictionary table by another, as itemid -> label of d_labitems. Empty when the table is absent."""
    path = storage / "subjects" / "dictionaries" / f"{dictionary}.parquet"
    if not path.exists():
        return {}
    rows = _read_parquet(path, columns=[key, value]).to_pydict()
    return dict(zip(rows[key], rows[value], strict=True))
