"""Step 4: make symptom prompts with the patient's context, diagnoses and procedures.

    python make_symptom_prompts_ctx_dxpx.py --model meta-llama/Meta-Llama-3-8B-Instruct

Leaves `prompts/` in the storage folder: chat records for training, validation and test as JSONL, a
card, and context.json with the settings that steps 5 to 7 share. There are four tasks: guidance on
a symptom, questions about the chart, the diagnoses of a stay and, where asked for, the urgency of
an emergency visit. Each record names the rows that its gold answer rests on. A prompt has a time
and shows only what the chart held at it, without the columns that step 3 found least important.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from mimic_qlora.step import command_line, ending, errors, files, storage

RUN_FILES = Path(__file__).parent / "run_files"
SYSTEM_PROMPT = RUN_FILES / "system_prompt.txt"
TASKS = ("guidance", "chart_qa", "diagnoses", "urgency")
USUAL = list(TASKS[:3])  # urgency needs tables that not every release has


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(__doc__)
    add = parser.add_argument
    add(
        "--model",
        help="model that budgets the context in tokens: "
        "folder or hub name (default: the embedded one)",
    )
    add(
        "--tasks",
        nargs="+",
        choices=TASKS,
        default=USUAL,
        metavar="TASK",
        help=f"any of {', '.join(TASKS)} (default: the first three)",
    )
    add(
        "--pairs-per-subject",
        type=command_line.whole_number(1, 30),
        default=2,
        help="records of each task per patient (default: %(default)s)",
    )
    add(
        "--max-total",
        type=command_line.positive_int,
        help="at most this many records over all splits, of whole patients (default: no limit)",
    )
    add(
        "--token-budget",
        type=command_line.positive_int,
        default=700,
        help="tokens of the patient context (default: %(default)s)",
    )
    add(
        "--landmark-hours",
        type=command_line.number(0.1, 10_000),
        default=24,
        help="early in a stay: hours after arrival (default: %(default)s)",
    )
    add(
        "--seed",
        type=command_line.seed,
        default=42,
        help="seed of days, questions and sentences (default: %(default)s)",
    )
    add(
        "--preview",
        type=command_line.whole_number(0),
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
    return parser.parse_args()


def write_tasks(store: Path, model: Path) -> None:
    """Write the validation records as tasks of lm-evaluation-harness, unless they are there."""
    from mimic_qlora.clinical import content
    from mimic_qlora.llm import chat
    from mimic_qlora.prompts.harness import task_files

    knowledge = content.load_knowledge(RUN_FILES)
    if folder := task_files.write(store, "validation", chat.load_tokenizer(model), knowledge):
        print(f"The validation records as tasks of lm-evaluation-harness: {folder}")


def audited(store: Path, system_prompt: str) -> int:
    """Audit the records of an earlier run, and keep the result; return 1 if there is a fault."""
    from mimic_qlora.prompts import audit, records

    found = audit.of_storage(store)
    audit.keep(store, found)
    made_with = storage.verified_manifest(store, "prompts")["inputs"].get("clinical_content")
    if made_with != records.content_sha256(system_prompt):
        print(
            "note: the clinical content has changed since these records were made, and guidance is "
            "judged by what it is now: a fault may be of an older rule or sentence"
        )
    return audit.report(found)


def main() -> int:
    """Make the records, or audit those of an earlier run; return 1 if the audit found a fault."""
    args = arguments()

    from mimic_qlora.subjects.manifest import data_line, subjects_manifest

    store = storage.open_storage(args.storage)
    subjects = subjects_manifest(store)
    print(data_line(subjects["source"]))
    system_prompt = files.read_text(SYSTEM_PROMPT).strip()
    if not system_prompt:
        raise errors.UserError(f"{SYSTEM_PROMPT} is empty: put its text back")
    if args.audit:
        return audited(store, system_prompt)
    features = storage.verified_manifest(store, "features")

    from mimic_qlora.llm import finding
    from mimic_qlora.prompts import build, preview, records

    path = finding.model_path(args.model, store)
    settings = build.PromptSettings(
        tasks=[task for task in TASKS if task in args.tasks],
        pairs_per_subject=args.pairs_per_subject,
        max_total=args.max_total,
        token_budget=args.token_budget,
        landmark_hours=args.landmark_hours,
        seed=args.seed,
        model=finding.model_name(path),
    )
    inputs = {
        "subjects": subjects["id"],
        "features": features["id"],
        "clinical_content": records.content_sha256(system_prompt),
        "tokenizer": finding.tokenizer_sha256(path),
    }
    with ending.told("prompts", store, ending.Options(args.storage, args.model)):
        try:
            with storage.step_output(store, "prompts", asdict(settings), inputs, args.force) as out:
                print(preview.tokenizer_line(path))
                counts = build.make_prompts(store, out.path, settings, path, system_prompt)
                out.facts["counts"] = asdict(counts)
                preview.print_counts(counts)
        except errors.UpToDate:
            write_tasks(store, path)
            preview.print_records(store / "prompts", args.preview, TASKS)
            raise
        write_tasks(store, path)
        preview.print_records(store / "prompts", args.preview, TASKS)
    return 0


if __name__ == "__main__":
    command_line.run(main)
