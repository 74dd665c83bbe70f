"""Ideals and rules: a clinician's decision is kept, and reaches the files as the least change."""

import difflib
import json
import shutil

import pytest
import yaml
from pydantic import TypeAdapter

from helpers.reviewing import ROOT, Server
from mimic_qlora.clinical import conditions
from mimic_qlora.clinical import content as clinical
from mimic_qlora.clinical.schema import MODELS
from mimic_qlora.review import content as content_review
from mimic_qlora.review import yaml_edit
from mimic_qlora.review.decisions import Decision
from mimic_qlora.review.store import Store
from mimic_qlora.review.yaml_edit import Review
from mimic_qlora.step.errors import UserError

RUN_FILES = ROOT / "run_files"
FILES = [
    ("questions", RUN_FILES),
    ("knowledge", RUN_FILES),
    ("cautions", clinical.DATA),
    ("symptoms", clinical.DATA),
]
NEW = (
    'Say "this": é – 100% # not a comment, and a very long line that has to be folded '
    "where the style folds " + "x " * 40
)


def changed_lines(before: str, after: str) -> list:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


@pytest.mark.parametrize("kind, folder", FILES, ids=[kind for kind, _ in FILES])
def test_an_approval_changes_two_lines_and_every_entry_can_be_edited_and_edited_back(kind, folder):
    text = (folder / f"{kind}.yaml").read_text(encoding="utf-8")
    entries = {entry["id"]: entry for entry in yaml.load(text, yaml.CSafeLoader)}
    name = list(entries)[1]
    approved = yaml_edit.edit(text, {name: Review({}, "A. Name, MD", "2026-01-31")})
    lines = changed_lines(text, approved)
    assert len(lines) == 3 and lines[0].strip("- ") == "reviewed_by: null"
    assert [line.split(": ")[1] for line in lines[1:]] == ['"A. Name, MD"', '"2026-01-31"']
    MODELS[kind].model_validate(next(e for e in yaml.safe_load(approved) if e["id"] == name))
    model = MODELS[kind]
    texts = {n: content_review.texts_of(model.model_validate(e)) for n, e in entries.items()}
    new = {
        n: {
            path: f"{t}\n{NEW}" if kind == "questions" else f"{t} {NEW.strip()}"
            for path, t in given.items()
        }
        for n, given in texts.items()
    }
    new = {
        n: {path: content_review.normal(t) for path, t in given.items()} for n, given in new.items()
    }
    edited = yaml_edit.edit(text, {n: Review(given, "B", "2026-02-01") for n, given in new.items()})
    for entry in yaml.load(edited, yaml.CSafeLoader):
        found = content_review.texts_of(model.model_validate(entry))
        assert found == new[entry["id"]] and entry["reviewed_by"] == "B"
    back = yaml_edit.edit(edited, {n: Review(given, None, None) for n, given in texts.items()})
    assert back.replace("\n  reviewed_on: null", "") == text, (
        "comments, quotes, folds and anchors are as they were"
    )


def test_a_text_that_cannot_be_written_without_touching_more_is_refused(monkeypatch):
    text = (RUN_FILES / "knowledge.yaml").read_text()
    monkeypatch.setattr(yaml_edit, "_quoted", lambda value: '"a"\n  question: "lost"')
    with pytest.raises(UserError, match="would touch more"):
        yaml_edit.edit(text, {"sepsis_risk": Review({}, "A", "2026-01-31")})


def test_what_a_word_processor_pastes_can_be_written():
    text = (RUN_FILES / "questions.yaml").read_text(encoding="utf-8")
    pasted = "Rest.\x0bDrink\u2028water.\r\n\r\n\r\nCall\x85\u202eus\x7f \x00now\t.  "
    new = content_review.normal(pasted)
    assert new == "Rest.\nDrink\nwater.\n\nCall\nus now ."
    edited = yaml_edit.edit(text, {"cough": Review({("ideal",): new}, "A", "2026-01-31")})
    assert next(e for e in yaml.safe_load(edited) if e["id"] == "cough")["ideal"].strip() == new
    with pytest.raises(UserError, match="by hand"):
        yaml_edit.edit(text, {"cough": Review({}, "\x7f", "2026-01-31")})


