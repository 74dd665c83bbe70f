"""The items of raters: an answer that ran out of tokens ends with a whole word, and says so."""

import json

import pytest

from helpers.reviewing import make_results
from mimic_qlora.review import items


@pytest.mark.parametrize(
    ("answer", "ended", "shown"),
    [
        ("- Rest.\n- Call the cli", False, "- Rest.\n- Call the … [cut at 320 tokens]"),
        ("- Rest.\n- Call the clinic.", True, "- Rest.\n- Call the clinic."),
        ("  ", False, "(no answer)"),
    ],
)
def test_an_answer_that_was_cut_says_so(tmp_path, answer, ended, shown):
    path = make_results(tmp_path / "results", questions=1, each=1) / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    changed = {"answer": answer, "ended": ended, "n_tokens": 320}
    path.write_text("".join(json.dumps(line | changed) + "\n" for line in lines))
    (item,) = items.read(path.parent).items.values()
    assert item.answers == {"base": shown, "adapter": shown}
