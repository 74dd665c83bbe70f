"""The ideal for a chart: it holds what the rubric of step 7 asks of an answer."""

import pytest

from helpers.paths import ROOT
from mimic_qlora.clinical import conflicts, content
from mimic_qlora.clinical.levels import LEVELS
from mimic_qlora.tasks import composing, guidance
from mimic_qlora.validation.scoring import rubric

QUESTIONS = content.load_questions(ROOT / "run_files")


def rules_of(question):
    """The rules that bear on a question's symptom, the gravest first."""
    symptom = content.symptom_of(question)
    rules = [c for c in content.load().cautions.values() if guidance.bearing(c, symptom) > 1]
    return sorted(rules, key=lambda rule: -guidance.severity(rule, symptom))


def raised(line):
    """The line with each higher level in the place of its own."""
    level = composing.levels.asked_by(line)
    lead = LEVELS[level].lead if level else ""
    if not line.startswith(f"- {lead}") or not lead:
        return []
    higher = [how.lead for name, how in LEVELS.items() if composing.levels.is_above(name, level)]
    return [line.replace(lead, one, 1) for one in higher]


def read(text):
    """The lines of an ideal, as advice, without headings, opening and first step."""
    starts = {start for how in LEVELS.values() for start in (how.opening, how.first_step)}
    lines = [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")]
    return [conflicts.as_advice(line) for line in lines if line not in starts]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
def test_an_ideal_gives_each_sign_one_level_and_tells_no_opposites(question):
    for called in ([], *([rule] for rule in content.load().cautions.values())):
        ideal = guidance.ideal_for(question, called, composing.ANYBODY.chart)
        own = [one for one in read(ideal) if one.say not in {c.say for c in called}]
        assert list(conflicts.of([*own, *called])) == [], called
        assert not any(one.level and conflicts.outranked(one, called) for one in own), called


def test_a_sign_that_a_caution_raises_is_found_in_the_lines_of_ideals():
    """Else a line of an ideal would keep the lower level, unseen."""
    known = content.load()
    for question in QUESTIONS:
        for flag in question.red_flags:
            for name in flag.signs:
                highest = conflicts.level_of(name, known.cautions.values())
                if not composing.levels.is_above(highest, flag.level):
                    continue
                assert known.signs[name].pattern, (question.id, name)
                assert any(name in one.signs for one in read(question.ideal)), (question.id, name)


def test_a_line_of_an_ideal_takes_the_level_that_a_rule_gives_its_sign():
    rule = content.load().cautions["transplant_fever"]
    ideal = (
        "What you can try now\n- Rest.\n\n"
        "When to seek urgent care\n- Get seen today for fever.\n- Get seen today for pus.\n\n"
        "What to track or share with a clinician\n- Get seen soon: today, for a fever."
    )
    made = composing.for_chart(ideal, [], [rule])
    assert "- Go to an emergency room for fever." in made and "- Get seen today for pus." in made
    assert "today, for a fever" not in made, "it does not begin with its level: it goes"
    assert composing.for_chart(ideal, [], []).count("today") == 3


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("Keep taking blood thinners until a clinician decides.", "inr_high"),
        ("Leave out coffee, energy drinks and tobacco for now.", "lithium_thirst"),
        ("Leave out coffee, alcohol and soda until it settles.", "alcohol_no_sudden_stop"),
    ],
)
def test_a_line_of_an_ideal_gives_way_to_a_rule_that_tells_the_opposite(line, rule):
    ideal = "\n\n".join(f"{heading}\n- Rest." for heading in content.SECTIONS.values())
    ideal = ideal.replace("- Rest.", f"- Rest.\n- {line}", 1)
    called = content.load().cautions[rule]
    assert line in composing.for_chart(ideal, [], [])
    assert line not in composing.for_chart(ideal, [], [called])


