"""The audit of guidance answers finds what a chart does not bear out, and contradictions."""

import pytest

from helpers.charts import Chart
from helpers.prompt_records import prompt_record
from mimic_qlora.clinical import content as clinical
from mimic_qlora.clinical.levels import LEVELS
from mimic_qlora.clinical.schema import Advice, Phrasing
from mimic_qlora.prompts import audit_guidance
from mimic_qlora.prompts.record_files import PromptRecord

TRY, URGENT, TRACK = clinical.SECTIONS.values()
NAME = "palpitations"
RULE = "inr_high"
# a sentence of each kind, in a symptom and a caution of the content
LINES = {
    "legs": {"say": "Raise your legs.", "tells": ["raise_legs"]},
    "no legs": {"say": "Keep your legs down.", "tells": ["do_not_raise_legs"]},
    "inhaler": {"say": "Check your inhaler before you need it."},
    "open": {"say": "If you have an inhaler, check your inhaler."},
    "way": {"say": LEVELS["911"].first_step},
}


@pytest.fixture
def changed(monkeypatch):
    """The content with the sentences above in a symptom, a question that names a sign, a rule."""
    loaded = clinical.load()
    symptom = loaded.symptoms[NAME]
    flag = symptom.urgent[0].model_copy(
        update={"say": "Get seen today for a fever.", "level": "today", "signs": ("fever",)}
    )
    symptom = symptom.model_copy(
        update={
            "self_care": tuple(
                Advice.model_validate(one if len(one) > 1 else one["say"]) for one in LINES.values()
            ),
            "urgent": (flag,),
            "phrasings": (
                Phrasing.model_validate("What now?"),
                Phrasing(text="I have a fever.", signs=("fever",)),
                Phrasing.model_validate("My inhaler is empty."),
            ),
        }
    )
    rule = loaded.cautions[RULE].model_copy(
        update={"level": "911", "signs": ("fever",), "tells": ("do_not_raise_legs",)}
    )
    made = loaded._replace(symptoms=loaded.symptoms | {NAME: symptom}, cautions={RULE: rule})
    monkeypatch.setattr(clinical, "load", lambda: made)
    return made


def faults(lines=(), start="", question="What now?", cautions=(), facts=None) -> set[str]:
    said = [TRY, *(f"- {LINES[name]['say']}" for name in lines), "", URGENT, "- x", "", TRACK]
    answer = "\n".join([start, "", *said] if start else said)
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": f"c\n\nQuestion\n{question}"},
        {"role": "assistant", "content": answer},
    ]
    record = prompt_record(turns, task="guidance", symptom=NAME, cautions=list(cautions))
    return {*audit_guidance.faults(PromptRecord.of(record), facts or Chart())}


HIGH = Chart(labs={51237: (6.0, "", 1)})  # calls for the rule


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"lines": ["legs", "open"]}, set()),
        ({"lines": ["inhaler"]}, {"presumed"}),
        ({"lines": ["inhaler"], "facts": Chart(phenotypes={"asthma"})}, set()),
        ({"question": "My inhaler is empty."}, {"presumed"}),
        ({"lines": ["legs", "no legs"]}, {"opposed"}),
        ({"lines": ["legs"], "facts": HIGH}, {"opposed"}),
        ({"lines": ["no legs"], "facts": HIGH}, set()),
        ({"question": "I have a fever."}, {"opening"}),
        ({"question": "I have a fever.", "start": "This needs care now: be seen today."}, set()),
        ({"start": "This needs care now: be seen today."}, {"opening"}),
        (
            {"question": "I have a fever.", "start": "This needs care now: be seen today."}
            | {"facts": HIGH},
            {"opening"},
        ),
        (
            {"question": "I have a fever.", "start": "This needs care now: call 911."}
            | {"lines": ["way"], "facts": HIGH},
            set(),
        ),
        (
            {"question": "I have a fever.", "start": "This needs care now: call 911."}
            | {"lines": ["open", "way"], "facts": HIGH},
            {"opening"},
        ),
    ],
)
def test_each_fault_is_found_and_nothing_else(changed, given, found):
    assert faults(**given) == found


def test_a_sentence_with_a_lower_level_than_a_rule_of_the_chart_gives_its_sign(
    changed, monkeypatch
):
    (flag,) = changed.symptoms[NAME].urgent
    monkeypatch.setitem(LINES, "flag", {"say": flag.say})
    assert faults(["flag"]) == set() and faults(["flag"], facts=HIGH) == {"opposed"}
