"""Twins in a run: who is asked, what is measured, and that reciting gains nothing."""

import re

from helpers.step7 import SECTIONS, read_csv, results
from mimic_qlora.clinical import content
from mimic_qlora.llm import generation
from mimic_qlora.validation.twins import measure


def one(rule, said, subject_id=1):
    charts = (measure.AS_IT_IS, measure.WITHOUT, measure.UNRELATED)
    return measure.Set(rule, False, subject_id, dict(zip(charts, said, strict=True)))


def test_a_caution_said_to_everybody_has_no_difference():
    always = [one(f"r{i % 4}", (1, 1, 1), i) for i in range(8)]
    right = [one(f"r{i % 4}", (1, 0, 1), i) for i in range(8)]
    assert {s.difference for s in always} == {0} and {s.difference for s in right} == {1}
    d = measure._paired(always + right, over_rules=True)
    assert (d.adapter, d.base, d.mean) == (1, 0.5, 0.5) and d.questions == 4


def test_all_charts_of_a_set_weigh_alike(monkeypatch):
    """A rule counts once, however many sets it has: also on the chart with another fact changed."""
    found = [one("often", (0, 0, 0), i) for i in range(3)] + [one("once", (1, 0, 1), 3)]
    monkeypatch.setattr(measure, "sets", lambda results, arm: found)
    whole = measure.table([])[0]
    assert whole["said with it"] == whole["another fact"] == 0.5 and whole["without it"] == 0


def test_twins_are_asked_of_base_and_adapter_and_measured(run_validate, monkeypatch):
    """The adapter says it where the chart lists metformin, the base always."""
    say = content.load().cautions["metformin_sick_day"].say

    def answer(model, tokenizer, prompts, who, max_new_tokens, fits):
        given = []
        for ids, name in zip(prompts, who, strict=True):
            listed = "metformin" in tokenizer.decode(ids).casefold()
            text = f"- {say}\n{SECTIONS}" if listed or name == "base" else SECTIONS
            given.append(generation.Answer(text, 60, True))
        return given, fits

    monkeypatch.setattr(generation, "answer", answer)
    code, out, err = run_validate("4", "--no-knowledge", "--twins", "3", "--arms", "all")
    assert code == 0, err
    found = re.search(r"Twins: (\d) sets on (\d) caution rules", out)
    rows = read_csv(results(out) / "twins.csv")
    assert len(rows) == 3 * int(found[1]) > 0
    by_set = {}
    for row in rows:
        by_set.setdefault(row["set"], {})[row["chart"]] = row
    for charts in by_set.values():
        whole, without = charts[measure.AS_IT_IS], charts[measure.WITHOUT]
        assert whole["rule"] == without["rule"] and whole["subject_id"] == without["subject_id"]
        assert whole["question_id"] == without["question_id"]
        assert whole["prompt"] != without["prompt"] != charts[measure.UNRELATED]["prompt"]
        if whole["rule"] == "metformin_sick_day":
            assert (whole["said_base"], without["said_base"]) == ("1.0", "1.0")
            assert (whole["said_qlora"], without["said_qlora"]) == ("1.0", "0.0")
    assert any(row["rule"] == "metformin_sick_day" for row in rows)
    assert "share of answers that say the caution: base" in " ".join(out.split())
    page = (results(out) / "report.html").read_text(encoding="utf-8")
    assert "the same chart with one finding changed" in page and "metformin_sick_day" in page
    assert "base-rules_answer" not in rows[0], "twins are asked as they are"
