"""The README of the prompts folder."""

from mimic_qlora.clinical import content as clinical
from mimic_qlora.prompts import near_duplicates
from mimic_qlora.prompts.dataset import TASKS


def card(data_line: str, shared: dict, counts: dict) -> str:
    """The dataset card: what these records are, how many, how long, how balanced, what they must not be used for."""

    def table(name: str, of: str) -> str:
        rows = counts[name].items()
        if name != "ages":
            rows = sorted(rows, key=lambda pair: (-pair[1], pair[0]))
        return "\n".join(
            [f"| {of} | records |", "| --- | --- |", *(f"| {key} | {n:,} |" for key, n in rows)]
        )

    tables = {
        "splits": "split",
        "tasks": "task",
        "temporal_splits": "split by time",
        "sexes": "sex",
        "ages": "age",
        "kinds": "kind of chart question",
        "symptoms": "symptom",
        "cautions": "caution rule",
    }
    words = {
        part: " / ".join(f"{n:g}" for n in found.values())
        for part, found in counts["words"].items()
    }
    cut = ", ".join(f"{section} {n:,}" for section, n in counts["cut"].items())
    silent = counts["answers"].get("the record does not say", 0)
    latest = counts["latest_years"] or "no group, since there are not two,"
    content = (clinical.load().symptoms.values(), clinical.load().cautions.values())
    of, out = (
        [len(entries) for entries in content],
        [sum(e.held_out for e in entries) for entries in content],
    )
    tasks = "\n".join(
        f"- **{task}**: {text}" for task, text in TASKS.items() if task in counts["tasks"]
    )
    tasks = tasks.format(hours=f"{shared['landmark_hours']:g}", reviewed=clinical.reviewed())
    cohort = "\n".join(f"- {n:,} patients {reason}" for reason, n in counts["cohort"].items() if n)
    return f"""# Symptom prompts with chart questions and diagnoses

{data_line}.
Tokenizer: {shared["tokenizer"]}. Context budget: {shared["token_budget"]} tokens.

A record is one patient at one time (`as_of`), a question, and a gold answer; `evidence` cites the rows that the answer
rests on, `rubric` says what it is scored by.

{tasks}

No patient is in two splits. {out[0]} of {of[0]} symptoms and {out[1]} of {of[1]} caution rules are held out, so that
the validation can tell learning from copying: no record asks about them or says them. Beside the random split stands
one by time: `temporal_split` is `test` for the patients of {latest} (`anchor_year_group`) and `train` for all others.

The files load as they are in `datasets` and in trainers that read `messages`: TRL's SFTTrainer, axolotl with
`type: chat_template`, LLaMA-Factory with `formatting: openai`.

## How many, how balanced

{(chr(10) * 2).join(table(name, of) for name, of in tables.items() if counts[name])}

Of all answers, {silent:,} say that the record does not say.

## How long

Words, least / median / most: contexts {words["context"]}; answers {words["answer"]}.

## Who and what was left out

{cohort}
- {counts["near_duplicates"]:,} near-duplicates: they ask what an earlier record asks, and of the three-word shingles of
  the two contexts {near_duplicates.THRESHOLD:.0%} or more are in both (Jaccard similarity)
- {counts["without_gold"]:,} times at which the chart gave no gold answer (no listed condition was coded for the stay)
- contexts in which a section was cut to its quota or to the token budget: {cut or "none"}
- columns that step 3 found least important: {", ".join(shared["dropped_columns"]) or "none"}

## What these records must not be used for

Records that come from MIMIC-IV are credentialed data under its data use agreement: do not share them. They are for
research on this pipeline: not for advising a patient, not for judging a hospital, and not as proof of what somebody
takes at home, since MIMIC-IV holds inpatient orders.
"""
