"""Print records and their counts on the terminal."""

from itertools import cycle, groupby, islice
from pathlib import Path

from mimic_qlora.llm import finding
from mimic_qlora.prompts import record_files
from mimic_qlora.prompts.dataset import NO_CAUTION, Counts
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.step import terminal


def tokenizer_line(model: Path) -> str:
    """Return the sentence that says which tokenizer counts the tokens, folded."""
    line = finding.describe(model).replace("Model", "Tokenizer", 1)
    return terminal.fitted(line, terminal.width())


def print_counts(counts: Counts) -> None:
    """Print who was asked and left out, and how many records there are of what."""
    sections: dict[str, dict[str, int]] = {
        "\nPatients": counts.cohort,
        "Records": counts.tasks,
        "By split": {name: counts.splits.get(name, 0) for name in record_files.SPLITS},
    }
    for title, rows in sections.items():
        print("\n".join([title, *(f"  {n:>8,}  {name}" for name, n in rows.items() if n)]))
    cut = ", ".join(f"{section} {n:,}" for section, n in counts.cut.items())
    found = [
        ("guidance", "symptoms", len(counts.symptoms)),
        (
            "guidance",
            "caution rules that a chart called for",
            len(counts.cautions.keys() - {NO_CAUTION}),
        ),
        ("guidance", "guidance answers without one", counts.cautions.get(NO_CAUTION, 0)),
        ("chart_qa", "kinds of chart questions", len(counts.kinds)),
    ]
    of_tasks = [f"{what}: {n}" for task, what, n in found if counts.tasks.get(task)]
    for line in (
        "; ".join(
            [
                *of_tasks,
                f"near-duplicates left out: {counts.near_duplicates}",
                f"times at which the chart gave no gold answer: {counts.without_gold}",
            ]
        ).capitalize(),
        f"Contexts in which a section was cut to its quota or the budget: {cut or 'none'}",
    ):
        print(terminal.fitted(line, terminal.width()))


def print_records(folder: Path, n: int, tasks: tuple[str, ...]) -> None:
    """Print a training record of each of the first n patients, the tasks in turn."""
    patients = groupby(
        record_files.read(folder / record_files.file_name("train")),
        lambda record: record.subject_id,
    )
    for (_, found), task in zip(islice(patients, n), cycle(tasks), strict=False):
        records = list(found)
        _print(next((one for one in records if one.task == task), records[0]))


def _print(record: PromptRecord) -> None:
    what = f"=== {record.task}, subject_id {record.subject_id} as of {record.as_of}"
    print(f"\n{what}; supervised part between >>> and <<<")
    for turn in record.messages:
        text = turn["content"]
        print(f"[{turn['role']}]")
        print(f">>>\n{text}\n<<<" if turn["role"] == "assistant" else text)
