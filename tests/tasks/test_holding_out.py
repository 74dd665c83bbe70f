"""What is held out of the training is drawn by hash, in two strata, and can count."""

from helpers.paths import ROOT
from mimic_qlora.clinical import content
from mimic_qlora.tasks import guidance, holding_out

CONTENT = content.load()
RULES = CONTENT.cautions
QUESTIONS = content.load_questions(ROOT / "run_files")
ASKED = [q.symptom for q in QUESTIONS if q.symptom in CONTENT.symptoms]
HELD_OUT = {name for name, rule in RULES.items() if rule.held_out}


def drawn():
    symptoms = holding_out.symptoms(ASKED)
    never = holding_out.never_trained(QUESTIONS, symptoms)
    return symptoms, never, holding_out.cautions(RULES, never)


def test_the_flags_of_the_files_are_what_the_hash_draws():
    symptoms, _, cautions = drawn()
    held_out = {name for name, symptom in CONTENT.symptoms.items() if symptom.held_out}
    assert held_out == symptoms, f"hold out {symptoms - held_out}, train on {held_out - symptoms}"
    assert HELD_OUT == cautions, (
        f"hold out {sorted(cautions - HELD_OUT)}, train on {sorted(HELD_OUT - cautions)}"
    )


def test_the_held_out_sentences_are_two_of_each_trained_symptom_and_stand_nowhere_else():
    flagged = []
    for symptom in CONTENT.symptoms.values():
        for part in (symptom.self_care, symptom.track):
            own = [line.say for line in part if line.held_out]
            assert len(own) == (0 if symptom.held_out else 1), symptom.id
            flagged += own
    assert set(flagged) == holding_out.sentences(CONTENT.symptoms) and len(flagged) == 76
    said = [line.say for s in CONTENT.symptoms.values() for line in (*s.self_care, *s.track)]
    assert all(said.count(sentence) == 1 for sentence in flagged)


def test_every_held_out_caution_bears_on_a_question_about_what_is_never_trained_on():
    symptoms, never, _ = drawn()
    assert len(symptoms) == 12 and len(never) == 20
    assert [
        name for name in HELD_OUT if not any(guidance.bearing(RULES[name], s) > 1 for s in never)
    ] == []


def test_both_strata_are_there_and_hold_what_they_say():
    trained = [rule for rule in RULES.values() if not rule.held_out]
    known = {act for rule in trained for act in holding_out.acts(rule)}
    strata = {kind: [] for kind in holding_out.STRATA}
    for name in sorted(HELD_OUT):
        strata[holding_out.stratum(name)].append(name)
        new = holding_out.acts(RULES[name]) - known
        assert bool(new) == (holding_out.stratum(name) == "new action"), name
    assert min(map(len, strata.values())) >= 5
    assert 0.18 <= len(HELD_OUT) / len(RULES) <= 0.25
