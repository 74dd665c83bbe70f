"""Composed answers: the emergency first, sentences that fit the person, one level for a sign."""

from dataclasses import replace

import pytest

from helpers.charts import Chart
from mimic_qlora.clinical import content
from mimic_qlora.clinical.levels import LEVELS
from mimic_qlora.clinical.schema import Caution, Symptom
from mimic_qlora.tasks import composing, guidance
from mimic_qlora.tasks.composing import ANYBODY, Patient

TRY, URGENT, TRACK = content.SECTIONS.values()
RULE = next(rule for rule in content.load().cautions.values() if not rule.held_out)


def symptom(**fields) -> Symptom:
    """A symptom with plain sentences, six warning signs of today; `fields` replace its own."""
    flags = [
        {
            "say": f"Get seen today for the warning sign number {n}.",
            "pattern": f"number {n}",
            "level": "today",
            "signs": ["fever" if n == 1 else "chills"],
        }
        for n in range(1, 7)
    ]
    return Symptom.model_validate(
        {
            "id": "made_up",
            "name": "a made-up complaint",
            "tags": ["pain"],
            "held_out": False,
            "phrasings": [f"What about this, number {n}?" for n in range(5)],
            "try": [f"Do something easy that helps you, number {n}." for n in range(8)],
            "urgent": flags,
            "track": [f"Write down what you noticed today, number {n}." for n in range(8)],
            "sources": [{"title": "none", "url": "https://example.org"}],
            "reviewed_by": None,
            **fields,
        }
    )


def caution(**fields) -> Caution:
    return RULE.model_copy(
        update={"symptoms": ("pain",), "level": None, "signs": (), "tells": (), "asks": None}
        | fields
    )


def of(*rules: Caution, **found) -> Patient:
    facts = Chart(**found)
    return Patient(facts, facts, rules)


def answers(made: Symptom, patient: Patient, rules=(), opening=None, asked=()) -> list[str]:
    """The answers for many keys: what is drawn differs, what is due does not."""
    return [composing.compose(made, rules, f"{key}", patient, opening, asked) for key in range(25)]


@pytest.fixture(autouse=True)
def no_rule_says_another(monkeypatch):
    """The made-up rules have the words of a real one."""
    monkeypatch.setattr(guidance, "_covers", lambda one, other: False)


def test_an_answer_opens_with_the_level_of_the_sign_that_the_question_names():
    for level in ("911", "emergency", "today"):
        for answer in answers(symptom(), ANYBODY, opening=level):
            assert answer.splitlines()[:3] == [LEVELS[level].opening, "", TRY]
            assert 120 <= composing.words(answer) <= 180
    assert all(answer.startswith(f"{TRY}\n- ") for answer in answers(symptom(), ANYBODY))


@pytest.mark.parametrize("level", ["911", "emergency"])
def test_an_emergency_begins_with_the_way_there_and_has_nothing_for_those_who_may_wait(level):
    plain = symptom().model_dump(by_alias=True)
    later = {"say": "Tell a clinician if it lasts longer than a week.", "tells": ["call_later"]}
    walk = {"say": "Walk a little every day.", "tells": ["everyday"]}
    made = symptom(**{"try": [walk, *plain["try"]], "track": [later, *plain["track"]]})
    for answer in answers(made, ANYBODY, opening=level):
        assert answer.split(TRY)[1].startswith(f"\n- {LEVELS[level].first_step}\n")
        assert walk["say"] not in answer and later["say"] not in answer
    today = answers(made, ANYBODY, opening="today")
    assert any(walk["say"] in answer for answer in today)
    assert not any(later["say"] in answer for answer in today)
    assert any(later["say"] in answer for answer in answers(made, ANYBODY))


def test_the_sign_that_the_question_names_is_in_the_answer_however_late_it_stands():
    made = symptom()
    *flags, last = made.urgent
    flags.append(last.model_copy(update={"signs": ("tendon",)}))
    made = made.model_copy(update={"urgent": tuple(flags)})
    assert all("sign number 6" in answer for answer in answers(made, ANYBODY, asked=["tendon"]))
    assert not all("sign number 6" in answer for answer in answers(made, ANYBODY))
    rule = caution(level="911", signs=("tendon",), symptoms=("nosebleed",))
    first = caution(id="inr_high", severity=3)
    assert guidance.cautions_for(made, Chart(), [first, rule], ["tendon"]) == [rule, first]
    assert guidance.cautions_for(made, Chart(), [first, rule]) == [first]


