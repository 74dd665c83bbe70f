"""Step 7's page stands alone, shows the basis of each mark, lets no answer act; labels."""

import csv
import html
import io
import json
import re
import shutil
import subprocess
import sys
from datetime import datetime
from html.parser import HTMLParser

import pytest

from helpers.paths import ROOT
from mimic_qlora.chart import context, facts, prediction_times
from mimic_qlora.clinical import content
from mimic_qlora.llm.generation import Answer
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import (
    arms,
    asking,
    findings,
    labels,
    settings,
    statistics,
    trial_results,
    trials,
)
from mimic_qlora.validation.report import page as report
from mimic_qlora.validation.report import trials as report_trials
from mimic_qlora.validation.report import verdict
from mimic_qlora.validation.scoring import rubric

QUESTIONS = content.load_questions(ROOT / "run_files")
KNOWLEDGE = content.load_knowledge(ROOT / "run_files")
CAUTIONS = content.load().cautions
RULES = [  # one that is trained on, one that never is
    CAUTIONS["anticoagulant_no_nsaid"],
    next(rule for rule in CAUTIONS.values() if rule.held_out),
]
NASTY = (
    "<script>alert(1)</script> You probably have a stroke & take 400 mg of ibuprofen.\n"
    "Do not call for chest pain."
)
FACTS = dict.fromkeys(
    re.findall(r"{(\w+)}", (report.PAGES / "checklist.yaml").read_text(encoding="utf-8")),
    "a fact of the run",
)


def result(number, question, base, adapter, called_for=RULES):
    """A trial as step 7 leaves it, of a chart that calls for the rules."""
    as_of = datetime(2150, 1, 1)
    known = facts.Facts({}, {}, {}, {}, {}, [], [], {}, age=50, sex="F")
    chart = context.Context("Patient context\n- Age: 50", known, {}, {}, known, as_of)
    moment = prediction_times.Moment(1, as_of)
    turns = [{"role": "user", "content": f"{chart.text}\n\nQuestion\n{question.question}"}]
    about = ("trial", 100 + number, moment, tuple(called_for), chart)
    return of(trials.Trial(number, question, turns, *about), base, adapter)


