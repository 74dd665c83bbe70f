"""run_files/label.py: agreement, kappa, corrected differences, and each wrong row named."""

import contextlib
import csv
import json
import re
import shutil

import pytest

from helpers.labelled_results import NOTHING, QUESTIONS, answers, saved_by_a_spreadsheet
from helpers.scripts import run_here
from mimic_qlora.step import locks
from mimic_qlora.validation import delivery
from mimic_qlora.validation.labelling import drawn, label_file
from mimic_qlora.validation.labelling.claims import Basis

BASIS = Basis(
    reader="patterns",
    primary="red_flags",
    claimed=("red_flags", "harmful"),
    margins={"harmful": 0.05},
    data="made-up patients",
)
PAGE = """<!-- verdict -->
as read
<!-- end of verdict -->
<!-- labelled -->
<!-- end of labelled -->
<p>the answers</p>
"""


@pytest.fixture
def results(tmp_path):
    """Results of step 7 with label.csv and its draw."""
    made = [a._replace(scores={"red_flags": 0.5, "harmful": 0.0}) for a in answers()]
    lines = [
        {
            "trial": a.trial,
            "kind": "trial",
            "arm": a.arm,
            "question_id": a.question_id,
            "subject_id": a.trial,
            "cautions": a.cautions,
            "messages": [{"role": "user", "content": ""}],
            "answer": a.text,
            "scores": dict(a.scores),
        }
        for a in made
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "results.jsonl").write_text(text, encoding="utf-8")
    found = drawn.draw(made)
    label_file.write(tmp_path / label_file.FILE, label_file.to_fill(found, QUESTIONS))
    drawn.write(tmp_path / drawn.FILE, made, found)
    BASIS.write(tmp_path)
    (tmp_path / "summary.txt").write_text("Did the adapter help? As read.\n", encoding="utf-8")
    (tmp_path / "report.html").write_text(PAGE, encoding="utf-8")
    return tmp_path


def rows():
    return label_file.to_fill(drawn.draw(answers()), QUESTIONS)


def well(row):
    return row | NOTHING | {"cause": "yes" if "infection" in row["answer"] else "no"}


def label(folder, *args):
    return run_here("run_files/label.py", "--results", folder, *args, storage=folder)


def test_without_results_the_command_is_named_that_makes_them(tmp_path):
    done = run_here("run_files/label.py", storage=tmp_path)
    assert done.returncode == 2 and "run `cd run_files && ./run.sh` first" in done.stderr


def test_what_people_label_is_compared_corrected_and_kept(results):
    empty = label(results)
    assert empty.returncode == 2 and "has no filled row yet" in empty.stderr
    assert empty.stderr.count("\n") == 1
    # a folder is there, as the pipe of <(...) is
    assert f"{results} is no file" in label(results, "--labels", str(results)).stderr
    for name, named in (("anna", "-"), ("ben", "1")):
        filled = [well(row) | {"named": named} for row in rows()]
        label_file.write(results / f"{name}.csv", filled)
    files = ("--labels", str(results / "anna.csv"), "--labels", str(results / "ben.csv"))
    done = label(results, *files, "--labelled-by", "layperson")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert re.search(r"^cause +3 of 3 +none +0 of 1 +0 of 4 ", done.stdout, re.M)
    assert re.search(r"^cause +1\.00 +\[1\.00, 1\.00\] +8$", done.stdout, re.M)
    assert re.search(r"^named +0\.00", done.stdout, re.M)
    assert "Labelled by a layperson and a layperson: 4 of base, 4 of adapter" in done.stdout
    assert (results / "labelled.txt").read_text(encoding="utf-8") == done.stdout
    # the order of the files decides the first table: nothing said so
    assert "several people labelled, these are the labels of anna.csv." in done.stdout
    assert "How far anna.csv and ben.csv agree" in done.stdout
    wrong = label(results, *files, *["--labelled-by", "clinician"] * 3)
    assert wrong.returncode == 2 and "once for each --labels" in wrong.stderr


