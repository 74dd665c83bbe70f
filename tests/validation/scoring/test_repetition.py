"""Loops of answers: how much repeats, and their short form."""

import pytest

from helpers.paths import ROOT
from mimic_qlora.clinical import content
from mimic_qlora.validation.scoring import repetition

LOOP = "- Take a pain pill that is designed to reduce pain.\n"


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("", 0),
        ("Rest.\nRest.\nRest.", 0),  # short lines may come again
        (LOOP * 10, 0.9),
        ("1. Call a clinician today.\n2. call a clinician TODAY", 0.5),
        ("You cannot tell me this, " * 20, 0.95),  # within a sentence
        ("Stay in bed for today.\nDrink a glass of water.\nStay in bed for today.\n", 1 / 3),
    ],
)
def test_the_share_of_lines_that_stand_in_the_answer_before(answer, share):
    assert repetition.repeated(answer) == pytest.approx(share)


def test_ideals_do_not_repeat_themselves():
    ideals = [q.ideal for q in content.load_questions(ROOT / "run_files")]
    assert max(map(repetition.repeated, ideals)) < 0.05


def test_a_loop_is_shown_once_with_its_count():
    told = repetition.folded("What you can try now\n" + LOOP * 43 + "- Rest")
    assert told == f"What you can try now\n{LOOP.strip()} [43 times]\n- Rest"
    assert (
        repetition.folded("I can tell you that, but " * 7) == "I can tell you that, but [7 times] "
    )
    twice = LOOP * 2
    assert repetition.folded(twice) == twice
    told = repetition.folded("stop and rest a while, " + "hop and rest a while, " * 3)
    assert told == "stop and rest a while, hop [3 times] and rest a while, ", "whole words"
