"""A claim rests on labels of both arms; without them, or with too few, figures are described."""

import pytest

from helpers.step7 import QUESTIONS
from mimic_qlora.clinical import content
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation.labelling import claims, drawn
from mimic_qlora.validation.labelling.claims import Basis, Labelled, Labels
from mimic_qlora.validation.labelling.drawn import Answer
from mimic_qlora.validation.labelling.label_file import ASKED, LISTED, Label

N = 130
BASIS = Basis(
    reader="patterns",
    primary="red_flags",
    claimed=("red_flags", "rubric", "harmful"),
    margins={"harmful": 0.05},
)
ANSWER = "Rest, and get help."


def answers(read=lambda arm, i: 1.0, harm=lambda arm, i: 0.0, arms=("base", "adapter")):
    """Answers of arms to N trials of a patient each, with what a reader found in them."""
    made = []
    for i in range(N):
        for arm in arms:
            question = QUESTIONS[i % 16]
            flags = read(arm, i)
            scores = {"red_flags": flags, "rubric": max(0.0, flags), "rubric_unclipped": flags}
            text = f"{ANSWER} {arm} {i}"
            about = (i, arm, question.id, text, True, (), "", i, scores | {"harmful": harm(arm, i)})
            made.append(Answer(*about))
    return made


def label(question, named=True, **asked):
    numbers = range(1, len(question.red_flags) + 1) if named else ()
    listed = dict.fromkeys(LISTED, frozenset()) | {"named": frozenset(numbers)}
    return Label(listed, dict.fromkeys(ASKED, False) | asked)


def labelled(made, people=lambda answer: {}, n=None, files=1, by="clinician"):
    """The first n answers that are drawn, labelled as `people` say."""
    by_id = {question.id: question for question in QUESTIONS}
    found = drawn.draw(made)
    strata = drawn.Strata({a.key: a.stratum for a in made}, [one.answer.key for one in found])
    given = {
        one.answer.key: label(by_id[one.answer.question_id], **people(one.answer))
        for one in found[:n]
    }
    return Labelled(made, [Labels(given, by)] * files, strata, QUESTIONS)


def said(made, basis=BASIS, **options):
    return " ".join(claims.of(labelled(made, **options), basis).sentences)


def better(answer):
    """What people find: the adapter names every sign, the base in half its answers."""
    return {"named": answer.arm == "adapter" or answer.trial % 2 == 0}


def read_as_labelled(arm, i):
    return float(arm == "adapter" or i % 2 == 0)


def test_a_difference_that_people_see_too_is_claimed():
    text = said(answers(read_as_labelled), people=better)
    assert "The adapter is better at red flags named by 0.5" in text and "Described" not in text
    assert "Labelled by a clinician: 120 of base, 120 of adapter answers" in text


def test_a_difference_that_the_reader_alone_sees_is_not_claimed():
    """The reader hears the base in half its answers; people see every sign named in both arms."""
    made = answers(read_as_labelled)
    (found, *_), sentences = claims.of(labelled(made), BASIS)
    d = found["red_flags"]
    assert abs(d.mean) < 0.1 and d.low < 0 < d.high and "better" not in " ".join(sentences)


def test_a_difference_that_the_reader_misses_is_found():
    found = claims.of(labelled(answers(), people=better), BASIS).comparison.differences
    assert found["red_flags"].mean == pytest.approx(0.5, abs=0.1) and found["red_flags"].p < 0.01


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"by": ""}, "nobody says who labelled"),
        ({"n": 80}, "40 answers of base are labelled, and 60 are needed"),
        ({"basis": BASIS.model_copy(update={"described": "the base judges itself"})}, "the base"),
    ],
)
def test_what_speaks_against_a_claim_is_said_and_nothing_is_claimed(options, why):
    text = said(answers(read_as_labelled), people=better, **options)
    assert f"Described, not claimed: {why}" in text
    assert "better" not in text and "not worse" not in text and "Primary endpoint" in text


def test_a_column_that_nobody_filled_forbids_a_claim():
    """Who never came to false statements has not said that there are none."""
    made = answers(read_as_labelled)
    whole = labelled(made, people=better)
    (file,) = whole.files
    asked = {"cause": False, "dose": False, "other_harm": False}
    part = file._replace(by_key={key: Label(one.listed, asked) for key, one in file.by_key.items()})
    text = " ".join(claims.of(Labelled(made, [part], whole.strata, QUESTIONS), BASIS).sentences)
    assert "Described, not claimed: nobody filled false_statement in a file" in text
    assert "better" not in text and "not worse" not in text


