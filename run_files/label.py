"""Correct the comparison of step 7 by people's labels, and say what may be claimed.

    python run_files/label.py --labels anna.csv --labels ben.csv --labelled-by clinician

Step 7 leaves label.csv in its results: answers of base and adapter, 120 of each or as many as the
frozen plan says that people read, mixed, without their arm. Open a copy in a spreadsheet and fill
the columns on the right of the answer, from the top: those of lists (`named`, `plays_down`,
`cautions_said`, `reasons_given`, `forbidden`) with the numbers of the warning signs or cautions (-
for none), the others with yes or no. A claim takes 60 of each arm; one about the primary endpoint
takes 60 that count for it, so all rows. The first 50 rows are for a second person too. Save it as
CSV, in whatever form the spreadsheet has, then run this. It prints

- how much the reader of the run (patterns, or a judge) finds of what is there, and its false
  alarms, per arm;
- with two files, how far the two people agree (Cohen's kappa);
- the differences corrected by the labels, and what may be claimed: the verdict. All this is kept in
  the results: labelled.txt, labelled.csv (the figures), and the first part of summary.txt and of
  report.html, above what the reader of the run found. Run it again when there are more labels.

A row that cannot be read, or is filled in part, is named and left out (exit code 1).
"""

import argparse
import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the library of this checkout

from mimic_qlora.step import command_line, faults, files, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.step_commands import command_for

if TYPE_CHECKING:
    from mimic_qlora.clinical.schema import Question
    from mimic_qlora.validation.labelling.claims import Labelled, Labels
    from mimic_qlora.validation.labelling.drawn import Answer, Strata

HERE = Path(__file__).resolve().parent
KEPT = "labelled.txt"
ALIKE = 8  # answers, from which on two people are not expected to agree in every cell


def arguments() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    add = parser.add_argument
    add(
        "--results",
        metavar="FOLDER",
        help="results folder of step 7 (default: the newest in the storage folder)",
    )
    add(
        "--labels",
        metavar="FILE",
        action="append",
        help="a filled file; again for another person's (default: label.csv in that folder)",
    )
    add(
        "--labelled-by",
        choices=("clinician", "layperson", "model"),
        action="append",
        help="who labelled; once, or once for each --labels. Without it nothing is claimed",
    )
    command_line.add_arguments(parser, force=False)
    args = parser.parse_args()
    command_line.check_alone(parser, vars(args), "results", ["storage"])
    return args


def read(
    file: Path, by: str, answers: "list[Answer]", questions: "list[Question]"
) -> "tuple[Labels, list[str]]":
    """Return the labels of a file that fit these answers, and a sentence for each that does not."""
    from mimic_qlora.validation.labelling import claims, label_file

    if not file.is_file():
        raise UserError(f"{file} is no file: give the filled file with --labels")
    labelled, faults = label_file.read(file, answers=answers, questions=questions)
    if not labelled and not faults:
        raise UserError(f"{file} has no filled row yet: the help says what goes where")
    if lacking := label_file.lacking(labelled.values()):
        print(f"note: nobody filled {', '.join(lacking)} in {file.name}: nothing is claimed by it")
    unknown = labelled.keys() - {answer.key for answer in answers}
    if unknown:
        faults.append(
            f"{file} has {len(unknown)} rows of other results: give theirs with --results"
        )
    beyond = label_file.beyond(answers, labelled, questions)
    left_out = unknown | beyond.keys()
    kept = {key: label for key, label in labelled.items() if key not in left_out}
    return claims.Labels(kept, by), [*faults, *(f"{file}: {one}" for one in beyond.values())]


def check_filled(folder: Path, store: Path | None) -> None:
    """Raise UserError where nobody filled label.csv of these results, and another one is.

    That of a copy in /tmp may be, or of earlier results in the storage folder.
    """
    from mimic_qlora.validation import delivery, results
    from mimic_qlora.validation.labelling import label_file

    def is_filled(place: Path) -> bool:
        with contextlib.suppress(UserError, OSError):
            found = label_file.read(place / label_file.FILE)
            return bool(found.labels or found.faults)
        return False

    newest_first = [folder, *(reversed(results.in_order(store)) if store else ())]
    places = ((kept, place) for kept in newest_first for place in (kept, *delivery.copies(kept)))
    of, filled = next((pair for pair in places if is_filled(pair[1])), (folder, folder))
    if filled != folder:
        options = ["--results", str(of)]
        options += ["--labels", str(filled / label_file.FILE)] * (filled != of)
        raise UserError(
            f"{folder / label_file.FILE} has no filled row yet, and that of {filled} has: give "
            f"`{shlex.join(options)}` for it"
        )


def check_different(paths: list[Path]) -> None:
    """Raise UserError where one person's file is given twice: it would agree with itself."""
    read: dict[bytes, Path] = {}
    for path in filter(Path.is_file, paths):
        if (same := read.setdefault(path.read_bytes(), path)) is not path:
            raise UserError(f"{path} holds what {same} holds: each --labels is another person's")


def say_alike(paths: list[Path], given: "list[Labels]") -> None:
    """Say where two files label many answers alike: one may be the other, saved anew."""
    first, path = given[0].by_key, paths[0]
    for other, labels in zip(paths[1:], given[1:], strict=True):
        both = first.keys() & labels.by_key.keys()
        if len(both) >= ALIKE and all(first[key] == labels.by_key[key] for key in both):
            print(
                f"note: {path} and {other} label the {len(both)} answers that both have alike in "
                "every cell: see that they are two people's",
                file=sys.stderr,
            )