def test_which_charts_a_caution_is_for_is_said_in_words():
    cautions = clinical.load().cautions
    said = {name: caution.when.in_words(clinical.names()) for name, caution in cautions.items()}
    assert not [
        name for name, words in said.items() if set("{}_[]'\"") & set(words.replace("'s ", " "))
    ]
    assert said["antiplatelet_order_no_nsaid"] == (
        "an order for antiplatelet medicine and not (a diagnosis of long-term blood thinner use "
        "or an order for blood thinner pills "
        "or an order for blood thinner injections at a treatment dose)"
    )
    assert said["inr_high"] == ("a latest INR clotting test above 4, at most 30 days old")
    assert said["older_no_sedating_antihistamine"] == "age at least 65"
    both = {"all": [{"sex": "F"}, {"age": {"at_least": 18, "below": 50}}]}
    young_woman = TypeAdapter(conditions.Condition).validate_python(both)
    assert young_woman.in_words(clinical.names()) == "female and age at least 18 and age below 50"
    assert said["recent_spinal_tap_headache"] == (
        "a spinal tap, epidural or spinal drain in the last 14 days"
    )


def test_who_reviewed_an_entry_changes_no_result(tmp_path):
    before = clinical.content_sha256()
    folder = tmp_path / "clinical_data"
    shutil.copytree(clinical.DATA, folder)
    path = folder / "cautions.yaml"
    approved = yaml_edit.edit(
        path.read_text(), {"anticoagulant_no_nsaid": Review({}, "A, MD", "2026-01-31")}
    )
    path.write_text(approved)
    assert clinical.sha256_of(clinical.load(folder)) == before
    path.write_text(approved.replace("ibuprofen, naproxen", "naproxen", 1))
    clinical.load.cache_clear()
    assert clinical.sha256_of(clinical.load(folder)) != before


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The content files in a place where they may be written."""
    shutil.copytree(clinical.DATA, tmp_path / "clinical_data")
    monkeypatch.setattr(clinical, "DATA", tmp_path / "clinical_data")
    (tmp_path / "run_files").mkdir()
    for name in ("questions", "knowledge"):
        shutil.copy(RUN_FILES / f"{name}.yaml", tmp_path / "run_files")
    return tmp_path / "run_files"


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.tasks.prepare(["anna", "ben"], [], "")
    return store


def decide(store, run_files, rater, key, verdict, texts=None, comment=""):
    found = content_review.current(run_files, store.decisions.all())[key]
    entry, texts = found.entry, texts or list(found.texts.values())
    if verdict == "edit":
        was = list(found.texts.values())
        return store.decisions.add(Decision(rater, key, "edit", texts, was, found.in_file))
    now, signs_as = content_review.fingerprint(entry), f"{rater.title()}, MD"
    store.decisions.add(Decision(rater, key, verdict, texts, texts, now, signs_as, comment))


def write(changes: dict) -> dict:
    for path, (_, after) in changes.items():
        path.write_text(after, encoding="utf-8")
    return changes


def test_an_edit_is_exported_with_its_approval_only_and_then_stands_in_the_file(copy, store):
    key = "knowledge/sepsis_risk"
    decide(store, copy, "anna", key, "edit", ["Age over 65 raises the risk."])
    assert content_review.export(copy, store.decisions.all()) == {}, (
        "nobody has approved the new words"
    )
    assert content_review.current(copy, store.decisions.all())[key].edited
    assert "catheter" not in str(content_review.current(copy, store.decisions.all())[key].texts)
    decide(store, copy, "ben", key, "approve")
    write(content_review.export(copy, store.decisions.all()))
    (entry,) = [e for e in clinical.load_knowledge(copy) if e.id == "sepsis_risk"]
    assert entry.ideal == "Age over 65 raises the risk." and entry.reviewed_by == "Ben, MD"
    assert entry.reviewed_on == store.decisions.all(key)[-1].at[:10]
    assert content_review.export(copy, store.decisions.all()) == {}, (
        "the second export has nothing to add"
    )
    assert not content_review.current(copy, store.decisions.all())[key].edited


def test_an_approval_is_of_the_words_that_were_read(copy, store):
    key = "cautions/anticoagulant_no_nsaid"
    decide(store, copy, "anna", key, "approve")
    assert content_review.current(copy, store.decisions.all())[key].approved
    path = clinical.DATA / "cautions.yaml"
    text = path.read_text()
    path.write_text(text.replace("severity: 3", "severity: 2", 1))
    assert not content_review.current(copy, store.decisions.all())[key].approved, (
        "the entry changed behind the approval"
    )
    assert content_review.export(copy, store.decisions.all()) == {}
    path.write_text(text)
    decide(store, copy, "ben", key, "edit", ["Do not take ibuprofen."])
    assert not content_review.current(copy, store.decisions.all())[key].approved


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_file_that_an_editor_saved_otherwise_takes_approvals(copy, store, encoding):
    path = copy / "questions.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    decide(store, copy, "anna", "questions/cough", "approve")
    write(content_review.export(copy, store.decisions.all()))
    after = path.read_bytes().decode("utf-8")
    (entry,) = [e for e in clinical.load_questions(copy) if e.id == "cough"]
    assert entry.reviewed_by == "Anna, MD" and "\ufeff" not in after and "\r" not in after
    gone = [line for line in text.splitlines() if line not in after.splitlines()]
    assert all("reviewed_" in line for line in gone)


def test_a_rejection_outweighs_an_approval_and_takes_a_name_out_of_the_file(copy, store):
    key = "cautions/anticoagulant_no_nsaid"
    decide(store, copy, "anna", key, "approve")
    write(content_review.export(copy, store.decisions.all()))
    assert "Anna, MD" in (clinical.DATA / "cautions.yaml").read_text()
    decide(store, copy, "ben", key, "reject", comment="too strict")
    write(content_review.export(copy, store.decisions.all()))
    assert "Anna, MD" not in (clinical.DATA / "cautions.yaml").read_text()
    (line,) = content_review.left_to_settle(copy, store.decisions.all())
    assert line == f"{key}: rejected by ben, but approved by anna: too strict"
    decide(store, copy, "ben", key, "approve")
    write(content_review.export(copy, store.decisions.all()))
    assert '"Anna, MD; Ben, MD"' in (clinical.DATA / "cautions.yaml").read_text()
    assert [d.rater for d in store.decisions.all(key)] == ["anna", "ben", "ben"], (
        "what was decided before is kept"
    )


@pytest.mark.parametrize("verdict, did", [("approve", "approved"), ("edit", "changed")])
def test_a_decision_that_lapsed_as_its_file_was_changed_is_named(copy, store, verdict, did):
    """--export dropped the words, and said that nothing was approved that the files lacked."""
    key, path = "questions/cough", copy / "questions.yaml"
    texts = ["Rest. Call 911 for blue lips."]
    decide(store, copy, "anna", key, verdict, texts)
    assert "its file was changed" not in str(
        content_review.left_to_settle(copy, store.decisions.all())
    )
    (entry,) = [e for e in clinical.load_questions(copy) if e.id == "cough"]
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(entry.question, f"{entry.question} Please."), encoding="utf-8")
    assert content_review.export(copy, store.decisions.all()) == {}
    lines = content_review.left_to_settle(copy, store.decisions.all())
    (line,) = [line for line in lines if "its file was changed" in line]
    assert line.startswith(f"{key}: its file was changed since anna {did} it")
    path.write_text(text, encoding="utf-8")
    decide(store, copy, "anna", key, "approve", texts)
    write(content_review.export(copy, store.decisions.all()))
    left = content_review.left_to_settle(copy, store.decisions.all())
    assert not [line for line in left if "its file was changed" in line]


def test_a_decision_on_an_entry_that_no_file_has_any_more_is_named(copy, store):
    """An id that was corrected left the clinician's words behind: --export said nothing of them."""
    path = copy / "questions.yaml"
    decide(store, copy, "ben", "questions/cough", "edit", ["Rest. Call 911 for blue lips."])
    decide(store, copy, "anna", "questions/cough", "approve")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("- id: cough\n", "- id: a_cough\n"), encoding="utf-8")
    assert content_review.export(copy, store.decisions.all()) == {}
    (line,) = content_review.left_to_settle(copy, store.decisions.all())
    assert line.startswith("questions/cough: anna approved it, and no file has an entry of that id")
    path.write_text(text, encoding="utf-8")
    assert "no file has" not in str(content_review.left_to_settle(copy, store.decisions.all()))
    assert content_review.export(copy, store.decisions.all())


