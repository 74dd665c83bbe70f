"""Cautions are easy to read: Flesch-Kincaid grade 8 in the median, 10 at most, in US words."""

import re
import statistics

import pytest

from helpers.paths import ROOT
from mimic_qlora.clinical import content

CONTENT = content.load()
# Names of drugs and diseases count as one short word each: nobody can put them more simply.
NAMES = sorted(
    {name for entry in CONTENT.drugs.values() for name in entry.ingredients}
    | set(
        """
        ace inhibitor|acetaminophen|adrenal|alcohol use disorder|antacid|antibiotic|antihistamine
        aortic aneurysm|aspirin|asthma|atrial fibrillation|beta blocker|blood thinner|brain aneurysm
        c. difficile|cancer|cirrhosis|copd|crohn's disease|decongestant|dextromethorphan|diabetes
        dialysis|diphenhydramine|epilepsy|esophagus|glaucoma|heart artery disease|heart disease
        heart failure|hemoglobin|high blood pressure|ibuprofen|insulin|ketones|kidney disease
        kidney failure|laxative|liver disease|loperamide|magnesium|mao|memory loss|metoclopramide
        myasthenia gravis|naloxone|naproxen|nitrate|opioid|opioid use disorder|pacemaker|pancreas
        parkinson's disease|phosphate|platelet|potassium|pregnancy|prochlorperazine|pseudoephedrine
        seizure medicine|serotonin|sickle cell disease|sildenafil|sleep apnea|sodium|statin|steroid
        stroke|thyroid|transplant|trimethoprim|ulcerative colitis
        """.replace("\n", "|").split("|")
    ),
    key=len,
    reverse=True,
)
A_NAME = re.compile("|".join(rf"\b{re.escape(n.strip())}s?\b" for n in NAMES if n.strip()), re.I)
BRITISH = re.compile(
    r"\b(?:wee|drips?|fizzy|plasters?|carers?|(?<!spinal )(?<!or )tap|tin lid|maternity unit|"
    r"painkillers?|food pipe|water tablets?|A&E|GP|999|111|paracetamol|physio|colour|grey)\b"
)


def syllables(word):
    """The number of syllables of a word, by its groups of vowels."""
    word = re.sub(r"[^a-z]", "", word.lower())
    silent = word.endswith("e") and not word.endswith(("le", "ee"))
    silent += bool(re.search(r"[^aeiouytd]ed$", word))
    return max(1, len(re.findall(r"[aeiouy]+", word)) - silent)


def grade(text):
    """The Flesch-Kincaid grade of a text (Kincaid et al., 1975)."""
    text = re.sub(r"(?<=\d)\.(?=\d)", "", A_NAME.sub("X", text))
    sentences = [s for s in re.split(r"[.!?]+(?:\s|$)", text) if s.strip()]
    words = re.findall(r"[A-Za-z0-9'’]+", text)
    return (
        0.39 * len(words) / len(sentences) + 11.8 * sum(map(syllables, words)) / len(words) - 15.59
    )


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("Call 911.", -4, 1),
        ("The cat sat on the mat.", -2, 1),
        ("Anticoagulated individuals experiencing uncontrollable hemorrhage necessitate "
         "immediate hospitalization.", 20, 45),
    ],
)  # fmt: skip
def test_the_measure_tells_plain_from_learned_words(text, low, high):
    assert low < grade(text) < high


def test_cautions_are_easy_to_read():
    grades = {rule.id: grade(rule.say) for rule in CONTENT.cautions.values()}
    assert statistics.median(grades.values()) <= 8
    assert {name: round(value, 1) for name, value in grades.items() if value > 10} == {}


def test_the_words_are_those_of_the_united_states():
    texts = [rule.say for rule in CONTENT.cautions.values()]
    for symptom in CONTENT.symptoms.values():
        lines = (*symptom.self_care, *symptom.urgent, *symptom.track)
        texts += [line.say for line in lines] + [p.text for p in symptom.phrasings]
    for question in content.load_questions(ROOT / "run_files"):
        texts += [question.question, question.ideal]
    texts += [entry.ideal for entry in content.load_knowledge(ROOT / "run_files")]
    assert [text for text in texts if BRITISH.search(text)] == []
