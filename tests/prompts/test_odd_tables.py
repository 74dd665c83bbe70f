"""What step 1 accepts, every step can carry: steps 1 to 4 and the audit on odd tables."""

import shutil
from collections import Counter

import pytest

from helpers.all_steps import convert, run_steps
from helpers.mimic_tables import rewrite, write_table
from helpers.prompt_records import SPLITS
from mimic_qlora.chart import columns, context
from mimic_qlora.mimic import cells, tables
from mimic_qlora.mimic.synthetic import hospital
from mimic_qlora.mimic.words import WORDS
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader

DICTIONARIES = ("d_icd_diagnoses", "d_icd_procedures", "d_labitems", "d_items", "d_hcpcs")
NOT_BY_PATIENT = (*DICTIONARIES, "caregiver", "provider")
# of each table a row in eleven gets one of these in a column of the kind
PLANTED = {
    "time": [
        *("2150-02-29", "2150-04-31 10:00:00", "2150-13-01", "0000-01-01", "9999-12-31", "NULL"),
        *("03/01/2150 10:00", "2150-03-01T10:00:00+05:00", "notadate", "NaT", "", "2150-3-1"),
    ],
    "int": ["twelve", "-5.5", "99999999999999999999", "nan", "", "None", "1_0", "inf", "0x1F"],
    "num": ["inf", "1e400", "nan", "1,5", "___", "", "NULL", "1_000", "-Infinity"],
    "code": ["", "NaN", "NULL", "___", " ", "nan"],
    "text": ["NULL", "nan", "", "None", "  ", "___", "\\N"],
    "id": [""],
}


@pytest.fixture(scope="module")
def sound_tables(tmp_path_factory):
    """The tables of some patients without a fault."""
    folder = tmp_path_factory.mktemp("sound") / "mimic"
    hospital.write(folder, 11, seed=1, progress=False, uncoded_share=0.2)
    change_cells(folder, lambda table, column, kind, n, cell: cell)  # without quoted empty strings
    return folder


@pytest.fixture(scope="module")
def clean(sound_tables, tmp_path_factory):
    """What the steps leave of these."""
    return run_steps(sound_tables, tmp_path_factory.mktemp("clean") / "storage")


@pytest.fixture
def copied(sound_tables, tmp_path):
    return shutil.copytree(sound_tables, tmp_path / "mimic")


def change_cells(mimic, change):
    """Give each filled cell of each table to change(table, column, kind, row number, cell)."""
    for name, source in tables.find(mimic).items():

        def changed(header, rows, name=name, source=source):
            kinds = [source.columns[column] for column in header]
            return [
                [
                    change(name, column, kind, n, cell) if cell else cell
                    for column, kind, cell in zip(header, kinds, row, strict=True)
                ]
                for n, row in enumerate(rows)
            ]

        rewrite(source.path, changed)


def mended(table, column, kind, n, cell):
    """Write a cell in another form that has the same meaning."""
    if kind == "time" and len(cell) > 10:
        return cell + (" UTC", "Z", "+00:00", " UTC" if "." in cell else ".000000000 UTC")[n % 4]
    if kind == "code":
        return (cell.ljust(7), f"  {cell}", cell.lower(), f"{cell[:3]}.{cell[3:]}")[n % 4]
    if kind == "int":
        return f"{cell}.0"
    if kind == "id":
        return f" {cell}" if table in DICTIONARIES else cell
    if cell in WORDS.get(table, {}).get(column, ()) or column == "race":
        wide = cell.replace(" ", (" \t", "  ", chr(0xA0))[n % 3])
        return (wide.lower(), cell.upper(), f" {cell.swapcase()}\t", f"{wide} ")[n % 4]
    if kind == "text" and column not in ("fluid", "label", "long_title", "result_name"):
        return cell
    return f"{cell} "


def twice(header, rows):
    return [*rows, *rows[::-1]]