def test_a_file_of_which_no_row_counts_is_nobodys_labels(results):
    """The verdict rested on "a layperson and a clinician", whose labels were of other results."""
    label_file.write(results / "anna.csv", [well(row) for row in rows()])
    other = [well(row) | {"key": f"k{n:012x}", "answer": ""} for n, row in enumerate(rows())]
    label_file.write(results / "ben.csv", other)
    files = ("--labels", str(results / "anna.csv"), "--labels", str(results / "ben.csv"))
    by = ("--labelled-by", "layperson", "--labelled-by", "clinician")
    done = label(results, *files, *by)
    assert done.returncode == 1 and "8 rows of other results" in done.stderr
    assert "Labelled by a layperson: 4 of base, 4 of adapter answers" in done.stdout
    assert "clinician" not in done.stdout and "How far" not in done.stdout
    assert "clinician" not in (results / "labelled.csv").read_text(encoding="utf-8")


def test_answers_that_a_copy_lost_are_missed(results):
    """Cut at the end of a line the file is whole to see: the verdict rested on what was left."""
    label_file.write(results / "anna.csv", [well(row) for row in rows()])
    path, made = results / "results.jsonl", results / "reader.json"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    BASIS.model_copy(update={"answers": len(lines)}).write(results)
    assert label(results, "--labels", str(results / "anna.csv")).returncode == 0
    path.write_text("".join(lines[:-2]), encoding="utf-8")
    done = label(results, "--labels", str(results / "anna.csv"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{path} holds 6 of the 8 answers that step 7 wrote" in done.stderr
    made.unlink()  # as of an earlier version
    assert label(results, "--labels", str(results / "anna.csv")).returncode == 1


def test_labels_of_other_results_or_of_a_copy_are_named(results, tmp_path_factory, monkeypatch):
    """Step 7 ran again after they were filled, or its copy in /tmp was filled."""
    store = tmp_path_factory.mktemp("storage")
    for number, name in enumerate(("filled", "newest"), 1):
        shutil.copytree(results, store / "validation" / name)
        (store / "validation" / name / "number.txt").write_text(str(number))
    label_file.write(store / "validation/filled/label.csv", [well(row) for row in rows()])
    done = run_here("run_files/label.py", storage=store)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"give `--results {store}/validation/filled` for it" in done.stderr
    copy = tmp_path_factory.mktemp("tmp") / "mimic_qlora_secret"  # the copy that step 7 names first
    shutil.copytree(results, copy)
    label_file.write(copy / "label.csv", [well(row) for row in rows()])
    monkeypatch.setattr(delivery, "TEMPORARY", copy.parent)
    newest = store / "validation/newest"
    give = f"give `--results {newest} --labels {copy}/label.csv` for it"
    for options in ((), ("--results", newest)):
        assert give in run_here("run_files/label.py", *options, storage=store).stderr
    label_file.write(newest / "label.csv", [well(rows()[0])])
    assert run_here("run_files/label.py", storage=store).returncode == 0


def test_the_verdict_is_made_again_by_labels_wherever_it_stands(results):
    """One command, run twice: all answers are labelled, harm is found in the base's alone."""
    filled = [well(row) for row in rows()]
    label_file.write(results / "mine.csv", filled)
    for by in ("layperson", "clinician"):
        done = label(results, "--labels", str(results / "mine.csv"), "--labelled-by", by)
        assert done.returncode == 0, done.stderr
    summary = (results / "summary.txt").read_text(encoding="utf-8")
    head, found, as_read = summary.partition("before people labelled answers:\n\n")
    assert found and as_read == "Did the adapter help? As read.\n"
    said = " ".join(head.split())
    assert "Is it safe? Not shown. On these questions up to" in said
    assert "over 4 trials, cannot be excluded" in said
    assert "Seen on made-up patients: 4 trials" in said and "labelled by a clinician: 4 of" in said
    page = (results / "report.html").read_text(encoding="utf-8")
    assert page.count("Is it safe?") == 1 and "cannot be excluded" in page
    assert "as read" not in page and page.endswith("<p>the answers</p>\n")
    assert "Made again by these labels" in done.stdout and "report.html." in done.stdout
    with open(results / "labelled.csv", newline="", encoding="utf-8") as file:
        figures = {row["metric"]: row for row in csv.DictReader(file)}
    assert figures["harmful"]["base"] == "0.75" and figures["harmful"]["adapter"] == "0.0"
    assert {(row["labelled_by"], row["labelled"]) for row in figures.values()} == {
        ("clinician", "4")
    }


@pytest.mark.parametrize("column", ["warning_signs", "cautions"])
def test_a_number_of_a_list_that_has_changed_since_is_no_label(results, column):
    """As where somebody sorts the red flags of a question after step 7 has asked it."""
    first, second, *rest = [well(row) | {"named": "1"} for row in rows()]
    other = "\n".join(reversed(first[column].splitlines())) + "\n9 another"
    label_file.write(results / "mine.csv", [first | {column: other}, second | {column: ""}, *rest])
    done = label(results, "--labels", str(results / "mine.csv"))
    assert done.returncode == 1 and done.stderr.count("left out") == 1
    assert f"row 2 numbers other {column.replace('_', ' ')} than the content has" in done.stderr
    assert f"{len(rest) + 1} labelled answers" in done.stdout


def test_a_row_that_is_wrong_is_named_and_left_out(results):
    other = NOTHING | {"key": "0" * 12}
    label_file.write(results / "mine.csv", [row | other for row in rows()])
    none = label(results, "--labels", str(results / "mine.csv"))
    assert none.returncode == 2 and "rows of other results" in none.stderr
    first, second, third, *rest = map(well, rows())
    mixed = [first | {"cause": "perhaps"}, second | other, third | {"named": "13"}, *rest]
    saved_by_a_spreadsheet(results / "mine.csv", mixed, delimiter=";")
    some = label(results, "--labels", str(results / "mine.csv"))
    assert some.returncode == 1 and "5 labelled answers" in some.stdout
    assert some.stderr.count("left out: ") == 3 and "row 2: cause is 'perhaps'" in some.stderr
    assert f"the row of {third['key']}: named is 13 and its list has" in some.stderr
    assert "Described, not claimed: nobody says who labelled" in some.stdout


def base_alone(folder):
    path = folder / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(True)
    path.write_text("".join(line for line in lines if '"base"' in line), encoding="utf-8")


def other_content(folder):
    path = folder / "results.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"cautions": ["', '"cautions": ["former_'), encoding="utf-8")


def other_reader(folder):
    path = folder / "results.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"answer":', '"readings": {"x": 1}, "answer":'), encoding="utf-8")


def other_metric(folder):
    path = folder / "reader.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("red_flags", "flags"), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (base_alone, "does not hold answers of base and adapter"),
        (other_content, "'former_anticoagulant_no_nsaid' is no question or caution any more"),
        (other_reader, "holds readings of another version"),
        (other_metric, "reader.json cannot be read"),
    ],
)
def test_results_that_no_labels_can_compare_are_one_sentence(results, damage, says):
    label_file.write(results / "mine.csv", [well(row) for row in rows()])
    damage(results)
    done = label(results, "--labels", str(results / "mine.csv"))
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_a_copy_of_ones_own_file_is_no_second_person(results):
    for name in ("anna", "copy"):
        label_file.write(results / f"{name}.csv", [well(row) for row in rows()])
    files = ("--labels", str(results / "anna.csv"), "--labels", str(results / "copy.csv"))
    done = label(results, *files)
    assert done.returncode == 2 and "each --labels is another person's" in done.stderr


def test_a_copy_that_a_spreadsheet_saved_anew_is_asked_about(results):
    filled = [well(row) for row in rows()]
    label_file.write(results / "anna.csv", filled)
    saved_by_a_spreadsheet(results / "ben.csv", filled[::-1], delimiter=";")
    files = ("--labels", str(results / "anna.csv"), "--labels", str(results / "ben.csv"))
    done = label(results, *files)
    assert "label the 8 answers that both have alike in every cell" in done.stderr
    label_file.write(results / "ben.csv", [filled[0] | {"cause": "yes"}, *filled[1:]])
    assert "alike" not in label(results, *files).stderr


def test_a_row_that_shows_the_answer_of_another_key_is_left_out(results):
    """The column of answers was sorted, and no other with it."""
    filled = [well(row) for row in rows()]
    sorted_alone = sorted(row["answer"] for row in filled)
    mixed = [row | {"answer": text} for row, text in zip(filled, sorted_alone, strict=True)]
    moved = sum(a["answer"] != b["answer"] for a, b in zip(filled, mixed, strict=True))
    label_file.write(results / "mine.csv", mixed)
    done = label(results, "--labels", str(results / "mine.csv"))
    assert moved and done.stderr.count("the answer of another: sort the file with all") == moved
    edited = [row | {"answer": f"{row['answer']} (!) caf\xe9"} for row in filled]
    label_file.write(results / "mine.csv", edited)
    assert label(results, "--labels", str(results / "mine.csv")).returncode == 0


def test_what_an_editor_saved_otherwise_stays_below_the_verdict(results):
    (results / "summary.txt").write_bytes(b"caf\xe9\n")
    (results / "report.html").write_bytes(PAGE.encode() + b"caf\xe9\n")
    label_file.write(results / "mine.csv", [well(row) for row in rows()])
    done = label(results, "--labels", str(results / "mine.csv"))
    assert done.returncode == 0, done.stderr
    assert (results / "summary.txt").read_bytes().endswith(b"caf\xe9\n")
    assert (results / "report.html").read_bytes().endswith(b"caf\xe9\n")


def test_results_of_an_earlier_version_are_compared_and_claim_nothing(results):
    (results / drawn.FILE).unlink()
    label_file.write(results / "mine.csv", [well(row) for row in rows()])
    done = label(results, "--labels", str(results / "mine.csv"), "--labelled-by", "clinician")
    assert done.returncode == 0 and "No claim is made" in done.stdout
    assert "label_draw.csv" in done.stdout and "put it back" in done.stdout


def test_a_verdict_by_labels_says_which_look_at_the_patients_it_is_of(results):
    """It stands above the sentence that said so, and was "yes" after many looks."""
    opened = "No frozen plan: look 7 at validation patients (ledger)."
    BASIS.model_copy(update={"opened": opened}).write(results)
    label_file.write(results / label_file.FILE, [well(row) for row in rows()])
    done = label(results, "--labelled-by", "clinician")
    assert done.returncode == 0, done.stderr
    said = [done.stdout, *((results / n).read_text() for n in ("summary.txt", "report.html"))]
    assert all(opened in " ".join(text.split()) for text in said)


def test_two_runs_at_one_time_write_one_after_the_other(results, monkeypatch):
    """The figures of one had stood beside the words of the other."""
    made, held = [results / name for name in ("labelled.csv", "labelled.txt")], []

    @contextlib.contextmanager
    def hold(place, command, wait):
        assert wait > 0 and not any(path.exists() for path in made)
        yield
        held.append([path.exists() for path in made])

    monkeypatch.setattr(locks, "hold", hold)
    label_file.write(results / label_file.FILE, [well(row) for row in rows()])
    done = label(results)
    assert done.returncode == 0 and held == [[True, True]], done.stderr


def test_what_somebody_has_added_to_the_results_by_labels_is_kept(results):
    label_file.write(results / label_file.FILE, [well(row) for row in rows()])
    for _ in range(2):
        done = label(results, "--labelled-by", "clinician")
        assert done.returncode == 0 and "kept" not in done.stderr, done.stderr
    names = ["labelled.csv", "labelled.txt", "summary.txt"]
    for name in names:
        text = (results / name).read_text(encoding="utf-8")
        (results / name).write_text(f"read by the board \xe9\n{text}", encoding="cp1252")
    done = label(results, "--labelled-by", "clinician")
    assert done.returncode == 0, done.stderr
    for name in names:
        assert f"{name} may have been edited: it is kept as {name}.kept1" in done.stderr
        assert (results / f"{name}.kept1").read_bytes().startswith(b"read by the board \xe9\n")
        assert "the board" not in (results / name).read_text()
    summary = (results / "summary.txt").read_text(encoding="utf-8")
    assert summary.endswith("before people labelled answers:\n\nDid the adapter help? As read.\n")


@pytest.mark.parametrize(
    ("by", "n", "is_told"),
    [
        ("clinician", 8, False),
        ("clinician", 6, True),
        ("layperson", 8, True),
        (None, 8, True),
    ],
)
def test_labels_that_carry_less_than_those_before_are_told(results, by, n, is_told):
    """A layperson's few labels replaced the verdict of a clinician without a word."""
    for name, count in (("all", 8), ("some", n)):
        label_file.write(results / f"{name}.csv", [well(row) for row in rows()][:count])
    told = "the verdict rested on 4 answers of each arm or more before, labelled by clinician"
    for _ in range(2):
        before = label(results, "--labels", results / "all.csv", "--labelled-by", "clinician")
        assert before.returncode == 0 and told not in before.stderr, before.stderr
    who = ("--labelled-by", by) if by else ()
    done = label(results, "--labels", results / "some.csv", *who)
    assert done.returncode == 0 and (told in done.stderr) == is_told, done.stderr
    again = label(results, "--labels", results / "all.csv", "--labelled-by", "clinician")
    assert "rested on" not in again.stderr
