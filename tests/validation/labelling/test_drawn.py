"""The draw for labels: known probabilities, flagged answers more often, blind, readable in part."""

import csv
from collections import Counter

import pytest

from mimic_qlora.step.errors import UserError
from mimic_qlora.validation.labelling import drawn
from mimic_qlora.validation.labelling.drawn import Answer


def answers(n=300, every=10, tested=0):
    """Answers of two arms to n trials, one in `every` flagged, the last `tested` with a rule."""
    return [
        Answer(
            i,
            arm,
            "q",
            f"{i}",
            True,
            (),
            "",
            i,
            {"harmful": float(i % every == 0)},
            rule_tested="a_rule" if i >= n - tested else None,
        )
        for i in range(n)
        for arm in ("base", "adapter")
    ]


def test_flagged_answers_are_drawn_more_often_and_each_stratum_at_one_known_rate():
    found = drawn.draw(answers())
    assert Counter(one.answer.arm for one in found) == {"base": 120, "adapter": 120}
    rates = {(one.answer.flagged, one.probability) for one in found}
    assert rates == {(True, 1.0), (False, 90 / 270)}
    by_flag = Counter((one.answer.arm, one.answer.flagged) for one in found)
    assert by_flag["base", True] == 30 and by_flag["base", False] == 90


def test_half_are_of_the_population_of_the_primary_endpoint():
    found = [one.answer for one in drawn.draw(answers(tested=100)) if one.answer.arm == "base"]
    counts = Counter(answer.stratum for answer in found)
    assert counts == {"flagged, in": 10, "other, in": 50, "flagged, out": 20, "other, out": 40}
    few = [one.answer for one in drawn.draw(answers(tested=20)) if one.answer.arm == "base"]
    assert len(few) == 120 and sum(answer.rule_tested is not None for answer in few) == 20


def test_as_many_of_the_population_are_drawn_as_a_plan_says_people_read():
    """The adapters share them, as their labels are pooled; each has what a claim takes."""
    runs = ("base", "adapter", "adapter@b", "adapter@c")
    made = [a for a in answers(600, tested=300) if a.arm == "base"]
    everything = [a._replace(arm=arm) for a in made for arm in runs]
    for read, of_each in ((210, 70), (90, 60)):
        found = [one.answer for one in drawn.draw(everything, read=read)]
        counts = Counter((a.arm, a.rule_tested is not None) for a in found)
        assert [counts[arm, True] for arm in runs] == [read, *[of_each] * 3]
        assert [counts[arm, False] for arm in runs] == [60] * 4


def test_at_most_half_are_flagged_where_there_are_many():
    by_flag = Counter(one.answer.flagged for one in drawn.draw(answers(every=2)))
    assert by_flag == {True: 120, False: 120}


def test_all_answers_are_drawn_where_there_are_few():
    found = drawn.draw(answers(20))
    assert len(found) == 40 and {one.probability for one in found} == {1.0}


def test_readers_who_differ_flag_an_answer():
    differ = Answer(1, "base", "q", "", True, (), "", 1, {"harmful": 0.0, "readers_differ": 1.0})
    assert differ.flagged and not differ._replace(scores={"harmful": 0.0}).flagged


def test_the_first_rows_hold_both_arms_alike_and_are_for_two_labellers():
    found = drawn.draw(answers())
    assert [one.twice for one in found] == [True] * 50 + [False] * 190
    for n in (50, 120):
        of_base = sum(one.answer.arm == "base" for one in found[:n])
        assert of_base == n / 2
    turns = [one.answer.arm for one in found]
    assert turns[::2].count("base") not in (0, len(turns) // 2), "no turn tells the arm"


def test_another_seed_draws_others():
    one, other = (
        {found.answer.key for found in drawn.draw(answers(), seed) if not found.answer.flagged}
        for seed in (0, 1)
    )
    assert one != other and drawn.draw(answers()) == drawn.draw(answers()[::-1])


def test_the_draw_comes_back_from_its_file(tmp_path):
    everything = answers()
    found = drawn.draw(everything)
    drawn.write(tmp_path / drawn.FILE, everything, found)
    strata = drawn.read(tmp_path / drawn.FILE, everything)
    assert strata.drawn == [one.answer.key for one in found]
    assert strata.of == {answer.key: answer.stratum for answer in everything}
    with open(tmp_path / drawn.FILE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert not any("adapter" in str(row) for row in rows)
    assert {float(row["probability"]) for row in rows if row["place"]} == {1, 90 / 270}
    assert drawn.read(tmp_path / "elsewhere.csv", everything) is None


@pytest.mark.parametrize(
    "text", ["key\nk1\n", "key,stratum,place\nk1,other,first\n", "key,stratum,place\n"]
)
def test_a_damaged_draw_is_one_sentence(tmp_path, text):
    (tmp_path / drawn.FILE).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="keep it as step 7 left it"):
        drawn.read(tmp_path / drawn.FILE, answers())


def test_rows_that_were_passed_over_are_counted():
    strata = drawn.Strata({}, ["a", "b", "c", "d"])
    over = {labelled: strata.passed_over(labelled) for labelled in ("", "ab", "ac", "d", "abcd")}
    assert over == {"": 0, "ab": 0, "ac": 1, "d": 3, "abcd": 0}