def test_sentences_stand_in_the_order_of_the_file():
    made = symptom()
    lines = [line.say for line in (*made.self_care, *made.track)]
    for answer in answers(made, ANYBODY):
        told = [line.removeprefix("- ") for line in answer.splitlines()]
        places = [lines.index(line) for line in told if line in lines]
        assert places == sorted(places)


def test_the_most_urgent_signs_come_first_in_their_section():
    made = symptom()
    flags = list(made.urgent)
    flags[1] = flags[1].model_copy(update={"level": "911", "say": "Call 911 for that."})
    made = made.model_copy(update={"urgent": tuple(flags)})
    for answer in answers(made, ANYBODY):
        urgent = answer.split(URGENT)[1].split(TRACK)[0].split()
        assert " ".join(urgent).startswith("- Call 911 for that. - Get seen today")


def test_a_sentence_is_said_to_those_whom_it_fits_alone():
    inhaler = {"say": "Check your inhaler before you need it.", "when": {"phenotype": "asthma"}}
    made = symptom(**{"try": [inhaler, *symptom().model_dump(by_alias=True)["try"]]})
    with_asthma = of(phenotypes={"asthma"})
    assert any("inhaler" in answer for answer in answers(made, with_asthma))
    assert not any("inhaler" in answer for answer in answers(made, ANYBODY))
    unseen = replace(with_asthma, shown=Chart())  # the reader is not shown why it is said
    assert not any("inhaler" in answer for answer in answers(made, unseen))


@pytest.mark.parametrize("tells", [["do_not_raise_legs"], ["limit_fluids", "do_not_raise_legs"]])
def test_a_sentence_gives_way_to_a_rule_that_tells_the_opposite(tells):
    legs = {"say": "Raise your legs on a pillow tonight.", "tells": ["raise_legs"]}
    made = symptom(track=[legs, *symptom().model_dump()["track"]])
    assert any("Raise" in answer for answer in answers(made, ANYBODY))
    assert not any("Raise" in answer for answer in answers(made, of(caution(tells=tuple(tells)))))


def test_two_sentences_that_contradict_each_other_never_stand_in_one_answer():
    pair = [
        {"say": "Keep the sore leg warm all day.", "tells": ["heat"]},
        {"say": "Put nothing warm on the sore leg.", "tells": ["no_heat"]},
    ]
    made = symptom(**{"try": [*pair, *symptom().model_dump(by_alias=True)["try"]]})
    found = answers(made, ANYBODY)
    both = [answer for answer in found if pair[0]["say"] in answer and pair[1]["say"] in answer]
    assert both == [] and any(pair[0]["say"] in answer for answer in found)


def test_a_sign_has_the_highest_level_and_what_gives_it_comes_into_the_answer():
    """The rule bears on other symptoms, and still says what the general sentence must not."""
    made = symptom()
    rule = caution(level="911", signs=("fever",), symptoms=("nosebleed",))
    assert guidance.bearing(rule, made) == 4
    assert guidance.cautions_for(made, Chart(), [rule]) == [rule]
    for answer in answers(made, of(rule), [rule]):
        assert "sign number 1" not in answer and rule.say in answer
        assert "sign number 2" in answer and "sign number 3" in answer


def test_a_caution_bears_most_on_the_first_two_signs_and_on_one_that_the_question_names():
    signs = ("fever", "chills", "seizure")
    urgent = [
        flag.model_copy(update={"signs": (sign,)})
        for flag, sign in zip(symptom().urgent, signs, strict=False)
    ]
    made = symptom().model_copy(update={"urgent": tuple(urgent)})
    rules = [caution(level="911", signs=(sign,), symptoms=("nosebleed",)) for sign in signs]
    assert [guidance.bearing(rule, made) for rule in rules] == [4, 4, 0]
    assert [guidance.bearing(rule, made, {"seizure"}) for rule in rules] == [4, 4, 4]