def test_other_forms_of_one_meaning_and_stays_that_stand_twice_change_no_result(
    clean, copied, tmp_path, capsys
):
    change_cells(copied, mended)
    for path in (copied / "hosp/admissions.csv.gz", copied / "icu/icustays.csv.gz"):
        rewrite(path, twice)
    done = run_steps(copied, tmp_path / "storage")
    assert done.prompts == clean.prompts and done.faults == {}
    for name in ("overview", "table1", "top_diagnoses_by_patients", "top_phenotypes"):
        assert stripped(done.summary[name]) == stripped(clean.summary[name]), name
    assert (done.features.matrix == clean.features.matrix).all()
    found = done.manifest["cells_mended"]
    n_stays = clean.manifest["rows"]["admissions"]["in"]
    assert found["admissions.admittime"] == 2 * n_stays and found["d_icd_diagnoses.icd_code"] > 100
    assert not done.manifest["cells_not_of_their_type"]
    flags = {(q["check"], q["table"]): q["rows"] for q in done.manifest["quality"]}
    assert flags["rows that stand twice", "admissions"] == n_stays
    assert flags["id that stands twice", "admissions"] == n_stays
    silent = ("code without a title", "word of another form", "no known word")
    assert not [found for found in flags if found[0] in silent]
    printed = capsys.readouterr().out
    assert "admissions.admittime" in printed and "the zone UTC" in printed


def named_twice(column):
    """Return what repeats the rows of a dictionary below its own, under other names."""

    def change(header, rows):
        place = header.index(column)
        return [*rows, *([*r[:place], f"other {r[place]}", *r[place + 1 :]] for r in rows)]

    return change


def test_of_an_entry_that_stands_twice_in_a_dictionary_the_first_counts_and_it_is_told(
    clean, copied, tmp_path
):
    rewrite(copied / "hosp/d_labitems.csv.gz", named_twice("label"))
    for name in ("d_icd_diagnoses", "d_icd_procedures"):
        rewrite(copied / f"hosp/{name}.csv.gz", named_twice("long_title"))
    done = run_steps(copied, tmp_path / "storage")
    assert done.prompts == clean.prompts and done.faults == {}
    for name in ("top_labs", "top_diagnoses_by_rows", "top_procedures"):
        assert done.summary[name] == clean.summary[name], name
    rows = done.manifest["rows"]
    flags = {
        q["table"]: q["rows"]
        for q in done.manifest["quality"]
        if q["check"] == "code with two titles"
    }
    assert flags["labevents"] == rows["labevents"]["in"]
    assert flags.keys() == {"labevents", "diagnoses_icd", "procedures_icd"}


def stripped(rows):
    """Rows of a summary but the number of rows, without blanks around texts."""
    return [
        {k: str(v).strip() for k, v in row.items()} for row in rows if row.get("what") != "Rows"
    ]


def planted(expected, cells_told):
    """A function for `change_cells` that plants and counts what shall be found."""

    def change(table, column, kind, n, cell):
        place = sum(map(ord, column))
        if table in NOT_BY_PATIENT or column == "subject_id" or (7 * n + place) % 11:
            return cell
        odd = PLANTED[kind][(n + place) % len(PLANTED[kind])]
        if kind not in ("id", "text") and odd and cells.read(odd, kind).value is None:
            expected[f"{table}.{column}"] += 1
            cells_told.add(odd)
        return odd

    return change


GONE = {  # dictionary -> the column that it lacks
    "d_icd_diagnoses": "long_title",
    "d_icd_procedures": "icd_version",
    "d_labitems": "fluid",
    "d_items": "itemid",
}


def without(column):
    """A change for `rewrite`: the table lacks a column."""

    def change(header, rows):
        place = header.index(column)
        del header[place]
        return [row[:place] + row[place + 1 :] for row in rows]

    return change


def swap_every_third(header, rows):
    """Let stays end before they begin."""
    begin, end = header.index("admittime"), header.index("dischtime")
    for row in rows[::3]:
        row[begin], row[end] = row[end], row[begin]
    return rows