def test_words_that_lose_what_the_validation_looks_for_are_named(copy, store):
    assert [
        key
        for key, found in content_review.current(copy, []).items()
        if content_review.lost(found.entry)
    ] == []
    for key, gone in (("questions/cough", "blue lips"), ("knowledge/sepsis_risk", "devices")):
        decide(store, copy, "anna", key, "edit", ["Rest."])
        found = content_review.current(copy, store.decisions.all())[key]
        assert gone in content_review.lost(found.entry)
    decide(store, copy, "anna", "cautions/anticoagulant_no_nsaid", "edit", ["Take care."])
    lines = "\n".join(content_review.left_to_settle(copy, store.decisions.all()))
    assert (
        "cautions/anticoagulant_no_nsaid: the text no longer says" in lines
        and "not approved yet" in lines
    )


def test_decisions_on_the_page_are_kept_and_a_change_behind_ones_back_is_not_overwritten(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / "results.jsonl").write_text(_one_item())
    with Server(results) as server:
        anna, ben = server.client("anna"), server.client("ben")
        path = "/content/cautions/anticoagulant_no_nsaid"
        read = _form(anna.get(path).text)
        answer = anna.post(path, {**read, "verdict": "approve"})
        assert answer.status == 400 and "needs your name" in answer.text
        unsigned = anna.post(
            path, {**read, "text": "A long text", "comment": "why", "verdict": "approve"}
        ).text
        assert ">A long text</textarea>" in unsigned and ">why</textarea>" in unsigned, (
            "what was typed is not lost"
        )
        edited = {
            **read,
            "text": "Do not take ibuprofen or naproxen.",
            "verdict": "edit",
            "comment": "shorter",
        }
        assert anna.post(path, edited).status == 303
        late = ben.post(
            path, {**read, "text": "Ben's words", "verdict": "approve", "signs_as": "Ben, MD"}
        )
        assert late.status == 409 and "somebody changed this entry" in late.text
        assert ">Ben&#39;s words</textarea>" in late.text and 'value="Ben, MD"' in late.text
        assert (
            "Do not take ibuprofen or naproxen." in late.text
            and "Ben&#39;s words" not in ben.get(path).text
        )
        now = _form(ben.get(path).text)
        assert ben.post(path, {**now, "verdict": "approve", "signs_as": "Ben, MD"}).status == 303
        again = {**_form(anna.get(path).text), "verdict": "edit", "comment": "and one more thing"}
        assert anna.post(path, again).status == 303
        page = anna.get(path).text
        assert (
            "anna changed the text: “shorter”" in page
            and "anna commented: “and one more thing”" in page
        )
        assert "anna changed the text" in page and "ben approved" in page
        assert "ibuprofen, naproxen or aspirin for pain.</dd>" in page, "what it was is kept"
        assert "edited, approved by ben" in anna.get("/content").text
        assert anna.post(path, {**now, "text": "", "verdict": "edit"}).status == 400
        assert anna.post(path, {**now, "verdict": "delete"}).status == 400
    store = Store(results)
    (path_of, (before, after)), *others = content_review.export(
        RUN_FILES, store.decisions.all()
    ).items()
    assert not others and path_of.name == "cautions.yaml" and len(changed_lines(before, after)) == 5


def _form(page: str) -> dict:
    import html
    import re

    fingerprint = re.search(r'name="fingerprint" value="(\w+)"', page)[1]
    (text,) = re.findall(r'<textarea id="text-\d+"[^>]*>(.*?)</textarea>', page, re.S)
    return {"fingerprint": fingerprint, "text": html.unescape(text), "comment": ""}


def _one_item() -> str:
    rows = [
        {
            "trial": 1,
            "kind": "trial",
            "arm": arm,
            "question_id": "q",
            "subject_id": 1,
            "messages": [{"role": "user", "content": "c\n\nQuestion\nq"}],
            "answer": "Rest.",
        }
        for arm in ("base", "adapter")
    ]
    return "\n".join(map(json.dumps, rows)) + "\n"
