"""Answers of step 7 to label, and files as spreadsheets save them."""

import csv
import io
from pathlib import Path

from helpers.step7 import QUESTIONS
from mimic_qlora.clinical import content
from mimic_qlora.validation.labelling.drawn import Answer
from mimic_qlora.validation.labelling.label_file import ASKED, LISTED

RULES = [content.load().cautions["anticoagulant_no_nsaid"]]

NOTHING = dict.fromkeys(LISTED, "-") | dict.fromkeys(ASKED, "no")  # a row that finds nothing

__all__ = ["NOTHING", "QUESTIONS", "RULES", "answers", "saved_by_a_spreadsheet"]


def answers() -> list[Answer]:
    """Return answers of both arms to four trials; the base names a cause in all but the first."""
    question, found = QUESTIONS[0], []
    for trial in range(4):
        for arm in ("base", "adapter"):
            good = arm == "adapter" or trial == 0
            bad = f"Rest, number {trial}. It is caused by an infection."
            text = question.ideal if good else bad
            about = (trial, arm, question.id, f"{text} {trial}", True, (RULES[0].id,), "")
            found.append(Answer(*about))
    return found


def saved_by_a_spreadsheet(
    path: Path, rows: list, encoding="utf-8", delimiter=",", before="", line_end="\r\n"
) -> None:
    """The rows as Excel saves them: \\r\\n, its delimiter, its code page; imitated."""
    text = io.StringIO(newline="")
    text.write(before)
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    text.write(delimiter * (len(rows[0]) - 1) + "\r\n")  # a row that was emptied
    saved = text.getvalue().replace("\r\n", line_end)
    path.write_bytes(saved.encode(encoding, errors="replace"))
