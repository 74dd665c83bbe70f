"""Step 1 in pieces, in two levels of buckets and in several processes: the same bytes."""

import csv
import gzip
import shutil

import pytest

import convert_to_jsonl
from helpers.block_gzip import packed
from helpers.mimic_tables import rewrite
from helpers.scripts import folder_bytes
from mimic_qlora.mimic import pieces
from mimic_qlora.mimic.synthetic import hospital
from mimic_qlora.step import limits
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import buckets, nesting, partition, quality, runs

TABLES = "patients admissions diagnoses_icd d_icd_diagnoses poe prescriptions".split()


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    """Some tables of a few synthetic patients."""
    whole, folder = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("mimic")
    hospital.write(whole, 24, seed=1, progress=False)
    (folder / "hosp").mkdir()
    for name in TABLES:
        shutil.copy(whole / f"hosp/{name}.csv.gz", folder / "hosp")
    return folder


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """convert(folder, "--workers", "2"): run step 1 with small buckets; returns its subjects/."""
    monkeypatch.setattr(buckets, "PATIENTS_PER_BUCKET", 4)
    monkeypatch.setattr(quality, "flags", lambda *_, **__: [])  # it comes behind, and takes longest

    def convert(mimic, *options, place="storage"):
        store = tmp_path / place
        command = ["convert", "--storage", store, "--mimic-dir", mimic, *options]
        if "--workers" not in options:
            command += ["--workers", "1"]
        monkeypatch.setattr("sys.argv", [*map(str, command)])
        convert_to_jsonl.main()
        return store / "subjects"

    return convert


def unpacked(mimic, folder, pack=None):
    """The tables as plain files; of `pack`(bytes) as .gz where the text would be plain."""
    for path in mimic.glob("*/*.csv.gz"):
        place = folder / path.relative_to(mimic)
        place.parent.mkdir(parents=True, exist_ok=True)
        data = gzip.decompress(path.read_bytes())
        if pack:
            place.write_bytes(pack(data))
        else:
            place.with_suffix("").write_bytes(data)
    return folder


