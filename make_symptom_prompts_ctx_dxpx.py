"""Step 4: make symptom prompts with the patient's context, diagnoses and procedures.

    python make_symptom_prompts_ctx_dxpx.py --model meta-llama/Meta-Llama-3-8B-Instruct

Leaves `prompts/` in the storage folder: chat records of three tasks (guidance on a symptom,
questions about the chart, the diagnoses of a stay) for training, validation and test as JSONL,
what each gold answer rests on, a card, and context.json with the settings that steps 5 to 7
share. A prompt has a time and shows only what the chart held at it, without the columns that
step 3 found least important.
"""

import argparse
import json
import shutil
import sys
import textwrap
from itertools import cycle, groupby, islice
from operator import itemgetter
from pathlib import Path

from mimic_qlora.prompts.build import make_records
from mimic_qlora.step import command_line, files, storage

SYSTEM_PROMPT = Path(__file__).parent / "run_files" / "system_prompt.txt"
TASKS = ("guidance", "chart_qa", "diagnoses")


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--model",
        help="model that budgets the context in tokens: folder or hub name (default: the embedded one)",
    )
    add(
        "--tasks",
        nargs="+",
        choices=TASKS,
        default=list(TASKS),
        metavar="TASK",
        help=f"any of {', '.join(TASKS)} (default: all three)",
    )
    add(
        "--pairs-per-subject",
        type=int,
        default=2,
        help="records of each task per patient (default: %(default)s)",
    )
    add(
        "--max-total",
        type=int,
        help="at most this many records over all splits (default: no limit)",
    )
    add(
        "--token-budget",
        type=int,
        default=700,
        help="tokens of the patient context (default: %(default)s)",
    )
    add(
        "--landmark-hours",
        type=float,
        default=24,
        help="early in a stay: hours after arrival (default: %(default)s)",
    )
    add(
        "--seed",
        type=int,
        default=42,
        help="seed of days, questions and sentences (default: %(default)s)",
    )
    add(
        "--preview",
        type=int,
        default=0,
        metavar="N",
        help="print N training records, one a patient (default: none)",
    )
    add(
        "--audit",
        action="store_true",
        help="check the records of an earlier run against the chart, and make none",
    )
    command_line.add_arguments(parser)
    args = parser.parse_args()
    command_line.check_positive(args, "max_total", "token_budget", "landmark_hours")
    command_line.check_range(args, "pairs_per_subject", 1, 30)
    command_line.check_range(args, "landmark_hours", 0.1, 10_000)
    command_line.check_range(args, "preview", 0, 1_000_000)
    command_line.check_range(args, "seed", 0, 2**32 - 1)
    args.tasks = [task for task in TASKS if task in args.tasks]
    return args


def main():
    args = arguments()
    store = storage.open_storage(args.storage)
    subjects_manifest = storage.read_manifest(store, "subjects")
    print(storage.data_line(subjects_manifest))
    if args.audit:
        from mimic_qlora.prompts import audit

        return audit.report(audit.of_storage(store))
    features_manifest = storage.read_manifest(store, "features")

    from mimic_qlora.display import html, text_tables
    from mimic_qlora.features import columns_file
    from mimic_qlora.llm import chat, finding
    from mimic_qlora.prompts import card
    from mimic_qlora.prompts import records as prompts

    path = finding.model_path(args.model, store)
    system_prompt = SYSTEM_PROMPT.read_text(encoding="utf-8").strip()
    given = ("tasks", "pairs_per_subject", "max_total", "token_budget", "landmark_hours", "seed")
    settings = {name: getattr(args, name) for name in given} | {"model": finding.model_name(path)}
    inputs = {
        "subjects": subjects_manifest["id"],
        "features": features_manifest["id"],
        "clinical_content": prompts.content_sha256(system_prompt),
    }
    with storage.step_output(store, "prompts", settings, inputs, args.force) as out:
        print(
            textwrap.fill(
                finding.describe(path).replace("Model", "Tokenizer", 1), text_tables.WIDTH
            )
        )
        tokenizer = chat.load_tokenizer(path)
        shared = {
            "system_prompt": system_prompt,
            "system_prompts": prompts.system_prompts(system_prompt),
            "token_budget": args.token_budget,
            "landmark_hours": args.landmark_hours,
            "dropped_columns": columns_file.least_important(store),
            "seed": args.seed,
            "tokenizer": finding.model_name(path),
            "model": finding.model_name(path),
            "template_sha256": chat.template_sha256(tokenizer),
        }
        files.write_json(out.path / "context.json", shared)
        counts = make_records(store, out.path, shared, args, chat.token_counter(tokenizer))
        out.manifest["counts"] = counts
        readme = card.card(html.data_line(subjects_manifest), shared, counts)
        (out.path / "README.md").write_text(readme, encoding="utf-8")
        report(counts)
        preview(out.path, args.preview)
    print(f"Wrote {store / 'prompts'}")


def report(counts: dict) -> None:
    from mimic_qlora.display import text_tables
    from mimic_qlora.subjects import patients

    def lines(title, rows):
        print("\n".join([title, *(f"  {n:>8,}  {name}" for name, n in rows.items() if n)]))

    lines("\nPatients", counts["cohort"])
    lines("Records", counts["tasks"])
    lines("By split", {name: counts["splits"].get(name) for name in patients.SHARES})
    cut = ", ".join(f"{section} {n:,}" for section, n in counts["cut"].items())
    for line in (
        f"Symptoms: {len(counts['symptoms'])}; caution rules that a chart called for: {len(counts['cautions'])}; "
        f"kinds of chart questions: {len(counts['kinds'])}; near-duplicates left out: {counts['near_duplicates']}; "
        f"times at which the chart gave no gold answer: {counts['without_gold']}",
        f"Contexts in which a section was cut to its quota or the budget: {cut or 'none'}",
    ):
        print(textwrap.fill(line, text_tables.WIDTH, break_on_hyphens=False))


def preview(folder: Path, n: int) -> None:
    """Print a training record of each of the first n patients, the tasks in turn.

    A terminal would fold long lines within words, so here they are folded.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1_000_000

    def folded(line):
        indent = "  " if line.startswith("- ") else ""
        return textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False)

    with open(folder / "train.jsonl", encoding="utf-8") as file:
        patients = groupby(map(json.loads, file), itemgetter("subject_id"))
        for (_, records), task in zip(islice(patients, n), cycle(TASKS)):  # noqa: B905 (the tasks never end)
            records = list(records)
            made = next((record for record in records if record["task"] == task), records[0])
            what = f"=== {made['task']}, subject_id {made['subject_id']} as of {made['as_of']}"
            print("\n" + folded(f"{what}; supervised part between >>> and <<<"))
            for turn in made["messages"]:
                mark = (">>>\n", "\n<<<") if turn["role"] == "assistant" else ("", "")
                text = "\n".join(map(folded, turn["content"].splitlines()))
                print(f"[{turn['role']}]\n{mark[0]}{text}{mark[1]}")


if __name__ == "__main__":
    command_line.run(main)
