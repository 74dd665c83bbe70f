"""The arms of step 7 get the prompts that their names promise."""

import json

from helpers.step7 import read_csv, results
from mimic_qlora.validation import arms


def test_every_arm_is_shown_what_its_name_says(run_validate):
    code, out, err = run_validate("12", "--arms", "all", "--run", "default,seed.1")
    assert code == 0, err
    lines = map(
        json.loads, (results(out) / "results.jsonl").read_text(encoding="utf-8").splitlines()
    )
    by_trial = {}
    for line in lines:
        by_trial.setdefault((line["kind"], line["trial"]), {})[line["arm"]] = line["messages"]
    cautioned = 0
    for (kind, _), shown in by_trial.items():
        if kind == "knowledge":
            assert set(shown) == {"base", "adapter", "adapter@seed.1"}
            continue
        assert set(shown) == {*arms.ARMS, "adapter@seed.1"}
        plain, question = shown["base"], shown["base"][-1]["content"].rpartition("\n")[2]
        chart = plain[-1]["content"].partition("\n\nQuestion\n")[0]
        assert shown["adapter"] == shown["adapter@seed.1"] == plain
        assert [turn["content"][:4] for turn in shown["base-examples"]] == [
            "Help",
            "Pati",
            "Gold",
            "Pati",
            "Gold",
            "Pati",
        ]
        assert shown["base-examples"][-1] == plain[-1]
        other = shown["adapter-other-chart"][-1]["content"]
        assert (
            other.endswith(f"\n\nQuestion\n{question}")
            and chart not in other
            and other.startswith("Patient context\n")
        )
        if shown["base-rules"] != plain:
            cautioned += 1
            rules = shown["base-rules"][-1]["content"].removeprefix(
                chart + "\n\nCautions for this person\n- "
            )
            assert rules.endswith(f"\n\nQuestion\n{question}") and chart not in rules
            if "blood thinner" in rules:
                assert "Warfarin" in chart and "Warfarin" not in other, (
                    "a chart that calls for other cautions"
                )
    assert cautioned
    rows = read_csv(results(out) / "output.csv")
    assert {"rubric_base-examples", "rubric_qlora-other-chart", "qlora@seed.1_answer"} <= set(
        rows[0]
    )
    assert (
        "means over 2 trained adapters" in out
        and "The first adapter minus base-rules: the rubric +" in out
    )


def test_an_unknown_arm_or_a_run_twice_is_refused(run_validate):
    assert "--arms 'nobody' is unknown" in run_validate("3", "--arms", "base,nobody")[2]
    assert "names an adapter twice" in run_validate("3", "--run", "default,default")[2]
