"""The preview on the terminal."""

import contextlib
import dataclasses
import io
import re

import make_symptom_prompts_ctx_dxpx as step_4
from helpers.prompt_records import answer_of, read_jsonl
from mimic_qlora.prompts import preview
from mimic_qlora.prompts.dataset import Counts
from mimic_qlora.step import streams


def test_the_preview_marks_the_supervised_part(demo_prompts):
    first = next(
        one
        for one in read_jsonl(demo_prompts.store / "prompts/train.jsonl")
        if one["task"] == "guidance"
    )
    assert (
        demo_prompts.printed.count(">>>\n") == 2
        and f">>>\n{answer_of(first)}\n<<<" in demo_prompts.printed
    )


class Terminal(io.BytesIO):
    def isatty(self):
        return True


def test_the_preview_is_folded_at_words_on_a_terminal(demo_prompts, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    with contextlib.redirect_stdout(streams.Inert(Terminal(), "utf-8")) as stream:
        preview.print_records(demo_prompts.store / "prompts", 3, step_4.USUAL)
        stream.flush()
        shown = stream.buffer.getvalue().decode()
    first = next(
        one
        for one in read_jsonl(demo_prompts.store / "prompts/train.jsonl")
        if one["task"] == "guidance"
    )
    assert (
        50 < max(map(len, shown.splitlines())) <= 60
        and shown.count(">>>\n") == shown.count("\n<<<") == 3
    )
    assert all(
        " ".join(turn["content"].split()) in " ".join(shown.split()) for turn in first["messages"]
    )
    told = re.findall(r"=== (\w+), subject_id (\d+)", shown)
    assert {task for task, _ in told} == set(step_4.USUAL) and len(
        {subject_id for _, subject_id in told}
    ) == 3


def test_what_a_task_has_is_counted_where_the_task_was_asked_for(capsys):
    none = {f.name: {} for f in dataclasses.fields(Counts)}
    counts = Counts(**none | {"near_duplicates": 3, "without_gold": 1, "latest_years": ""})
    for tasks, begins in (
        ({"urgency": 2}, "Near-duplicates left out: 3; times at"),
        ({"guidance": 2}, "Symptoms: 0; caution rules that a chart called for: 0; guidance"),
        ({"urgency": 2, "chart_qa": 1}, "Kinds of chart questions: 0; near-duplicates"),
    ):
        preview.print_counts(dataclasses.replace(counts, tasks=tasks))
        assert f"\n{begins}" in capsys.readouterr().out
