"""The records as files: one JSONL a split without near-duplicates, counted, and the card that says what they are."""

from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from mimic_qlora import clinical, guidance, near_duplicates, splits

TALLIES = ("splits", "tasks", "temporal_splits", "symptoms", "kinds", "cautions", "sexes", "ages", "answers")
TASKS = {  # what the card says of each
    "guidance": """a lay symptom question some days after a live discharge to home; the answer is put together from the
  clinical content files, of which {reviewed}.""",
    "chart_qa": """a question with one verifiable answer in the context, or with none: "The record does not say".""",
    "diagnoses": """the conditions that a stay was later coded with, asked {hours} hours after arrival. Codes are made
  for billing, and their order is no rank of truth; MIMIC-IV has no present-on-admission flag; codes of external causes
  and of histories are left out.""",
}


def parts(made: dict) -> tuple:
    """What a record asks (for near-duplicates), and its context."""
    text, _, question = made["messages"][1]["content"].rpartition("\n\nQuestion\n")
    return f"{made['task']} {made['symptom'] or question}", text


def write(folder: Path, records: Iterable[dict]) -> dict:
    """Write each record into its split's file, leave out near-duplicates of earlier ones, and count what stays.

    Returns counts by name; in memory are 150 bytes a record. Writes train.jsonl, validation.jsonl and test.jsonl.
    """
    import orjson

    drafts = {name: folder / f".{name}.jsonl" for name in splits.SHARES}
    signatures, places = [], []
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(path, "wb+")) for name, path in drafts.items()}
        for made in records:
            file = files[made["split"]]
            places.append((made["split"], file.tell()))
            signatures.append(near_duplicates.signature(*parts(made)))
            file.write(orjson.dumps(made) + b"\n")

        def prompt(number):
            name, offset = places[number]
            end = files[name].tell()
            files[name].seek(offset)
            line = files[name].readline()
            files[name].seek(end)
            return parts(orjson.loads(line))

        left_out = near_duplicates.later_ones(signatures, prompt)
    gone = {places[number] for number in left_out}
    tallies = {name: Counter() for name in TALLIES}
    lengths = {"context": [], "answer": []}
    for name, path in drafts.items():
        with open(path, "rb") as draft, open(folder / f"{name}.jsonl", "wb") as final:
            offset = 0
            for line in draft:
                if (name, offset) not in gone:
                    final.write(line)
                    _count(orjson.loads(line), tallies, lengths)
                offset += len(line)
        path.unlink()
    counts = {name: dict(sorted(tally.items())) for name, tally in tallies.items()}
    counts["near_duplicates"] = len(gone)
    counts["words"] = {
        part: {"least": min(n, default=0), "median": median(n) if n else 0, "most": max(n, default=0)}
        for part, n in lengths.items()
    }
    return counts


def _count(made: dict, tallies: dict, lengths: dict) -> None:
    _, text = parts(made)
    answer = made["messages"][2]["content"]
    lines = dict(line.removeprefix("- ").partition(": ")[::2] for line in text.splitlines()[1:])
    age = lines.get("Age", "unknown")
    decade = f"{int(age) // 10 * 10} to {int(age) // 10 * 10 + 9}" if age.isdigit() else age
    tallies["splits"][made["split"]] += 1
    tallies["tasks"][made["task"]] += 1
    tallies["temporal_splits"][made["temporal_split"]] += 1
    tallies["sexes"][lines.get("Sex", "unknown")] += 1
    tallies["ages"][decade] += 1
    tallies["symptoms"].update(filter(None, [made["symptom"]]))
    tallies["kinds"].update(filter(None, [made["kind"]]))
    tallies["cautions"].update(made["cautions"])
    tallies["answers"].update(["the record does not say"] if answer == "The record does not say" else ["an answer"])
    lengths["context"].append(guidance.words(text))
    lengths["answer"].append(guidance.words(answer))


def card(data_line: str, shared: dict, counts: dict) -> str:
    """The dataset card: what these records are, how many, how long, how balanced, what they must not be used for."""

    def table(name: str, of: str) -> str:
        rows = counts[name].items()
        if name != "ages":
            rows = sorted(rows, key=lambda pair: (-pair[1], pair[0]))
        return "\n".join([f"| {of} | records |", "| --- | --- |", *(f"| {key} | {n:,} |" for key, n in rows)])

    tables = {
        "splits": "split", "tasks": "task", "temporal_splits": "split by time", "sexes": "sex", "ages": "age",
        "kinds": "kind of chart question", "symptoms": "symptom", "cautions": "caution rule",
    }  # fmt: skip
    words = {part: " / ".join(f"{n:g}" for n in found.values()) for part, found in counts["words"].items()}
    cut = ", ".join(f"{section} {n:,}" for section, n in counts["cut"].items())
    silent = counts["answers"].get("the record does not say", 0)
    latest = counts["latest_years"] or "no group, since there are not two,"
    content = (clinical.load().symptoms.values(), clinical.load().cautions.values())
    of, out = [len(entries) for entries in content], [sum(e["held_out"] for e in entries) for entries in content]
    tasks = "\n".join(f"- **{task}**: {text}" for task, text in TASKS.items() if task in counts["tasks"])
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
