"""Measure how far the scorer of step 7 agrees with people who read the answers blind.

    python run_files/label.py                    (the newest results in the storage folder)

Step 7 leaves label.csv in its results: up to 50 answers of base and adapter each, mixed, without
their arm. Open a copy in a spreadsheet and fill the columns on the right of the answer: `named` and
`cautions_said` with the numbers of the warning signs and cautions that the answer gives (- for
none), the others with yes or no. Save it as CSV, in whatever form the spreadsheet has, then run
this: it prints how much the scorer finds of what is there, and its false alarms, per arm, and the
differences corrected for both. A row that cannot be read is named and left out (exit code 1).
"""

import argparse
import sys
from pathlib import Path

from mimic_qlora.step import command_line, files, storage
from mimic_qlora.step.errors import UserError

HERE = Path(__file__).resolve().parent


def arguments() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    add = parser.add_argument
    add(
        "--results",
        metavar="FOLDER",
        help="results folder of step 7 (default: the newest in the storage folder)",
    )
    add("--labels", metavar="FILE", help="the filled file (default: label.csv in that folder)")
    command_line.add_arguments(parser, force=False)
    return parser.parse_args()


def main() -> int:
    args = arguments()
    from mimic_qlora.clinical import content
    from mimic_qlora.display import text as terminal
    from mimic_qlora.display import text_tables
    from mimic_qlora.validation import labels, results

    if args.results:
        folder = files.given_path(args.results)
    else:
        store = storage.open_storage(args.storage)
        folder = results.newest(store) or store / "validation"
    answers = labels.of_lines(results.read(folder))
    file = files.given_path(args.labels) if args.labels else folder / labels.FILE
    if not file.is_file():
        raise UserError(f"{file} is not there: give the filled file with --labels")
    labelled, faults = labels.read(file)
    if not labelled and not faults:
        raise UserError(f"{file} has no filled row yet: the help says what goes where")
    unknown = labelled.keys() - {answer.key for answer in answers}
    if unknown:
        faults.append(
            f"{file} has {len(unknown)} rows of other results than {folder}: "
            "give theirs with --results"
        )
    questions = content.load_questions(HERE)
    beyond = labels.beyond(answers, labelled, questions)
    faults += beyond.values()
    left_out = unknown | beyond.keys()
    labelled = {key: label for key, label in labelled.items() if key not in left_out}
    for fault in faults:
        print(f"left out: {terminal.printable(fault)}", file=sys.stderr)
    if not labelled:
        raise UserError(f"{file} has no row that can be used")
    judged = labels.judged(answers, labelled, questions)
    rows = labels.shown(labels.accuracy(judged))
    print(text_tables.text_table(rows, f"{len(labelled)} labelled answers"))
    print(
        "found: of what is there; false: alarms of what is not. The last three are adapter minus "
        "base, in\nshares, as the scorer says, as people say, and as corrected for the scorer's "
        "errors."
    )
    return 1 if faults else 0


if __name__ == "__main__":
    command_line.run(main)
