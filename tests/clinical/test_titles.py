"""What ICD codes stand for, against the titles of the full dictionaries in the open demo."""

import csv
import gzip
import os
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml

from mimic_qlora.clinical import codes, content

PHENOTYPES = content.load().phenotypes
PROCEDURES = content.load().procedures
TITLES = Path(__file__).with_name("phenotype_titles.yaml")
EXPECTED = yaml.load(TITLES.read_text(), yaml.CSafeLoader)
ENCOUNTER = re.compile(r",? (?:(?:initial|subsequent) encounter|sequela$)")


def dictionary(name):
    """(code, ICD version, title in lower case without the kind of encounter) of each row.

    A third of the rows repeat another for a subsequent encounter; they are left out.
    """
    folder = os.environ.get("MIMIC_DEMO_DIR")
    path = Path(folder or ".") / "hosp" / f"{name}.csv.gz"
    if not folder or not path.is_file():
        pytest.skip(f"needs the open demo with {name}: set MIMIC_DEMO_DIR")
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        return [
            (code.strip(), int(version), ENCOUNTER.split(title.lower(), maxsplit=1)[0])
            for code, version, title in list(csv.reader(file))[1:]
            if "subsequent encounter" not in title
        ]


@pytest.fixture(scope="module")
def diagnoses():
    return dictionary("d_icd_diagnoses")


@pytest.fixture(scope="module")
def procedures():
    return dictionary("d_icd_procedures")


@pytest.fixture(scope="module")
def titles_of_groups(procedures):
    """Group -> the titles of its codes, without the headings of ICD-10-PCS."""
    titles = defaultdict(set)
    for code, version, title in procedures:
        if version == 9 or len(code) == 7:
            for group in codes.procedures_of_code(code, version):
                titles[group].add(title)
    return titles


@pytest.fixture(scope="module")
def found(diagnoses):
    """Phenotype -> its (code, version, title)."""
    by_name = defaultdict(list)
    for row in diagnoses:
        for name in codes.phenotypes_of_code(*row[:2]):
            by_name[name].append(row)
    return by_name


def literal(alternative):
    """The longest run of letters that every text must hold in which the alternative is found."""
    outside = re.sub(r"\([^()]*\)\??|\[[^\]]*\]\??|\\.|[a-z]\?", "|", alternative)
    return max(re.findall("[a-z ]+", outside), key=len, default="")


def alternatives(pattern):
    """The parts between the bars that stand in no bracket."""
    depth, parts = 0, [""]
    for letter in pattern:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


class Titles:
    """The distinct titles as one text, in which plain words are found fast."""

    def __init__(self, titles):
        self.text = "\n" + "\n".join(sorted(titles)) + "\n"

    def with_pattern(self, pattern):
        return {
            title
            for part in alternatives(pattern)
            for title in self._with_word(literal(part))
            if re.search(part, title)
        }

    def _with_word(self, word):
        assert len(word) >= 3, f"no word of three letters in a pattern: {word!r}"
        place = self.text.find(word)
        while place >= 0:
            begin, end = self.text.rfind("\n", 0, place) + 1, self.text.find("\n", place)
            yield self.text[begin:end]
            place = self.text.find(word, end)


def test_every_phenotype_is_described_and_has_its_kind():
    assert list(EXPECTED) == list(PHENOTYPES)
    for name, entry in PHENOTYPES.items():
        kind = {"kind": entry.kind}
        if entry.kind == "acute":
            kind["then"] = entry.becomes
        if entry.lasts_days is not None:
            kind["days"] = entry.lasts_days
        assert {k: v for k, v in EXPECTED[name].items() if k in ("kind", "then", "days")} == kind


def test_the_titles_of_a_phenotype_hold_its_words_and_none_that_must_not_be(found):
    for name, words in EXPECTED.items():
        titles = {title for *_, title in found[name]}
        if "only" in words:
            assert [t for t in titles if not re.search(words["only"], t)] == [], name
        if "never" in words:
            assert [t for t in titles if re.search(words["never"], t)] == [], name


def test_a_phenotype_has_every_title_with_its_words(diagnoses, found):
    codes_of = defaultdict(set)
    for code, version, title in diagnoses:
        codes_of[title].add((code, version))
    titles = Titles(codes_of)
    for name, words in EXPECTED.items():
        if "all" not in words:
            continue
        mine = {row[:2] for row in found[name]}
        missed = [
            (code, title)
            for title in titles.with_pattern(words["all"])
            if not ("but" in words and re.search(words["but"], title))
            for code in codes_of[title] - mine
        ]
        assert missed == [], name


def test_a_phenotype_has_as_many_codes_as_when_it_was_read_by_eye(found):
    """A dictionary of a newer release may hold more; a change of a prefix shows here."""
    counts = {name: Counter(version for _, version, _ in rows) for name, rows in found.items()}
    wrong = {
        name: [counts.get(name, {}).get(v, 0) for v in (9, 10)]
        for name, words in EXPECTED.items()
        if words["codes"] != [counts.get(name, {}).get(v, 0) for v in (9, 10)]
    }
    assert wrong == {}


def test_no_prefix_is_without_a_code_but_those_newer_than_the_dictionaries(diagnoses, procedures):
    newer = {"K7682", "U071", "J1282", "Z20822"}
    assert _unused(PHENOTYPES, diagnoses) == newer
    assert _unused(PROCEDURES, procedures) == set()


def _unused(entries, rows):
    """The prefixes with which no code of their version begins."""
    by_head = defaultdict(list)  # version and first two characters -> codes, as lines of a text
    for code, version, _ in rows:
        by_head[version, code[:2]].append(code)
    texts = {head: "\n" + "\n".join(found) for head, found in by_head.items()}
    return {
        prefix
        for entry in entries.values()
        for version in (9, 10)
        for prefix in (*getattr(entry, f"icd{version}"), *getattr(entry, f"exclude{version}"))
        if not any(
            re.search("\n" + prefix.replace("?", "."), text)
            for head, text in texts.items()
            if head[0] == version and (head[1] == prefix[:2] or len(prefix) == 1)
        )
    }


@pytest.mark.parametrize(
    "group, words",
    [
        ("coronary_angioplasty", "angioplasty|coronary artery stent|dilation of coronary"),
        ("heart_artery_opened", "coronary|angioplasty"),
        ("heart_bypass", "bypass"),
        ("heart_valve_replacement", "replacement of .*valve"),
        ("pacemaker_or_defibrillator", "lead|device|defibrillator|pacemaker|resynch"),
        ("central_line", "venous catheter|infusion device|vascular access"),
        ("splenectomy", "splenectomy|resection of spleen"),
        ("kidney_transplant", "kidney"),
        ("transplant", "transplant|transpant|marrow|stem cell|cord blood"),
        ("spinal_tap", "spinal|epidural"),
        (
            "scope_of_gut",
            "endoscop|scop|opening|rectum|sphincter|dilation|colonic|pancreatic|bile|pylor",
        ),
        ("lung_operation", "lung|pleura|bronch|thorac|thorax|intercostal|pneumonec|emphysem"),
        ("hip_or_knee_replacement", "hip|knee|femor|tibial|acetab"),
        ("feeding_tube", "gastro|jejun|feeding"),
        ("cancer_treatment", "antineoplastic|chemother|interleukin|clofarabine|monoclonal"),
        ("dialysis_treatment", "dialy|urinary filtration"),
    ],
)
def test_the_titles_of_a_group_of_procedures_hold_its_words(titles_of_groups, group, words):
    titles = titles_of_groups[group]
    assert titles and [title for title in titles if not re.search(words, title)] == []