def in_folders(mimic, folder):
    """Each table of patients in a folder of three files."""
    shutil.copytree(mimic, folder)
    for path in folder.glob("*/[!d]*.csv.gz"):  # one of the others is one Parquet file, by batches
        header, *lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
        place = path.parent / path.name.split(".")[0]
        place.mkdir()
        for n in range(3):
            mine = lines[n * len(lines) // 3 : (n + 1) * len(lines) // 3]
            (place / f"{n}.csv.gz").write_bytes(gzip.compress(b"".join([header, *mine]), 1))
        path.unlink()
    return folder


@pytest.fixture
def many_pieces(monkeypatch):
    """Pieces of some kilobytes; returns how many more there were than tables, run by run."""
    monkeypatch.setattr(partition, "PIECE_BYTES", 20_000)
    monkeypatch.setattr(partition, "MOST_PIECES", 10**6)
    counts, jobs = [], partition.jobs

    def counted(sources):
        found = jobs(sources)
        counts.append(len(found) - len(sources))
        return found

    monkeypatch.setattr(partition, "jobs", counted)
    return counts


@pytest.mark.parametrize(
    "lay",
    [
        unpacked,
        lambda mimic, folder: unpacked(mimic, folder, lambda data: packed(data, 2000)),
        in_folders,
    ],
    ids=["ranges of plain files", "ranges of bgzip's", "folders of files"],
)
def test_a_table_in_pieces_gives_the_same_bytes(convert, many_pieces, mimic, tmp_path, lay):
    expected = folder_bytes(convert(mimic, place="whole"))
    found = convert(lay(mimic, tmp_path / "laid"), "--verify")
    assert folder_bytes(found) == expected
    assert many_pieces[0] == 0 and many_pieces[1] > 7


def test_two_levels_of_buckets_give_the_same_bytes(convert, mimic, monkeypatch):
    expected = folder_bytes(convert(mimic, place="one level"))
    monkeypatch.setattr(buckets, "MOST_COARSE", 3)
    splits = []
    monkeypatch.setattr(
        partition, "split", lambda n, *a, whole=partition.split: splits.append(n) or whole(n, *a)
    )
    assert folder_bytes(convert(mimic)) == expected and splits == [0, 1, 2]


def test_several_processes_give_the_same_bytes(convert, many_pieces, mimic, tmp_path, monkeypatch):
    """Two levels too, and pieces read by other processes than the one that asks."""
    expected = folder_bytes(convert(mimic, place="alone"))
    monkeypatch.setattr(limits, "memory", lambda: 16 << 30)
    monkeypatch.setattr(buckets, "MOST_COARSE", 3)
    monkeypatch.setattr(nesting, "_write_bucket", None)  # of this process
    plain = unpacked(mimic, tmp_path / "plain")
    assert folder_bytes(convert(plain, "--workers", "3")) == expected


def test_a_kill_between_split_and_nest_goes_on(convert, mimic, monkeypatch):
    expected = folder_bytes(convert(mimic, place="whole"))
    monkeypatch.setattr(buckets, "MOST_COARSE", 3)
    for module, name, call in ((partition, "_split", 2), (nesting, "_write_bucket", 4)):
        with monkeypatch.context() as cut_off, pytest.raises(KeyboardInterrupt):
            whole, left = getattr(module, name), iter([True] * (call - 1) + [False])

            def stopping(*arguments, whole=whole, left=left):
                if not next(left):
                    raise KeyboardInterrupt
                return whole(*arguments)

            cut_off.setattr(module, name, stopping)
            convert(mimic)
    assert folder_bytes(convert(mimic)) == expected


def test_rejected_rows_are_numbered_as_in_their_file(
    convert, many_pieces, mimic, tmp_path, monkeypatch
):
    """Those of a piece count from its cut."""
    monkeypatch.setattr(partition, "PIECE_BYTES", 2000)
    own = shutil.copytree(mimic, tmp_path / "own")
    path = own / "hosp/diagnoses_icd.csv.gz"

    def break_some(header, rows):
        for n in range(3, len(rows), 37):
            rows[n] = [*rows[n], "more"] if n % 2 else ["1", *rows[n][1:]]
        return rows

    rewrite(path, break_some)
    listed = []
    for place, folder in (
        ("whole", own),
        ("pieces", unpacked(own, tmp_path / "plain")),
    ):
        with pytest.raises(UserError, match="rows cannot be read"):
            convert(folder, place=place)
        with open(tmp_path / place / "rejects/diagnoses_icd.csv", newline="") as file:
            listed.append([row[1:] for row in csv.reader(file)])
    assert sorted(listed[0]) == sorted(listed[1]) and len(listed[0]) > 5
    assert many_pieces[1] > many_pieces[0]


def test_a_stray_quote_in_a_piece_names_its_line_in_the_file(
    convert, many_pieces, mimic, tmp_path, monkeypatch
):
    monkeypatch.setattr(partition, "PIECE_BYTES", 2000)
    plain = unpacked(mimic, tmp_path / "plain")
    path = plain / "hosp/diagnoses_icd.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[99] = b'"' + lines[99]
    path.write_bytes(b"".join(lines))
    with pytest.raises(UserError, match="the quote in line 100 .column subject_id. is never"):
        convert(plain)


def test_rows_that_fall_between_two_pieces_are_missed(
    convert, many_pieces, mimic, tmp_path, monkeypatch
):
    def gap(path, *sizes, whole=pieces.cut):
        found = whole(path, *sizes)
        if len(found) < 3 or "diagnoses" not in path.name:
            return found
        return [found[0]._replace(end=found[0].end - 900), *found[1:]]

    monkeypatch.setattr(partition, "PIECE_BYTES", 2000)
    monkeypatch.setattr(pieces, "cut", gap)
    with pytest.raises(UserError, match="changed while it was read"):
        convert(unpacked(mimic, tmp_path / "plain"))


def test_how_far_a_piece_was_read_is_told_to_other_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "TELL_SECONDS", 0)
    run = runs.Run(tmp_path, "token", 1, 1, 1 << 20)
    (tmp_path / "parts").mkdir()
    runs.begin(run.parts, run, runs.layout([1, 2], [1], 1))
    with run.new_folder() as one, run.new_folder() as other:
        runs.Teller(one)(30, 1)
        runs.Teller(other)(12, 1)
        assert run.bytes_read() == 42
        runs.publish(one, run.read_folder("labevents", 0))
    assert run.bytes_read() == 0 and not list((run.parts / "read/labevents-00000").iterdir())