def test_rows_that_were_passed_over_forbid_a_claim():
    one = labelled(answers(read_as_labelled), people=better)
    one.files[0].by_key.pop(one.strata.drawn[3])
    text = " ".join(claims.of(one, BASIS).sentences)
    assert "1 rows of label.csv have no label" in text and "better" not in text


def test_the_first_rows_alone_are_enough_if_they_hold_60_of_each_arm():
    text = said(answers(read_as_labelled), people=better, n=120)
    assert "better at red flags" in text and "60 of base, 60 of adapter" in text


def test_the_rubric_is_corrected_below_0_too():
    """People find three false statements of advice: the rubric cut off at 0 would hide them."""
    made = answers(lambda arm, i: 0.5)

    def people(answer):
        bad = answer.arm == "adapter"
        return {"named": False, "cause": bad, "dose": bad, "other_harm": bad}

    found = claims.of(labelled(made, people=people), BASIS).comparison
    assert found.differences["rubric"].adapter < 0 == found.differences["rubric"].base
    assert "below 0 too" in found.metrics["rubric"][0]


def test_no_harm_in_120_labelled_answers_of_each_arm_is_not_worse():
    text = said(answers(), people=better)
    assert "by labels of 120 answers of the base and 120 of the adapter" in text
    assert "not worse than the base by more than the margin of 5%" in text
    text = said(answers(), people=lambda answer: {"dose": answer.arm == "adapter"})
    assert "could not be shown" in text and "not worse than the base by more" not in text


def test_harm_that_the_reader_does_not_see_counts():
    """The reader finds nothing; people find a dose in a tenth of the adapter's answers."""

    def people(answer):
        return {"dose": answer.arm == "adapter" and answer.trial % 10 == 0}

    assert "could not be shown" in said(answers(), people=people)


def test_the_adapter_that_does_the_most_harm_counts():
    made = answers(arms=("base", "adapter", "adapter@seed.1"))
    text = said(made, people=lambda answer: {"dose": answer.arm == "adapter@seed.1"})
    assert "could not be shown" in text
    assert "not worse than the base" in said(made)


def test_two_people_count_as_their_mean():
    made = answers()
    one = labelled(made, people=lambda answer: {"named": True})
    other = labelled(made, people=lambda answer: {"named": False}, n=50)
    both = Labelled(made, [*one.files, *other.files], one.strata, QUESTIONS)
    first, last = one.strata.drawn[0], one.strata.drawn[-1]
    assert (both.scores[first]["red_flags"], both.scores[last]["red_flags"]) == (0.5, 1)


def test_the_primary_endpoint_is_corrected_in_its_population():
    """Its trials alone count, however many others are labelled."""
    basis = BASIS.model_copy(update={"primary": "cautions_held_out"})
    basis = basis.model_copy(update={"claimed": ("cautions_held_out",)})
    unseen = next(q for q in QUESTIONS if content.symptom_of(q).held_out)
    rule = next(rule.id for rule in content.load().cautions.values() if rule.held_out)
    made = [
        a._replace(
            question_id=unseen.id if a.trial < 70 else a.question_id,
            cautions=(rule,) if a.trial < 70 else (),
            scores=a.scores | {"cautions_held_out": 0.0 if a.trial < 70 else None},
            rule_tested=f"rule {a.trial % 7}" if a.trial < 70 else None,
        )
        for a in answers()
    ]
    one = labelled(made)
    assert len(one.arms("cautions_held_out").trials) == 70
    assert len(one.arms("red_flags").trials) == N
    comparison, sentences = claims.of(one, basis)
    assert comparison.differences["cautions_held_out"].trials == 70
    assert "Primary endpoint, cautions never trained on: base 0.00" in " ".join(sentences)


def test_the_basis_comes_back_from_its_file(tmp_path):
    BASIS.write(tmp_path)
    assert Basis.read(tmp_path) == BASIS and Basis.read(tmp_path / "none") is None
    (tmp_path / claims.FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="keep it as step 7 left it"):
        Basis.read(tmp_path)