def agreement_of(
    answers: "list[Answer]",
    given: "list[Labels]",
    names: list[str],
    strata: "Strata | None",
    questions: "list[Question]",
) -> str:
    """Return the tables of agreement: the reader with people, and two people with each other."""
    from mimic_qlora.display import text_tables
    from mimic_qlora.review import agreement as chance
    from mimic_qlora.validation.labelling import agreement, claims

    merged = {key: label for one in reversed(given) for key, label in one.by_key.items()}
    weights = claims.weights(strata, merged, answers) if strata else None
    found = agreement.accuracy(
        agreement.judged(answers, merged, questions, weights), agreement.seen(answers, questions)
    )
    parts = [text_tables.text_table(agreement.shown(found), f"{len(merged)} labelled answers")]
    parts.append(
        "found: of what is there; false: alarms of what is not. The last two are the adapter's "
        "share of\nanswers minus the base's: as people say, and as the reader finds, corrected for "
        "its errors."
    )
    if len(given) > 1:
        parts.append(
            f"Of answers that several people labelled, these are the labels of {names[0]}."
        )
        by_id = {question.id: question for question in questions}
        about = [(answer, by_id[answer.question_id]) for answer in answers]
        rows = []
        for name, both in agreement.pairs(given[0].by_key, given[1].by_key, about).items():
            pairs, keys = [pair for pair, _ in both], [key for _, key in both]
            kappa = chance.kappa(pairs, (False, True), None, keys)
            value = "undefined" if kappa.value is None else f"{kappa.value:.2f}"
            interval = "" if kappa.low is None else f"[{kappa.low:.2f}, {kappa.high:.2f}]"
            row = {"criterion": name, "kappa": value, "95% interval": interval}
            rows.append(row | {"answers": str(kappa.clusters)})
        parts.append(text_tables.text_table(rows, f"How far {names[0]} and {names[1]} agree"))
    return "\n".join(parts)


def claims_of(folder: Path, labelled: "Labelled | None") -> str:
    """Make the results again by labels, and return what they show and what may be claimed."""
    from mimic_qlora.step import terminal
    from mimic_qlora.validation.labelling import claims, drawn, remade

    basis = claims.Basis.read(folder)
    if labelled is None or basis is None:
        return (
            f"No claim is made, and summary.txt and report.html stay as they are: {drawn.FILE} or "
            f"{claims.FILE}, which step 7 leaves beside label.csv, is not there (put it back; "
            "results of an earlier version have none)."
        )
    lines = remade.write(folder, labelled, basis)
    return "\n".join(terminal.fitted(line, terminal.width()) for line in lines)


def main() -> int:
    args = arguments()
    from mimic_qlora.clinical import content
    from mimic_qlora.display import text as terminal
    from mimic_qlora.validation import edited, results
    from mimic_qlora.validation.labelling import claims, drawn, label_file

    store = None if args.results else storage.open_storage(args.storage, checkout=HERE.parent)
    folder = results.newest(store) if store else files.given_path(args.results)
    if folder is None:
        raise UserError(
            f"{store} holds no results of step 7 yet: run `{command_for('validation')}` first, or "
            "give others with --results"
        )
    if not args.labels:
        check_filled(folder, store)
    faults.remember_folder(folder)
    basis = claims.Basis.read(folder)
    answers = drawn.of_lines(results.read(folder), basis is not None and basis.first_alone)
    questions = content.load_questions(HERE)
    drawn.check(folder, answers, questions)
    paths = [files.given_path(name) for name in args.labels or [str(folder / label_file.FILE)]]
    by = args.labelled_by or [""]
    by = by * len(paths) if len(by) == 1 else by
    if len(by) != len(paths):
        raise UserError("give --labelled-by once, or once for each --labels")
    check_different(paths)
    given, wrong_rows = [], []
    for path, who in zip(paths, by, strict=True):
        labels, wrong = read(path, who, answers, questions)
        given.append(labels)
        wrong_rows += wrong
    for fault in wrong_rows:
        print(f"left out: {terminal.printable(fault)}", file=sys.stderr)
    used = [(path, one) for path, one in zip(paths, given, strict=True) if one.by_key]
    if not used:
        raise UserError(f"{paths[0]} has no row that can be used")
    # who has no row that counts has labelled nothing, and the verdict shall not rest on them
    paths, given = [path for path, _ in used], [one for _, one in used]
    say_alike(paths, given)
    strata = drawn.read(folder / drawn.FILE, answers)
    labelled = claims.Labelled(answers, given, strata, questions) if strata else None
    names = [
        path.name if len({one.name for one in paths}) == len(paths) else str(path) for path in paths
    ]
    agreed = agreement_of(answers, given, names, strata, questions)
    # another run at this time would leave the figures of one person beside the words of another
    with edited.alone(folder, "python run_files/label.py"):
        text = f"{agreed}\n\n{claims_of(folder, labelled)}"
        edited.keep(folder / KEPT)
        edited.write(folder / KEPT, text + "\n")
    print(text)
    return 1 if wrong_rows else 0


if __name__ == "__main__":
    command_line.run(main)