def test_a_general_sign_that_a_caution_names_at_the_same_level_is_not_named_twice():
    made, rule = symptom(), caution(level="today", signs=("fever",), section="urgent")
    for answer in answers(made, of(rule), [rule]):
        assert "sign number 1" not in answer and "sign number 3" in answer
    assert all("sign number 1" in answer for answer in answers(made, of(rule), []))


def test_a_rule_with_a_lower_level_gives_way_to_the_higher_one_which_takes_its_place():
    made = symptom()
    low = caution(level="today", signs=("seizure",), say="low")
    high = caution(id="inr_high", level="911", signs=("seizure",), symptoms=("nosebleed",))
    assert guidance.bearing(high, made) == 0
    assert guidance.cautions_for(made, Chart(), [low, high]) == [high]
    more = low.model_copy(update={"signs": ("seizure", "vomit_blood")})
    assert guidance.cautions_for(made, Chart(), [more, high]) == [more], "nothing else warns of it"


def test_a_training_answer_has_no_held_out_sentence_and_else_is_as_it_would_be():
    """Other answers have it, so that a validation has lines that nobody learned by heart."""
    made = content.load().symptoms["dizziness"]
    held_out = [one.say for one in (*made.self_care, *made.track) if one.held_out]
    n_with = 0
    for key in map(str, range(40)):
        free = composing.compose(made, [], key, ANYBODY)
        learned = composing.compose(made, [], key, ANYBODY, learned=True)
        assert not any(sentence in learned for sentence in held_out)
        has_one = any(sentence in free for sentence in held_out)
        assert has_one or free == learned
        n_with += has_one
    assert 20 < n_with < 40


def test_a_symptom_of_which_too_little_fits_a_chart_is_left_for_the_next_one(monkeypatch):
    """Step 4 goes on: hours of work must not end with one odd chart."""
    needs = {"phenotype": "stoma"}
    lines = [{"say": f"Empty the bag, number {n}.", "when": needs} for n in range(8)]
    few = symptom(id="few", **{"try": lines})
    with pytest.raises(composing.TooFewSentences, match="few: nothing fits in section try"):
        composing.compose(few, [], "key", ANYBODY)
    loaded = content.load()
    made = loaded._replace(symptoms={"few": few, "made_up": symptom()}, cautions={})
    monkeypatch.setattr(content, "load", lambda: made)
    assert [gold.symptom for gold in guidance.golds(Chart(), Chart(), 5, "key")] == ["made_up"]
    told = guidance.golds(Chart(phenotypes={"stoma"}), Chart(phenotypes={"stoma"}), 5, "key")
    assert {gold.symptom for gold in told} == {"few", "made_up"}


@pytest.mark.parametrize(
    ("signs", "rules", "due"),
    [
        (["fever"], [], "today"),
        (["fever"], [caution(level="emergency", signs=("fever",))], "emergency"),
        (["chills"], [caution(level="emergency", signs=("fever",))], "today"),
        (["seizure"], [], None),
        (["seizure"], [caution(level="days", signs=("seizure",))], None),
        ([], [caution(level="911", signs=("fever",))], None),
    ],
)
def test_the_opening_is_due_for_the_signs_of_the_question_at_this_patients_level(signs, rules, due):
    assert guidance.opening(signs, symptom().urgent, rules) == due


def test_nobody_asks_a_question_that_does_not_fit_or_whose_level_a_held_out_rule_alone_gives():
    made = symptom(
        phrasings=[
            {"text": "Does my cast itch?", "when": {"phenotype": "hip_fracture"}},
            "My inhaler is empty, what now?",
            {"text": "I have a fever.", "signs": ["fever"]},
            "What now?",
            "And then?",
        ]
    )

    def asked(patient):
        return {one.text for one in guidance._phrasings(made, patient)}

    anybodys = {"What now?", "And then?"}
    assert asked(of()) == anybodys | {"I have a fever."}
    assert "Does my cast itch?" in asked(of(phenotypes={"hip_fracture"}))
    assert "My inhaler is empty, what now?" in asked(of(phenotypes={"asthma"}))
    raising = caution(level="911", signs=("fever",))
    assert asked(of(raising)) == anybodys | {"I have a fever."}
    assert asked(of(raising.model_copy(update={"held_out": True}))) == anybodys
    needy = made.model_copy(update={"needs": made.phrasings[0].when})
    assert guidance._phrasings(needy, of()) == []
