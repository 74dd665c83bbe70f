"""The study file: each mistake is one sentence with file, line and field."""

import re

import pytest

from helpers.paths import ROOT
from mimic_qlora.step.errors import UserError
from mimic_qlora.study import study_file

EXAMPLES = sorted((ROOT / "run_files" / "studies").glob("*.yaml"))
DATA = "data:\n  from: synthetic\n"
# what is wrong -> text, line, field and a word of the sentence
WRONG = {
    "no YAML": (DATA + "prompts: [\n", 4, "", "not valid YAML"),
    "a tab": (DATA + "prompts:\n\ttasks: [guidance]\n", 4, "", "a tab: indent by blanks"),
    "too far in": (DATA + "prompts:\n  seed: 1\n   max_total: 3\n", 5, "", "a line too far in"),
    "not indented": ("data:\nfrom: synthetic\n", 1, "data", "indent its settings"),
    "a number as a name": (DATA + "1: 2\n", 3, "1", "names are words"),
    "a tag": ("data: !!python/object:os.system x\n", 1, "", "not valid YAML"),
    "two documents": (DATA + "---\na: 1\n", 3, "", "not valid YAML"),
    "a list": ("- data\n", None, "", "is not a study"),
    "nothing": ("", None, "", "is not a study"),
    "no data": ("model: embedded\n", None, "data", "is missing"),
    "no source": ("data:\n  sample: 0.1\n", 1, "data.from", "is missing"),
    "an unknown section": (DATA + "trainin:\n  lr: 1\n", 3, "trainin", "did you mean training?"),
    "a section misspelt": ("dta: {from: a}\n", 1, "dta", "did you mean data?"),
    "none that is known": ("foo: {n: 3}\n", 1, "foo", "the settings here are storage, model, data"),
    "a field misspelt": ("data:\n  form: a\n", 2, "data.form", "did you mean from?"),
    "an unknown field": (DATA + "training:\n  zzz: 1\n", 4, "training.zzz", "recipe, run"),
    "twice": (DATA + "model: a\nmodel: b\n", 4, "model", "twice (line 3 too)"),
    "empty": (DATA + "training:\n  lr:\n", 4, "training.lr", "has no value"),
    "an empty section": (DATA + "training:\n", 3, "training", "has nothing under it"),
    "a value for a section": (DATA + "training: 3\n", 3, "training", "a group of settings"),
    "a number": (DATA + "  sample: 1.5\n", 3, "data.sample", "a share above 0"),
    "a word": (DATA + "training:\n  lr: fast\n", 4, "training.lr", "a number from"),
    "yes as a name": (DATA + "training:\n  run: on\n", 4, "training.run", "is True to YAML"),
    "yes as a number": (DATA + "training:\n  lr: yes\n", 4, "training.lr", "is True to YAML"),
    "a count without end": (
        DATA + "training:\n  limit: 99999999999999999999\n",
        4,
        "training.limit",
        "1 to 1,000,000,000,000",
    ),
    "a list as a name": (DATA + "? [1, 2]\n: 3\n", 3, "a list or a record", "names are words"),
    "a record as a name": (DATA + "? {a: 1}\n: 3\n", 3, "a list or a record", "names are words"),
    "a group": (DATA + "training:\n  lr: {a: 1}\n", 4, "training.lr", "must be one value"),
    "no text": (DATA + "asking:\n  question: no\n", 4, "asking.question", "between quotes"),
    "a NUL": (DATA + 'asking:\n  question: "a\\0b"\n', 4, "asking.question", "holds a NUL"),
    "no yes": (DATA + "  verify: maybe\n", 3, "data.verify", "must be true or false"),
    "a choice": (DATA + "prompts:\n  tasks: [x]\n", 4, "prompts.tasks", "one of guidance"),
    "no list": (DATA + "training:\n  seeds: 3\n", 4, "training.seeds", "must be a list"),
    "an empty list": (DATA + "training:\n  seeds: []\n", 4, "training.seeds", "not nothing"),
    "no patient": (DATA + "asking:\n  subject_id: Jim\n", 4, "asking.subject_id", "or random"),
    "no time": (DATA + "asking:\n  as_of: soon\n", 4, "asking.as_of", "is not a date"),
    "no host": (DATA + "validation:\n  jump: a b\n", 4, "validation.jump", "must be a host"),
    "a seed twice": (DATA + "training:\n  seeds: [1, 1]\n", 4, "training.seeds", "twice"),
    "both": (DATA + "training:\n  seed: 1\n  seeds: [2]\n", 3, "training", "both seed and seeds"),
    "octal": (DATA + "prompts:\n  seed: 010\n", 4, "prompts.seed", "is 8 to YAML, not 010"),
    "minutes": (DATA + "training:\n  seeds: [1:30]\n", 4, "training.seeds[1]", "is 90 to YAML"),
    "too many": (DATA + "validation:\n  n: 99999999999\n", 4, "validation.n", "1 to 1,000,000"),
    "a loop": ("data: &a\n  from: *a\n", 2, "", "*a stands within what it stands for"),
}


def read(folder, text):
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return study_file.read(path)


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_told_with_its_line_and_field(name, tmp_path):
    text, line, field, word = WRONG[name]
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    said = str(error.value)
    place = f", line {line}" if line else ""
    named = f", {field}: " if field else ""
    assert said.startswith(f"{tmp_path / 'study.yaml'}{place}{named}") and word in said
    assert (
        "\n" not in said
        and not re.search(r"line \d", said.replace(place, "", 1))
        or (name == "twice")
    )


def test_the_first_mistake_of_the_file_is_told(tmp_path):
    with pytest.raises(UserError, match="line 3, data.sample"):
        read(tmp_path, DATA + "  sample: 7\nzzz: 1\nprompts:\n  seed: x\n")


def test_a_file_that_is_no_text_is_one_sentence(tmp_path):
    (tmp_path / "study.yaml").write_bytes(b"data:\n  from: Z\xfcrich")
    with pytest.raises(UserError, match=r"study\.yaml, line 2: this is not UTF-8 text"):
        study_file.read(tmp_path / "study.yaml")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_each_example_is_found_by_its_name_and_holds(path):
    assert study_file.find(path.name, path.parent) == path
    assert study_file.find(path.stem, path.parent) == path
    assert study_file.read(path).study.data.source


def test_a_study_that_is_not_there_names_the_examples(tmp_path):
    with pytest.raises(UserError, match="not there.*demo.yaml"):
        study_file.find("nowhere", ROOT / "run_files" / "studies")
    with pytest.raises(UserError, match="a folder"):
        study_file.find(str(tmp_path), ROOT / "run_files" / "studies")


def test_paths_begin_in_the_folder_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", "/data")
    file = read(tmp_path, DATA)
    assert file.near("plan.yaml") == tmp_path / "plan.yaml"
    assert str(file.near("$WHERE/3.1")) == "/data/3.1"