@pytest.mark.parametrize(
    "line", ["Do not rub the sore area.", "Never drink less, avoid a massage."]
)
def test_advice_against_something_is_not_read_as_that_advice(line):
    assert "rub" not in conflicts.as_advice(line).tells


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
def test_an_ideal_holds_the_cautions_and_warning_signs_that_it_is_scored_by(question):
    for rule in rules_of(question)[:2] or [None]:
        called = [rule] if rule else []
        ideal = guidance.ideal_for(question, called, composing.ANYBODY.chart)
        score = rubric.rubric(question, called, ideal, ended=True)
        assert score.cautions in (None, 1) and not score.harmful, (rule, ideal)
        assert score.red_flags == 1 and score.sections == 1, (rule, ideal)
        curated = set(question.ideal.splitlines())
        curated |= {line for one in curated for line in raised(one)}
        added = [line for line in ideal.splitlines() if line and line not in curated]
        starts = {level.opening for level in composing.LEVELS.values()}
        steps = {f"- {level.first_step}" for level in composing.LEVELS.values()}
        assert [line for line in added if line not in starts | steps] == [
            f"- {one.say}" for one in called
        ]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
def test_an_ideal_begins_as_a_gold_answer_does_and_says_so_once(question):
    for rule in [None, *rules_of(question)[:2]]:
        called = [rule] if rule else []
        first, *lines = guidance.ideal_for(question, called, composing.ANYBODY.chart).splitlines()
        symptom = content.symptom_of(question)
        flags = [*question.red_flags, *getattr(symptom, "urgent", ())]
        due = guidance.opening(question.signs, flags, called)
        level = composing.LEVELS.get(due)
        assert not any(line.startswith(composing.levels.OPENING) for line in lines)
        if level is None:
            assert first in content.SECTIONS.values()
            continue
        assert first == level.opening
        assert not level.first_step or lines[2] == f"- {level.first_step}"
        assert not level.first_step or lines.count(f"- {level.first_step}") == 1


def test_what_a_caution_forbids_gives_way_and_what_is_most_urgent_comes_first():
    rule = content.load().cautions["anticoagulant_no_nsaid"]
    ideal = (
        "What you can try now\n- Rest.\n- Take ibuprofen with food.\n\n"
        "When to seek urgent care\n- Be seen today for a fever.\n- Call 911 for chest pain.\n\n"
        "What to track or share with a clinician\n- The time."
    )
    made = composing.for_chart(ideal, [rule], [rule], "today")
    assert "Take ibuprofen with food" not in made and f"- {rule.say}" in made
    assert made.startswith("This needs care now: be seen today.\n\nWhat you can try now\n")
    assert made.index("Call 911") < made.index("Be seen today for")


def test_an_ideal_for_an_emergency_begins_with_the_way_there_and_lets_nobody_wait():
    ideal = (
        "What you can try now\n- Rest.\n\nWhen to seek urgent care\n- Call 911 for chest pain.\n\n"
        "What to track or share with a clinician\n- Call a clinician if it lasts beyond two days.\n"
        "- The time."
    )
    made = composing.for_chart(ideal, [], [], "911")
    step = composing.LEVELS["911"].first_step
    assert made.startswith(
        f"This needs care now: call 911.\n\nWhat you can try now\n- {step}\n- Rest.\n"
    )
    assert "two days" not in made and "- The time." in made
    assert composing.for_chart(made, [], [], "911") == made
    assert "two days" in composing.for_chart(ideal, [], [])


def test_of_many_lines_the_last_to_try_and_to_track_give_way():
    long = "\n".join(f"- Do this and that, number {n} of them all." for n in range(30))
    ideal = f"What you can try now\n{long}\n\nWhen to seek urgent care\n- Call 911.\n\n"
    ideal += f"What to track or share with a clinician\n{long}"
    made = composing.for_chart(ideal, [], [])
    assert composing.words(made) <= composing.WORDS[1] and made.count("number 0") == 2
