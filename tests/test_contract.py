"""The data contract in docs/ against step 1: nothing missing or undocumented, commands work."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict

import pyarrow.parquet as pq
import pytest

from helpers.mimic_tables import rewrite, write_table, write_tiny_mimic
from helpers.paths import ROOT
from helpers.scripts import run_here
from mimic_qlora.mimic import tables
from mimic_qlora.step import step_commands

PAGE = (ROOT / "docs" / "data_contract.md").read_text(encoding="utf-8")


def cells(heading: str) -> list:
    """The rows of the first table with this heading on the page, as lists of cells."""
    lines = PAGE[PAGE.index(heading) :].splitlines()[2:]
    end = next(n for n, line in enumerate(lines) if not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[:end]]


def patterns(heading: str) -> list:
    """The paths or fields of a table as regular expressions.

    <name> is any name, NNNNN is a number of five digits.
    """
    names = [row[0].strip("` ") for row in cells(heading)]
    return [re.sub("<.*?>", ".+", re.escape(name)).replace("NNNNN", r"\d{5}") for name in names]


def assert_same(documented: list, written: list):
    undocumented = [name for name in written if not any(re.fullmatch(p, name) for p in documented)]
    missing = [p for p in documented if not any(re.fullmatch(p, name) for name in written)]
    assert (undocumented, missing) == ([], [])


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """Step 1's folder for twelve patients: a rejected row, a mended cell, one that does not fit."""
    place = tmp_path_factory.mktemp("contract")
    folder = write_tiny_mimic(place)

    def spoil(header, rows):
        rows[0][header.index("valuenum")] = "___"
        rows[1][header.index("charttime")] += " UTC"
        return [*rows, ["99", "19999999", *rows[0][2:]]]

    rewrite(folder / "hosp/labevents.csv.gz", spoil)
    write_table(folder, "extra", "hadm_id,score", ["20000000,6"])
    done = run_here(
        "convert_to_jsonl.py",
        "--mimic-dir",
        folder,
        "--max-rejects",
        "1",
        storage=place / "storage",
    )
    assert done.returncode == 0, done.stderr
    return place / "storage" / "subjects"


def test_every_file_is_on_the_page_and_every_file_of_the_page_is_written(subjects):
    written = [str(path.relative_to(subjects)) for path in subjects.rglob("*") if path.is_file()]
    assert_same(patterns("| path | what it is |"), written)


def leaves(data, above=""):
    if not isinstance(data, dict):
        return [above]
    return [
        name
        for key, value in data.items()
        for name in leaves(value, f"{above}.{key}" if above else key)
    ]


def test_every_field_of_the_manifest_is_on_the_page_and_the_other_way_round(subjects):
    manifest = json.loads((subjects / "manifest.json").read_text())
    assert_same(patterns("| field | what it says |"), leaves(manifest))
    assert f"The schema version is {manifest['schema_version']};" in PAGE
    for counts in manifest["rows"].values():
        assert counts["in"] == counts["unsampled"] + counts["rejected"] + counts["jsonl"]
        assert counts["kept"] == counts["jsonl"] == counts["columnar"]


def test_the_typed_columns_are_those_of_the_schema():
    kinds = defaultdict(dict)
    for name, table in tables.schema().items():
        for column, kind in table.columns.items():
            kinds[column].setdefault(kind, []).append(name)
    for kind, listed in cells("| type | columns |"):
        expected = set()
        for column, found in kinds.items():
            if kind in found:
                expected |= (
                    {column} if len(found) == 1 else {f"{table}.{column}" for table in found[kind]}
                )
        assert set(listed.replace("`", "").split(", ")) == expected


def test_the_typed_tables_have_the_types_and_the_order_of_the_page(subjects):
    arrow = {
        "int64": "int64",
        "double": "double",
        "timestamp": "timestamp[us]",
        "large string": "large_string",
    }
    types = {
        row[0]: arrow[row[1].split(",")[0]] for row in cells("| type | Parquet type | accepted |")
    }
    columns = json.loads((subjects / "manifest.json").read_text())["columns"]
    assert {"hadm_id", "score", "subject_id"} == columns["extra"].keys()
    for table, kinds in columns.items():
        for path in (subjects / "tables" / table).iterdir():
            rows = pq.read_table(path)
            assert {f.name: str(f.type) for f in rows.schema} == {
                c: types[kind] for c, kind in kinds.items()
            }
            ids = rows["subject_id"].to_pylist()
            assert ids == sorted(ids)
            assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_the_index_and_the_split_have_the_columns_of_the_page(subjects):
    rows = {row[0].strip("`"): row[1] for row in cells("| path | what it is |")}
    for name in pq.read_schema(subjects / "index.parquet").names:
        assert f"`{name}`" in rows["index.parquet"]
    assert f"`{(subjects / 'split.csv').read_text().splitlines()[0]}`" in rows["split.csv"]
    with open(subjects / "rejects/labevents.csv", newline="") as file:
        assert f"`{','.join(next(csv.reader(file)))}`" in rows["rejects/<table>.csv"]


def test_the_record_is_as_the_page_says(subjects):
    import gzip

    first = gzip.decompress((subjects / "shards/part-00000.jsonl.gz").read_bytes()).splitlines()[0]
    record = json.loads(first)
    assert list(record)[0] == "subject_id" and b"null" not in first and b"[]" not in first
    columns = json.loads((subjects / "manifest.json").read_text())["columns"]
    for table in record.keys() & columns.keys():
        for row in record[table]:
            assert all(
                isinstance(v, int if columns[table][c] == "id" else str) for c, v in row.items()
            )
            assert row["subject_id"] == record["subject_id"]


def test_every_step_is_on_the_page():
    assert all(f"`{step}/" in PAGE or f"## {step}/" in PAGE for step in step_commands.COMMANDS)


BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_the_ways_to_open_it_work(subjects, tmp_path, language, code):
    """The page's own lines, for the tools that are installed here."""
    if language == "python":
        for name in re.findall(r"^import (?:gzip, json, )?(\w+)$", code, re.MULTILINE):
            pytest.importorskip(name)
        command = [sys.executable, "-c"]
    else:
        command = ["bash", "-euc"]
        if not shutil.which("jq"):
            pytest.skip("jq is not installed")
    code = code.replace("10000032", "10000000").replace("../datasets_cache", str(tmp_path))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, code], cwd=subjects, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