def test_cells_that_cannot_be_are_null_and_counted_and_stop_no_step(copied, tmp_path, capsys):
    expected, odd = Counter(), set()
    rewrite(copied / "hosp/admissions.csv.gz", swap_every_third)
    change_cells(copied, planted(expected, odd))
    for name, column in GONE.items():
        (path,) = copied.glob(f"*/{name}.csv.gz")
        rewrite(path, without(column))
    done = run_steps(copied, tmp_path / "storage")
    assert done.manifest["cells_not_of_their_type"] == expected and len(expected) > 40
    assert done.faults == {} and len(done.contexts) > 20
    words = ("NULL", "nan;", "___", "\\N")
    assert not [text for text in done.contexts for word in words if word in text]
    in_bulk = list(reader.records(done.store, columns.WANTED))
    one_by_one = [reader.record(done.store, r["subject_id"], columns.WANTED) for r in in_bulk]
    assert in_bulk == one_by_one
    ends = {s["hadm_id"]: s for r in in_bulk for s in r["admissions"] if "dischtime" in s}
    asked = [ends.get(one["hadm_id"]) for split in SPLITS for one in done.prompts[split]]
    assert all(stay["admittime"] <= stay["dischtime"] for stay in asked if stay)
    flagged = {(q["check"], q["table"]) for q in done.manifest["quality"]}
    keyed = ("admissions", "icustays", "diagnoses_icd", "labevents", "chartevents")
    assert flagged >= {("no key", table) for table in keyed}
    told = capsys.readouterr().out
    assert all(f"{name}.csv.gz: expected {column}" in told for name, column in GONE.items())
    told += str(done.prompts)
    assert not [cell for cell in odd if len(cell) > 7 and cell in told]


LEAST, MOST = str(-(1 << 63)), str((1 << 63) - 1)  # with which arithmetic leaves 64 bits
AGES = ["twelve", LEAST, "300", "", MOST, "1e2", "99999999999999999999", "-1", "121", "None"]
YEARS = [LEAST, "0", "", MOST]


