"""The files of clinical content: the loader names each mistake, and dumps what it read."""

import copy
import json
import shutil

import pytest

from helpers.clinical_content import RUN_FILES
from mimic_qlora.clinical import content, schema
from mimic_qlora.step.errors import UserError

RAW = {name: schema.raw(content.DATA, name) for name in content.Content._fields}


@pytest.mark.parametrize(
    "file, entry, change, words",
    [
        ("phenotypes", 0, lambda e: e.pop("icd10"), "field 'icd10' is missing"),
        (
            "phenotypes",
            0,
            lambda e: e.update(icd9=["40.1"]),
            "field 'icd9' item 1: must be an ICD code prefix",
        ),
        (
            "phenotypes",
            0,
            lambda e: e.update(icd9=[401]),
            "field 'icd9' item 1: must be an ICD code prefix",
        ),
        (
            "phenotypes",
            1,
            lambda e: e.update(id="hypertension"),
            "field 'id' is used by an earlier entry",
        ),
        (
            "phenotypes",
            0,
            lambda e: e.update(kind="chronic"),
            "field 'kind' must be 'condition', 'status' or 'acute'",
        ),
        ("drugs", 0, lambda e: e.update(route="PO"), "unknown field 'route'"),
        (
            "symptoms",
            0,
            lambda e: e.update(phrasings=["Help?"]),
            "field 'phrasings' must be a list of at least 5",
        ),
        (
            "symptoms",
            0,
            lambda e: e["urgent"][0].update(pattern="(blood"),
            "field 'pattern' is not a regular expression",
        ),
        (
            "symptoms",
            0,
            lambda e: e["try"].append({"say": "Rest.", "unless": ["nobody"]}),
            "field 'try' names an unknown caution 'nobody'",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(when={"phenotype": "nothing"}),
            "field 'when' names an unknown phenotype",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(when={"all": [{"drug_class": "nothing"}]}),
            "names an unknown drug_class",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(when={"lab": {"itemid": [1], "unit": "", "within_days": 3}}),
            "condition 'lab': needs either 'above' or 'below'",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(when={"weight": 3}),
            "field 'when' names an unknown condition 'weight'",
        ),
        ("cautions", 0, lambda e: e.update(symptoms=["sneeze"]), "unknown symptom or tag 'sneeze'"),
        ("cautions", 0, lambda e: e.update(pattern=["x*"]), "would match everything"),
        ("cautions", 0, lambda e: e.update(severity=4), "field 'severity' must be 1, 2 or 3"),
        (
            "cautions",
            0,
            lambda e: e.update(severity={"pain": 2}),
            "field 'severity' must be 1, 2 or 3, or a record with 'default'",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(severity={"default": 1, "teeth": 2}),
            "field 'severity' names an unknown symptom or tag 'teeth'",
        ),
        ("cautions", 0, lambda e: e.update(level=911), "field 'level' must be '911', 'emergency'"),
        (
            "cautions",
            0,
            lambda e: e.update(signs=["hiccups"]),
            "field 'signs' names an unknown sign 'hiccups'",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(tells=["stop_drug"]),
            "the tag 'stop_drug' needs a drug class after a colon",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(tells=["keep_drug:candy"]),
            "names an unknown drug_class 'candy'",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(tells=["heat:any"]),
            "the tag 'heat' has nothing after it",
        ),
        (
            "symptoms",
            0,
            lambda e: e["track"].append({"say": "Rest.", "when": {"phenotype": "nothing"}}),
            "field 'track' 'when' names an unknown phenotype 'nothing'",
        ),
        (
            "symptoms",
            0,
            lambda e: e["try"].append({"say": "Rest."}),
            "has 'say' alone: write it as a plain text",
        ),
        (
            "symptoms",
            0,
            lambda e: e["phrasings"].append({"text": "Help?", "signs": ["hiccups"]}),
            "field 'phrasings' names an unknown sign 'hiccups'",
        ),
        (
            "tells",
            0,
            lambda e: e.update(opposed=["heat"]),
            "field 'opposed' names 'heat', which does not name it in turn",
        ),
        (
            "cautions",
            0,
            lambda e: e.update(sources=[]),
            "field 'sources' must be a list of at least 1",
        ),
    ],
)
def test_a_mistake_is_reported_with_file_entry_and_field(file, entry, change, words):
    entries = copy.deepcopy(RAW[file])
    change(entries[entry])
    with pytest.raises(UserError) as error:
        content.of_entries(RAW | {file: entries})
    assert f"{file}.yaml, entry" in str(error.value) and words in str(error.value)


@pytest.mark.parametrize(
    "text, words",
    [("- id: [", "not valid YAML"), ("id: x", "must hold a list"), (None, "cannot be read")],
)
def test_a_broken_file_is_reported_by_name(tmp_path, text, words):
    folder = shutil.copytree(content.DATA, tmp_path / "data")
    (folder / "drugs.yaml").unlink()
    if text:
        (folder / "drugs.yaml").write_text(text)
    with pytest.raises(UserError, match=f"drugs.yaml.*{words}"):
        content.load(folder)


@pytest.mark.parametrize(
    "now, words",
    [
        ("symptom: sneeze", "field 'symptom'.*'sneeze'"),
        ("symptom: cough\n  needs: {phenotype: x}", "field 'needs' names an unknown phenotype 'x'"),
        ("symptom: cough\n  signs: [hiccups]", "field 'signs' names an unknown sign 'hiccups'"),
    ],
)
def test_a_question_about_an_unknown_thing_is_reported(tmp_path, now, words):
    text = (RUN_FILES / "questions.yaml").read_text().replace("symptom: cough", now, 1)
    (tmp_path / "questions.yaml").write_text(text)
    with pytest.raises(UserError, match=f"questions.yaml, entry cough: {words}"):
        content.load_questions(tmp_path)


@pytest.mark.parametrize(
    ("line", "other", "wrong"),
    [
        (
            "tags: [pain]",
            "tags: [teeth]",
            "entry toothache: field 'tags' names an unknown tag 'teeth'",
        ),
        (
            "symptom: hip_pain",
            "symptom: back_pain",
            "entry sore_hip: .* 'back_pain', which has its tags in symptoms.yaml",
        ),
    ],
)
def test_a_symptom_has_its_tags_in_one_place_and_they_are_known(tmp_path, line, other, wrong):
    text = (RUN_FILES / "questions.yaml").read_text()
    assert line in text
    (tmp_path / "questions.yaml").write_text(text.replace(line, other, 1))
    with pytest.raises(UserError, match=wrong):
        content.load_questions(tmp_path)


def test_the_hash_of_the_content_is_stable():
    assert (
        content.content_sha256() == content.content_sha256() and len(content.content_sha256()) == 64
    )


@pytest.mark.parametrize("name", schema.MODELS)
def test_an_entry_is_dumped_as_its_file_has_it(name):
    """The hash of the content and the approvals of the review rest on these bytes."""
    folder = RUN_FILES if name in ("questions", "knowledge", "crisis") else content.DATA
    raw = schema.raw(folder, name)
    read = [entry.as_in_file() for entry in schema.read(folder, name, schema.MODELS[name]).values()]
    assert json.dumps(read, sort_keys=True) == json.dumps(raw, sort_keys=True)
