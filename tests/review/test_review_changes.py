"""The review pages show what changed and why, and put the most serious entries first."""

import re
import shutil

import pytest

from helpers.paths import ROOT
from mimic_qlora.clinical import content as clinical
from mimic_qlora.review import changes, content_pages
from mimic_qlora.review.requests import Site
from mimic_qlora.review.store import Store
from mimic_qlora.step.errors import UserError

CHANGES = """
- entries: [symptoms/foot_pain, cautions/poor_circulation_feet]
  finding: "Feet were raised that must not be."
  severity: 3
  what: "The sentence gives way to the rule."
  why: "Raising a leg without blood flow harms it."
  source: {title: "Diabetic foot", url: "https://example.org/foot", read: "2026-11-28"}
  ask: "Is one working day right?"
- entries: [questions/cough, symptoms/foot_pain]
  finding: "A word was British."
  severity: 1
  what: "It is American now."
  why: "The patients are."
  source: null
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    shutil.copytree(clinical.DATA, tmp_path / "data")
    (tmp_path / "data" / "changes.yaml").write_text(CHANGES)
    monkeypatch.setattr(clinical, "DATA", tmp_path / "data")
    store = Store(tmp_path)
    store.tasks.prepare(["anna"], [], "")
    return Site(store, {}, ROOT / "run_files", "cookie")


def text_of(response) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", response.body.decode()).split())


def test_an_entry_shows_what_changed_why_and_what_to_settle(site):
    said = text_of(content_pages.entry("symptoms", "foot_pain", site, "anna"))
    assert "Raising a leg without blood flow harms it." in said
    assert "Diabetic foot: https://example.org/foot , read on 2026-11-28" in said
    assert "For you to settle Is one working day right?" in said
    assert "none was opened: from general knowledge, to be checked" in said
    assert said.index("Feet were raised") < said.index("A word was British")
    assert "What changed" not in text_of(content_pages.entry("symptoms", "cough", site, "anna"))


def test_the_most_serious_entries_come_first(site):
    page = content_pages.overview(site, "anna").body.decode()
    links = re.findall(r'href="/content/([a-z_/]+)"', page)
    changed = ["cautions/poor_circulation_feet", "symptoms/foot_pain", "questions/cough"]
    assert links[0] == changed[0] and links[1:4] == changed
    rules = [key for key in links[4:] if key.startswith("cautions/")]
    known = clinical.load().cautions
    worst = [max(known[key.partition("/")[2]].severities.values()) for key in rules[1:]]
    assert worst == sorted(worst, reverse=True) and {*worst} == {1, 2, 3}
    second = text_of(content_pages.entry("symptoms", "foot_pain", site, "anna"))
    assert "Entry 2 of" in second


def test_of_what_is_as_serious_what_is_to_settle_comes_first(site):
    path = clinical.DATA / "changes.yaml"
    settled = CHANGES.replace(
        "symptoms/foot_pain, cautions/poor_circulation_feet", "cautions/inr_high"
    )
    asked = CHANGES.split("\n- entries")[1].replace("symptoms/foot_pain, ", "")
    path.write_text(settled.split("\n  ask:")[0] + "\n- entries" + asked + "\n")
    page = content_pages.overview(site, "anna").body.decode()
    links = re.findall(r'href="/content/([a-z_/]+)"', page)
    assert links[1:3] == ["cautions/poor_circulation_feet", "cautions/inr_high"]


def test_signs_and_tags_are_told_in_words_and_an_ideal_is_told_from_general_advice(site):
    said = text_of(content_pages.entry("cautions", "inr_high", site, "anna"))
    assert "bleeding that does not stop; blood in the urine" in said
    assert "ask before the next dose (Oral anticoagulant)" in said
    listed = text_of(content_pages.overview(site, "anna"))
    assert "Cough Ideal. A word was British." in listed
    assert "Foot pain General advice. Feet were raised" in listed


def test_a_mistake_in_the_changes_is_one_sentence(site):
    path = clinical.DATA / "changes.yaml"
    path.write_text(CHANGES.replace("severity: 1", "severity: 5"))
    with pytest.raises(UserError, match="changes.yaml, entry 2: field 'severity' must be 1, 2 or"):
        changes.load()


def test_the_changes_name_entries_that_exist():
    files = {**clinical.load()._asdict()}
    files["questions"] = {q.id for q in clinical.load_questions(ROOT / "run_files")}
    files["knowledge"] = {k.id for k in clinical.load_knowledge(ROOT / "run_files")}
    named = [key.split("/") for change in changes.load() for key in change.entries]
    assert [(kind, name) for kind, name in named if name not in files.get(kind, ())] == []