def impossible_ages(header, rows):
    age, year = header.index("anchor_age"), header.index("anchor_year")
    for n, row in enumerate(rows):
        if n % 4:
            row[age] = AGES[n % len(AGES)]
        else:
            row[year] = YEARS[n // 4 % len(YEARS)]
    return rows


def test_without_dictionaries_and_ages_the_steps_leave_out_what_they_do_not_know(
    clean, copied, tmp_path, capsys
):
    for name in DICTIONARIES:
        for path in copied.glob(f"*/{name}.csv.gz"):
            path.unlink()
    rewrite(copied / "hosp/patients.csv.gz", impossible_ages)
    done = run_steps(copied, tmp_path / "storage")
    assert done.faults == {} and len(done.contexts) > 0.8 * len(clean.contexts)
    assert all("\n- Age: unknown\n" in text for text in done.contexts)
    assert any("item 5" in text for text in done.contexts)
    (age,) = [row for row in done.summary["table1"] if row["characteristic"] == "Age, years"]
    assert {*age.values()} == {"Age, years", ""}
    assert {row["title"] for row in done.summary["top_diagnoses_by_patients"]} == {""}
    printed = capsys.readouterr().out
    assert "without d_icd_diagnoses, diagnoses go without titles" in printed
    assert "without d_labitems, labs go by their number" in printed


@pytest.mark.parametrize("column", ["icd_code", "icd_version", "long_title"])
def test_titles_need_each_column_of_their_dictionary(tiny_mimic, tmp_path, column):
    rewrite(tiny_mimic / "hosp/d_icd_diagnoses.csv.gz", without(column))
    store = convert(tiny_mimic, tmp_path / "storage")
    found = reader.record(store, 10000000, {"diagnoses_icd_labeled": ["icd_code", "long_title"]})
    assert [row.keys() for row in found["diagnoses_icd_labeled"]] == [{"icd_code"}] * 3


@pytest.mark.parametrize("column", ["itemid", "label", "fluid", "category"])
def test_lab_names_do_with_the_columns_that_are_there(tmp_path, tiny_mimic, column):
    header = [c for c in ("itemid", "label", "fluid", "category") if c != column]
    row = {"itemid": "50912", "label": " Creatinine", "fluid": "Blood ", "category": "Chemistry"}
    lines = [",".join(row[c] for c in header)] * 2
    write_table(tiny_mimic, "d_labitems", ",".join(header), lines)
    names = context.lab_labels(convert(tiny_mimic, tmp_path / "storage"))
    assert names == ({} if column in ("itemid", "label") else {50912: "Creatinine"})


def test_a_lab_of_whose_name_nothing_can_be_shown_goes_by_its_number(tmp_path, tiny_mimic):
    lines = ["50912,\u200b,Blood,Chemistry", "50971,\u202e \x07,Blood,Chemistry"]
    write_table(tiny_mimic, "d_labitems", "itemid,label,fluid,category", lines)
    assert context.lab_labels(convert(tiny_mimic, tmp_path / "storage")) == {}


def test_tables_without_the_column_that_says_which_rows_are_read(copied, tmp_path):
    for name, column in (
        ("prescriptions", "starttime"),
        ("labevents", "charttime"),
        ("chartevents", "itemid"),
    ):
        (path,) = copied.glob(f"*/{name}.csv.gz")
        rewrite(path, without(column))
    done = run_steps(copied, tmp_path / "storage")
    assert done.faults == {} and len(done.contexts) > 20
    assert not [text for text in done.contexts if "Latest labs: none on record" not in text]


FORMS = [
    ("admissions", "admittime", "03/01/2150 10:00"),
    ("admissions", "dischtime", "2150-03-01 10:00:00-05:00"),
    ("labevents", "charttime", "1.5E9"),
    ("labevents", "valuenum", "1,5"),
    ("patients", "anchor_age", "twelve"),
    ("patients", "anchor_year", "year 2150"),
    ("diagnoses_icd", "icd_version", "ICD9"),
    ("diagnoses_icd", "icd_code", '="4019"'),
    ("prescriptions", "starttime", "1-MAR-2150"),
]


@pytest.mark.parametrize(("table", "column", "cell"), FORMS)
def test_a_column_in_another_form_is_refused_with_what_to_do(
    tiny_mimic, tmp_path, table, column, cell
):
    def spoil(header, rows):
        for row in rows[1:]:
            row[header.index(column)] = cell
        rows[0][header.index(column)] = "NULL"
        return rows

    path = tiny_mimic / f"hosp/{table}.csv.gz"
    rewrite(path, spoil)
    with pytest.raises(UserError) as error:
        convert(tiny_mimic, tmp_path / "storage")
    said = str(error.value)
    assert said.startswith(f"{path}: of {column}, all ") and "write them as" in said
    assert cell not in said


NOTHING_IN = {  # columns of numbers and times, each of which gets one of the words
    "admissions": ("edregtime", "edouttime", "deathtime"),
    "labevents": ("storetime", "valuenum", "ref_range_lower", "ref_range_upper"),
    "patients": ("anchor_age", "anchor_year", "dod"),
    "prescriptions": ("starttime", "stoptime"),
}


def test_columns_of_texts_for_nothing_are_no_other_form(tiny_mimic, tmp_path):
    words = iter(cells.NOTHING)
    for table, names in NOTHING_IN.items():

        def spoil(header, rows, names=names):
            filled = {header.index(name): next(words) for name in names}
            return [[filled.get(n, cell) for n, cell in enumerate(row)] for row in rows]

        rewrite(tiny_mimic / f"hosp/{table}.csv.gz", spoil)
    assert not [*words], "a word stands in no column"
    convert(tiny_mimic, tmp_path / "storage")


def no_rows(header, rows):
    return []


def no_ids(header, rows):
    return [[*row[: header.index("hadm_id")], f"{row[1]}.0", *row[2:]] for row in rows]


@pytest.mark.parametrize(("change", "rejects"), [(no_rows, 0), (no_ids, 12)])
def test_admissions_without_a_row_are_refused(tiny_mimic, tmp_path, change, rejects):
    rewrite(tiny_mimic / "hosp/admissions.csv.gz", change)
    with pytest.raises(UserError, match="admissions.csv.gz has no rows that can be read"):
        convert(tiny_mimic, tmp_path / "storage", max_rejects=rejects)


def test_patients_without_a_stay_are_told_in_a_sentence(sound_tables, clean, tmp_path):
    records = reader.records(clean.store, {"admissions": ["hadm_id"]})
    listed = [str(r["subject_id"]) for r in records if not r["admissions"]]
    assert listed
    (tmp_path / "ids").write_text("\n".join(listed))
    with pytest.raises(UserError, match="there is nothing to predict"):
        run_steps(sound_tables, tmp_path / "storage", subjects_file=tmp_path / "ids")
