"""The patient that is asked about: found by subject_id, at a time, with the context that the model
gets.
"""

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.chart import columns, context, facts, prediction_times, prompt
from mimic_qlora.display import text as terminal
from mimic_qlora.mimic import cells
from mimic_qlora.qa import session
from mimic_qlora.qa.session import Session, Turn
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader


class Patient(NamedTuple):
    """One patient of a split at one time of their shifted calendar, with the context then."""

    subject_id: int
    split: str
    as_of: datetime
    context: context.Context

    def turns(self, of: Session, question: str) -> list[Turn]:
        """Return the conversation that asks one question about this patient."""
        return prompt.messages(of.settings.system_prompt, self.context.text, question)


def parse_time(text: object) -> datetime:
    """Return a date (its first minute) or a date and time, in the shifted calendar. Raises
    UserError.
    """
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo or not cells.FIRST <= moment <= cells.LAST:
        raise UserError(f"'{text}' is not a date: give one like 2150-03-01 or 2150-03-01T18:00")
    return moment


def find(of: Session, name: object, as_of: datetime | None) -> Patient:
    """Return a patient at a time, or at the usual one.

    Raises UserError for an unknown patient, and for a time outside the chart: before the first
    stay, after death, or over a year after the last discharge (until then MIMIC-IV records deaths).
    """
    if not re.fullmatch("[0-9]{1,18}", str(name)):
        raise UserError(f"'{name}' is not a subject_id: give a number such as 10014729, or random")
    subject_id = int(str(name))
    record = reader.record(of.store, subject_id, columns.WANTED)
    stays = facts.stays(record)
    if as_of and stays:
        ends = [p["dod"] + timedelta(days=1) for p in record["patients"] if "dod" in p]
        ends += [s["dischtime"] + timedelta(days=365) for s in stays[-1:] if "dischtime" in s]
        first, last = stays[0]["admittime"], min(ends, default=datetime.max)
        if not first <= as_of <= last:
            raise UserError(
                f"the chart of subject_id {name} tells of {first} to {last}, not of {as_of}: "
                "give a time between"
            )
    as_of = as_of or prediction_times.latest(record, of.settings.seed).as_of
    split = reader.split_of(of.store)[subject_id]
    return Patient(subject_id, split, as_of, session.build(of, record, as_of))


def with_part(store: Path, part: str) -> list[str]:
    """Return the subject_ids equal to this number, else those that begin with it, else those that
    contain it.
    """
    ids = [str(subject_id) for subject_id in reader.split_of(store)]
    return (
        [i for i in ids if i == part]
        or [i for i in ids if i.startswith(part)]
        or [i for i in ids if part in i]
    )


def describe(patient: Patient) -> str:
    """Return the context as the model gets it, with what was left out to fit the token budget."""
    cuts = ", ".join(f"{n} of {section}" for section, n in patient.context.cuts.items())
    left_out = f"\n(left out to fit: {cuts})\n" if cuts else ""
    who = f"subject_id {patient.subject_id} ({patient.split} patient)"
    return (
        f"\n{who} as of {patient.as_of}: this is what the model gets\n\n"
        f"{terminal.printable(patient.context.text)}\n{left_out}"
    )
