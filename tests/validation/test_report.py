"""Step 7's page stands alone, shows the basis of each mark, lets no answer act."""

import html
import re
import shutil
import subprocess
from datetime import datetime
from html.parser import HTMLParser

import pytest

from helpers.paths import ROOT
from mimic_qlora.chart import context, facts, prediction_times
from mimic_qlora.clinical import content
from mimic_qlora.llm.generation import Answer
from mimic_qlora.validation import (
    arms,
    asking,
    findings,
    settings,
    statistics,
    trial_results,
    trials,
)
from mimic_qlora.validation.report import figures, verdict
from mimic_qlora.validation.report import page as report
from mimic_qlora.validation.report import trials as report_trials
from mimic_qlora.validation.scoring import rubric

QUESTIONS = content.load_questions(ROOT / "run_files")
KNOWLEDGE = content.load_knowledge(ROOT / "run_files")
CAUTIONS = content.load().cautions
# one that is trained on, and one that never is, which asks for the same action
RULES = [CAUTIONS["anticoagulant_no_nsaid"], CAUTIONS["ckd_no_nsaid"]]
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
    adjusted = statistics.holm({n: differences[n].p for n in rubric.HEADLINE if n in differences})
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


def test_labels_remake_the_verdict_on_the_page_and_leave_the_answers(page, tmp_path):
    """Later labels take the place of earlier ones; a page without the places stays as it is."""
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    shown = page[page.index('<div id="trials">') :]
    for answer in ("In part", "Not shown"):
        told = verdict.Answer("Did the adapter help?", answer, "By labels.")
        by_labels = verdict.Verdict(told, told, "Labelled by a clinician.")
        compared = findings.Comparison({}, {}, rubric.METRICS)
        assert figures.remake(path, by_labels, compared, [f"note: {answer} <b>"])
        made = path.read_text(encoding="utf-8")
        assert f'<p class="said">{answer}</p>' in made and "&lt;b&gt;" in made
        assert made.count("<h2>What the labels show</h2>") == made.count('class="verdict"') == 1
        assert made.endswith(shown) and Tags(made).open == []
    assert "In part" not in made
    path.write_text("an old page", encoding="utf-8")
    assert not figures.remake(path, by_labels, compared, [])
    assert path.read_text(encoding="utf-8") == "an old page"


def test_no_answer_can_act_on_the_page(page):
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert sum(tag == "script" for tag, _ in Tags(page).tags) == 1


def test_each_trial_shows_both_answers_the_ideal_and_what_its_points_rest_on(page):
    assert [rule.held_out for rule in RULES] == [False, True]
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
