"""The records as files: one JSONL a split without near-duplicates, counted, and the card that says what they are."""

from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from mimic_qlora.prompts import near_duplicates
from mimic_qlora.subjects import patients
from mimic_qlora.tasks import guidance

TALLIES = (
    "splits",
    "tasks",
    "temporal_splits",
    "symptoms",
    "kinds",
    "cautions",
    "sexes",
    "ages",
    "answers",
)
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

    drafts = {name: folder / f".{name}.jsonl" for name in patients.SHARES}
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
        part: {
            "least": min(n, default=0),
            "median": median(n) if n else 0,
            "most": max(n, default=0),
        }
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
    tallies["answers"].update(
        ["the record does not say"] if answer == "The record does not say" else ["an answer"]
    )
    lengths["context"].append(guidance.words(text))
    lengths["answer"].append(guidance.words(answer))
