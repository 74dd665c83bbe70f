"""Chart questions: many kinds, silent where the record is, scored by whole words."""

from collections import Counter

import pytest

from helpers.prompt_records import answer_of, of_task
from mimic_qlora.tasks import chart_qa


def test_chart_questions_are_of_many_kinds_and_some_have_no_answer_on_record(demo_prompts):
    found = of_task(demo_prompts, "chart_qa")
    kinds = Counter(one["kind"] for one in found)
    assert len(kinds) >= 25 and kinds.most_common(1)[0][1] < len(found) / 8
    silent = [one for one in found if answer_of(one) == chart_qa.NOT_SAID]
    assert 0.1 < len(silent) / len(found) < 0.4 and len({one["kind"] for one in silent}) >= 4
    assert len({one["messages"][1]["content"].rpartition("\n")[2] for one in found}) > 90


def test_a_list_that_was_cut_makes_the_record_silent_and_a_whole_one_says_no(demo_prompts):
    for one in of_task(demo_prompts, "chart_qa"):
        line = next(
            x
            for x in one["messages"][1]["content"].splitlines()
            if x.startswith("- Known conditions")
        )
        if one["kind"] == "no such condition":
            assert answer_of(one) == "no" and " more" not in line.rpartition("; ")[2]
        if one["kind"] == "condition beyond the list":
            assert answer_of(one) == chart_qa.NOT_SAID and line.endswith(" more")


def test_the_scorer_of_chart_questions_accepts_the_gold_and_nothing_else(demo_prompts):
    for one in of_task(demo_prompts, "chart_qa"):
        gold = answer_of(one)
        assert (
            chart_qa.score(gold, gold)
            == chart_qa.score(gold, f"  {gold.upper()}.\nBecause the context says so.")
            == 1
        )
        wrong = "yes" if gold == "no" else "no" if gold == "yes" else "42.42 apples"
        assert chart_qa.score(gold, wrong) == chart_qa.score(gold, "") == 0
        if gold != chart_qa.NOT_SAID:
            assert chart_qa.score(gold, f"The record does not say, but perhaps {gold}") == 0


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        ("4 mEq/L", "It was 4 mEq/L.", 1),
        ("4 mEq/L", "It was 14 mEq/L.", 0),
        ("4", "1.4", 0),
        ("4", "4.1", 0),
        ("yes", "Yes, it was.", 1),
        ("yes", "No, yes would be wrong.", 0),
        ("low", "slow", 0),
        ("low", "It is low.", 1),
        (chart_qa.NOT_SAID, "The context does not mention it.", 1),
        (chart_qa.NOT_SAID, "Blood group A.", 0),
    ],
)
def test_the_scorer_reads_whole_words(gold, answer, right):
    assert chart_qa.score(gold, answer) == right