def of(trial, base, adapter):
    asks = [asking.Ask(trial, arm, trial.messages) for arm in arms.PAIR]
    answers = (Answer(base, 9, False), Answer(adapter, 9, True))
    given = {arm: trial_results.Given(a, 1.0) for arm, a in zip(arms.PAIR, answers, strict=True)}
    return trial_results.of(asks, given, trial_results.Provenance("validation"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of 12 trials: the base's answer is nasty, the adapter's has one of two cautions."""
    found = [
        result(i, q, NASTY, f"{q.ideal}\n- {RULES[0].say}") for i, q in enumerate(QUESTIONS[:12], 1)
    ]
    (prompt,) = trials.without_patient(KNOWLEDGE[:1])
    rows = [r.row() for r in found]
    differences = statistics.compare(rows, rubric.METRICS, arms.PAIR)
    adjusted = statistics.holm({name: differences[name].p for name in rubric.HEADLINE})
    compared = findings.Comparison(differences, adjusted, rubric.METRICS)
    notes = findings.statement(*compared, rubric.PRIMARY)
    basis = verdict.Basis("synthetic patients", "patterns", reader_known=False, shows_nothing=True)
    margins = dict.fromkeys(rubric.SAFETY, statistics.MARGIN)
    concluded = verdict.of(compared, rows, rubric.PRIMARY, margins, basis)
    run = settings.Run(None, settings.settle(settings.Asked(), None), arms.PAIR, QUESTIONS)
    path = tmp_path_factory.mktemp("report") / "report.html"
    made = report.Content(
        run, found, [of(prompt, NASTY, "So.")], [], compared, concluded, notes, {}
    )
    report.write_page(path, ["Data."], made, FACTS)
    return path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_reaches_for_nothing(page):
    tags = Tags(page)
    assert tags.open == []
    assert [
        a for _, attrs in tags.tags for a in ("src", "href", "action", "srcset") if a in attrs
    ] == []
    assert (
        "http" not in page.replace("http-equiv", "")
        and "url(" not in page
        and "@import" not in page
    )
    assert "default-src 'none'" in page


def test_the_page_opens_with_the_verdict_and_shows_answers_before_criteria(page):
    order = ["Did the adapter help?", "Is it safe?", "<figure", "All figures as a table"]
    order += ["Answers side by side", "By group", "Checklist after TRIPOD-LLM"]
    places = [page.index(part) for part in order]
    assert places == sorted(places)
    for shown in page.split('<article class="trial"')[1:]:
        parts = ['<div class="arms">', "What a good answer does", "Chart as the model got it"]
        assert [shown.index(part) for part in parts] == sorted(shown.index(p) for p in parts)
        assert shown.index("<table") > shown.index("<details>")


def test_no_answer_can_act_on_the_page(page):
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert sum(tag == "script" for tag, _ in Tags(page).tags) == 1


def test_each_trial_shows_both_answers_the_ideal_and_what_its_points_rest_on(page):
    articles = page.split('<article class="trial"')[1:]
    assert len(articles) == 12
    for shown, question in zip(articles, QUESTIONS, strict=False):
        text = re.sub(r"<[^>]+>", "", shown)
        assert f'data-question="{question.id}"' in shown and "Patient context" in shown
        assert text.count("Ideal, composed for this chart") == 1
        ideal = re.sub(r"<[^>]+>", "", shown.split("Ideal, composed")[1].split("<details")[0])
        assert all(html.escape(rule.say, quote=False)[:30].split("'")[0] in ideal for rule in RULES)
        assert shown.count("warning sign: ") == len(question.red_flags)
        # the base names a cause and a dose, and is cut; the adapter does neither
        assert re.search(r'<td class="broken">[^<]*stroke', shown)
        assert re.search(r'<td class="broken">[^<]*400 mg', shown)
        assert shown.count('<td class="broken">NO</td>') == 1
        # the two rules ask for one action, and the answer gives the reason of the first alone
        assert shown.count("said, without its reason") == 1
        assert "rule never trained on" in shown and 'class="cut"' in shown
        assert 'class="harm' in shown and 'class="hit' in shown
        unseen = " unseen" if content.symptom_of(question).held_out else ""
        assert f'data-kinds="better harm missed{unseen}"' in shown
    assert "PLAYED DOWN" in articles[0]


def test_how_many_ideals_were_reviewed_stands_beside_every_table_of_numbers(page):
    said = f"reviewed by a clinician: 0 of 12 ideals, 0 of {len(RULES)} rules"
    captions = re.findall(r"<caption>(.*?)</caption>", page)
    numbers = [
        caption for caption in captions if "TRIPOD" not in caption and "Gallifant" not in caption
    ]
    assert len(numbers) == 3 and all(said in caption for caption in numbers)


def test_a_review_counts_once_it_is_there():
    reviewed = [
        q.model_copy(update={"reviewed_by": "A. Name, MD"}) if i < 2 else q
        for i, q in enumerate(QUESTIONS)
    ]
    found = [result(i, q, "", "") for i, q in enumerate(QUESTIONS[:5] * 2)]
    said = f"reviewed by a clinician: 2 of 5 ideals, 0 of {len(RULES)} rules"
    assert report.reviewed_line(found, reviewed) == said


def test_the_checklist_has_every_item_of_tripod_llm_and_leaves_no_gap():
    rows = report.checklist(FACTS)
    numbers = [str(row["item"]).rstrip("abcdefg") for row in rows]
    assert list(dict.fromkeys(numbers)) == [str(n) for n in range(1, 20)] and len(rows) == 49
    assert all(row["in this run"] and "{" not in row["in this run"] for row in rows)


def test_words_that_the_other_lacks_are_found():
    text = "Rest. Call 911 now."
    lacking = report_trials.lacking(text, "rest! call now")
    assert "".join(text[i] for i in sorted(lacking)) == ".911."


DRIVEN = """<script>
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const type = (id, value) => {
  document.getElementById(id).value = value;
  document.getElementById(id).dispatchEvent(new Event("input"));
};
const seen = () => document.querySelectorAll(".trial:not([hidden])").length;
const said = [seen()];
press("j"); press("j"); press("k");
said.push([...document.querySelectorAll(".trial")].findIndex((t) => t.classList.contains("here")));
press("d"); said.push(document.querySelectorAll(".differences").length);
type("question", "heartburn"); said.push(seen()); press("Escape"); said.push(seen());
type("words", "finish the last one three hours"); said.push(seen());
type("words", ""); type("kind", "worse"); said.push(seen());
// what is folded is printed too
dispatchEvent(new Event("beforeprint"));
said.push(document.querySelectorAll("details:not([open])").length);
dispatchEvent(new Event("afterprint"));
said.push(document.querySelectorAll("details[open]").length);
document.title = said.join(" ");
</script></body>"""


def test_keys_and_filters_work_in_a_browser(page, tmp_path):
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not chromium:
        pytest.skip("no Chromium here")
    (tmp_path / "page.html").write_text(page.replace("</body>", DRIVEN), encoding="utf-8")
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=2000",
        "--dump-dom",
        str(tmp_path / "page.html"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert re.search(r"<title>(.*?)</title>", done.stdout)[1] == "12 0 1 1 12 1 0 0 0"


# ---------------------------------------------------------------- labels


def answers():
    question = QUESTIONS[0]
    for trial in range(4):
        for arm in ("base", "adapter"):
            good = arm == "adapter" or trial == 0
            text = (
                question.ideal if good else f"Rest, number {trial}. It is caused by an infection."
            )
            about = (trial, arm, question.id, f"{text} {trial}", True, (RULES[0].id,), "")
            yield labels.Answer(*about)


def filled(path, fill):
    """label.csv as step 7 leaves it, filled by fill(row)."""
    rows = labels.to_fill(list(answers()), QUESTIONS)
    assert len(rows) == 8 and not any("arm" in row or "base" in str(row.values()) for row in rows)
    assert "1 trouble breathing" in rows[0]["warning_signs"] and RULES[0].say in rows[0]["cautions"]
    labels.write(path, [row | fill(row) for row in rows])
    return labels.read(path)


def one_filled(path, **changes):
    """label.csv with the first row filled otherwise than the others: labels and faults."""
    rows = labels.to_fill(list(answers()), QUESTIONS)
    well = {"named": "1", "cause": "no", "labelled_by": "A. Müller"}
    labels.write(path, [rows[0] | well | changes, *(row | well for row in rows[1:])])
    return labels.read(path)


def test_labels_come_back_from_the_file_that_people_fill(tmp_path):
    found = filled(
        tmp_path / "label.csv",
        lambda row: {"named": "1, 3", "cause": "Yes"} if "Rest" in row["answer"] else {},
    ).labels
    assert len(found) > 0 and all(
        label.listed["named"] == {1, 3} and label.asked["cause"] for label in found.values()
    )
    with open(tmp_path / "label.csv", newline="", encoding="utf-8-sig") as file:
        assert all(not row["answer"].startswith("-") for row in csv.DictReader(file))
    # without this mark Excel takes the file for ANSI, and shows an answer's ° and é as two signs
    assert (tmp_path / "label.csv").read_bytes().startswith(b"\xef\xbb\xbfkey,")


@pytest.mark.parametrize(
    ("column", "cell"),
    [("named", "one"), ("cause", "perhaps"), ("named", "1²"), ("dose", "03. Jan")],
)
def test_a_label_that_cannot_be_read_is_named_by_row_and_column(tmp_path, column, cell):
    found, faults = one_filled(tmp_path / "label.csv", **{column: cell})
    assert len(found) == 7 and len(faults) == 1
    assert faults[0].startswith(f"label.csv, row 2: {column} is '{cell}'")


def test_a_scorer_that_is_deaf_in_one_arm_is_measured_and_corrected(tmp_path):
    """People see a cause in every answer of both arms; the scorer sees those of the base alone."""
    found = filled(tmp_path / "label.csv", lambda row: {"named": "-", "cause": "yes"}).labels
    judged = labels.judged(list(answers()), found, QUESTIONS)
    (cause,) = (row for row in labels.accuracy(judged) if row.criterion == "cause")
    assert (cause.base.accuracy.sensitivity, cause.adapter.accuracy.sensitivity) == (0.75, 0)
    assert cause.difference_scored == -0.75 and cause.difference_person == 0
    # nothing says how often the scorer is wrong where there is none
    assert cause.difference_corrected is None
    (shown,) = labels.shown([cause])
    assert shown["found, base"] == "3 of 4" and shown["false, base"] == "none"


EXCEL = {
    "UTF-8": {"encoding": "utf-8-sig"},
    "ANSI": {"encoding": "cp1252"},
    "semicolons": {"encoding": "utf-8-sig", "delimiter": ";"},
    "semicolons and ANSI": {"encoding": "cp1252", "delimiter": ";"},
    "Unicode text": {"encoding": "utf-16", "delimiter": "\t"},
    "Macintosh": {"encoding": "mac_roman", "line_end": "\r"},
    "with sep=": {"encoding": "cp1252", "delimiter": ";", "before": "sep=;\r\n"},
}


def saved_by_a_spreadsheet(path, rows, encoding="utf-8", delimiter=",", before="", line_end="\r\n"):
    """The rows as Excel saves them: \\r\\n, its delimiter, its code page; imitated."""
    text = io.StringIO(newline="")
    text.write(before)
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    text.write(delimiter * (len(rows[0]) - 1) + "\r\n")  # a row that was emptied
    saved = text.getvalue().replace("\r\n", line_end)
    path.write_bytes(saved.encode(encoding, errors="replace"))


@pytest.mark.parametrize("kind", EXCEL)
def test_a_file_that_a_spreadsheet_saved_is_read(tmp_path, kind):
    rows = labels.to_fill(list(answers()), QUESTIONS)
    filled = {"named": "1 3", "cause": "TRUE", "labelled_by": "Müller\u2028é"}
    path = tmp_path / "label.csv"
    saved_by_a_spreadsheet(path, [row | filled for row in rows], **EXCEL[kind])
    found, faults = labels.read(path)
    assert len(found) == 8 and not faults
    assert all(x.listed["named"] == {1, 3} and x.asked["cause"] for x in found.values())


@pytest.mark.parametrize("row", [2, 8])
def test_a_stray_quote_takes_no_row_unseen(tmp_path, row):
    path = tmp_path / "label.csv"
    one_filled(path)
    lines = path.read_text(encoding="utf-8-sig").split("\nk")  # a list within a row has no key
    lines[row] = lines[row].rstrip("\n") + '"note\n'
    path.write_text("\nk".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match="label.csv cannot be read as CSV"):
        labels.read(path)


def test_what_an_editor_makes_of_a_key_and_of_a_dash_is_read(tmp_path):
    rows = labels.to_fill(list(answers()), QUESTIONS)
    found, faults = one_filled(
        tmp_path / "label.csv", key=f"\u200b{rows[0]['key'].upper()}\u00a0", named="–"
    )
    assert len(found) == 8 and not faults


def test_no_key_is_a_number_for_a_spreadsheet():
    keys = [labels.Answer(i, "base", "", "", True, (), "").key for i in range(2000)]
    assert all(re.fullmatch("k[0-9a-f]{12}", key) for key in keys) and len(set(keys)) == 2000


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("5.97E+11", "took the key for a number (5.97E+11)"),
        ("5,97055E+11", "took the key for a number"),
        ("597054854350000000", "took the key for a number"),
        ("", "has no key of an answer"),
        ("x", "has no key of an answer"),
    ],
)
def test_a_key_that_a_spreadsheet_changed_is_that_rows_fault(tmp_path, key, says):
    found, faults = one_filled(tmp_path / "label.csv", key=key)
    assert len(found) == 7 and len(faults) == 1 and says in faults[0]


def test_an_answer_that_is_labelled_twice_otherwise_is_named(tmp_path):
    path = tmp_path / "label.csv"
    one_filled(path)
    lines = path.read_text(encoding="utf-8")
    with open(path, newline="", encoding="utf-8-sig") as file:
        first = next(csv.DictReader(file))
    for cause, n_faults in (("no", 0), ("yes", 1)):
        again = io.StringIO()
        csv.DictWriter(again, list(first)).writerow(first | {"cause": cause})
        path.write_text(lines + again.getvalue(), encoding="utf-8")
        found, faults = labels.read(path)
        assert len(found) == 8 and len(faults) == n_faults
    assert "row 10 labels an answer again" in faults[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04 a workbook", "is not a CSV file: save the sheet as CSV"),
        ("key,named\n".encode("utf-16-le"), "is not a CSV file"),
        (b"\xff\xfek\x00e", "is not a CSV file"),
        (b"", "has no column 'key'"),
        (b"key,named\n", "has no column 'cautions_said'"),
        (b'key,"' + b"x" * 200_000, "cannot be read as CSV"),
    ],
)
def test_a_file_that_is_no_label_csv_is_one_sentence(tmp_path, content, says):
    (tmp_path / "label.csv").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(says)):
        labels.read(tmp_path / "label.csv")


def test_the_frozen_labels_fit_their_answers():
    place = ROOT / "benchmarks"
    kept = [
        json.loads(line)
        for line in (place / "labelled_answers.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    found = labels.read(place / "labels.csv").labels  # of the time of keys without a letter
    keys = {labels.Answer(a["trial"], a["arm"], "", a["answer"], True, (), "").key for a in kept}
    assert keys == set(found) and [
        sum(a["arm"] == arm for a in kept) for arm in ("base", "adapter")
    ] == [50, 50]


def test_label_py_says_how_far_the_scorer_agrees_and_what_is_missing(tmp_path):
    lines = [
        {
            "trial": a.trial,
            "kind": "trial",
            "arm": a.arm,
            "question_id": a.question_id,
            "cautions": a.cautions,
            "messages": [{"role": "user", "content": ""}],
            "answer": a.text,
            "ended": True,
        }
        for a in answers()
    ]
    (tmp_path / "results.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    rows = labels.to_fill(answers(), QUESTIONS)
    labels.write(tmp_path / "label.csv", rows)

    def run(*args):
        command = [
            sys.executable,
            str(ROOT / "run_files" / "label.py"),
            "--results",
            str(tmp_path),
            *args,
        ]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    empty = run()
    assert (
        empty.returncode == 2
        and "has no filled row yet" in empty.stderr
        and empty.stderr.count("\n") == 1
    )
    cause = {
        row["key"]: {"cause": "yes" if "infection" in row["answer"] else "no", "named": "-"}
        for row in rows
    }
    labels.write(tmp_path / "mine.csv", [row | cause[row["key"]] for row in rows])
    done = run("--labels", str(tmp_path / "mine.csv"))
    assert done.returncode == 0, done.stderr
    assert (
        re.search(r"8 labelled answers", done.stdout)
        and max(map(len, done.stdout.splitlines())) <= 100
    )
    assert re.search(r"^cause +3 of 3 +none +0 of 1 +0 of 4 ", done.stdout, re.M)
    other = {"key": "0" * 12, "cause": "no"}
    labels.write(tmp_path / "mine.csv", [row | other for row in rows])
    none = run("--labels", str(tmp_path / "mine.csv"))
    assert none.returncode == 2 and "rows of other results" in none.stderr
    mixed = [rows[0] | {"cause": "perhaps"}, rows[1] | other, rows[2] | {"named": "13"}]
    mixed += [row | cause[row["key"]] for row in rows[3:]]
    saved_by_a_spreadsheet(tmp_path / "mine.csv", mixed, delimiter=";")
    some = run("--labels", str(tmp_path / "mine.csv"))
    assert some.returncode == 1 and "5 labelled answers" in some.stdout
    assert some.stderr.count("left out: ") == 3 and "row 2: cause is 'perhaps'" in some.stderr
    assert f"the row of {rows[2]['key']}: named is 13 and its list has" in some.stderr
