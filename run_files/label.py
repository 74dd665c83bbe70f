"""How far the scorer of step 7 agrees with people who read the answers without knowing who wrote them.

    python run_files/label.py                    (the newest results in the storage folder)

Step 7 leaves label.csv in its results: up to 50 answers of base and adapter each, mixed, without
their arm. Open a copy in a spreadsheet and fill the columns on the right of the answer: `named` and
`cautions_said` with the numbers of the warning signs and cautions that the answer gives (- for
none), the others with yes or no. Save it as CSV, then run this: it prints how much the scorer finds
of what is there, and its false alarms, per arm, and the differences corrected for both.
"""

import argparse
import json
from pathlib import Path

from mimic_qlora.step import command_line, storage
from mimic_qlora.step.errors import UserError

HERE = Path(__file__).resolve().parent


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--results",
        metavar="FOLDER",
        help="results folder of step 7 (default: the newest in the storage folder)",
    )
    add("--labels", metavar="FILE", help="the filled file (default: label.csv in that folder)")
    command_line.add_arguments(parser, force=False)
    return parser.parse_args()


def main():
    args = arguments()
    from mimic_qlora.clinical import content
    from mimic_qlora.display import text_tables
    from mimic_qlora.validation import delivery, labels, results

    if args.results:
        folder = Path(args.results).expanduser()
    else:
        store = storage.open_storage(args.storage)
        folder = delivery.newest(store)
    if folder is None or not (folder / "results.jsonl").is_file():
        raise UserError(
            f"no results.jsonl in {folder or store / 'validation'}: run step 7 first, or give --results"
        )
    file = Path(args.labels).expanduser() if args.labels else folder / "label.csv"
    if not file.is_file():
        raise UserError(f"{file} is not there: give the filled file with --labels")
    lines = [
        json.loads(line)
        for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    answers, labelled = results.of_pair(lines), labels.read(file)
    known = {labels.key_of(a["trial"], a["arm"], a["answer"]) for a in answers}
    if not labelled:
        raise UserError(f"{file} has no filled row yet: the help says what goes where")
    if unknown := labelled.keys() - known:
        raise UserError(
            f"{file} has {len(unknown)} rows of other results than {folder}: give theirs with --results"
        )
    arms = tuple(results.ARMS.values())
    judged = labels.judged(answers, labelled, content.load_questions(HERE))
    print(
        text_tables.text_table(
            labels.shown(labels.accuracy(judged, arms), arms), f"{len(labelled)} labelled answers"
        )
    )
    print(
        "found: of what is there; false: alarms of what is not. The last three are adapter minus base, in"
    )
    print("shares, as the scorer says, as people say, and as corrected for the scorer's errors.")


if __name__ == "__main__":
    command_line.run(main)
