"""The charts of urgency visits at their arrival, built again as step 4 built them."""

from collections.abc import Iterator, Mapping, Sequence

from mimic_qlora.chart import columns
from mimic_qlora.prompts import record_files
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.qa import session
from mimic_qlora.qa.session import Session
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.step_commands import command_for
from mimic_qlora.subjects import reader
from mimic_qlora.tasks.urgency import task
from mimic_qlora.tasks.urgency.visits import Visit
from mimic_qlora.validation.urgency.asked import Shown


def records(opened: Session, split: str) -> dict[int, PromptRecord]:
    """Return the prompt of each urgency visit of a split, by subject_id."""
    every = record_files.read(record_files.path_of(opened.store, split))
    return {record.subject_id: record for record in every if record.task == "urgency"}


def shown(
    opened: Session, visits: Sequence[Visit], asked: Mapping[int, PromptRecord]
) -> Iterator[Shown]:
    """Yield the visits with their charts, in the order of subject_id.

    Raises UserError where a chart is not the one that step 4's prompt shows.
    """
    by_patient = {visit.subject_id: visit for visit in visits}
    times = {who: [visit.arrival] for who, visit in by_patient.items()}
    for record in reader.records(
        opened.store, columns.WANTED, by_patient, columns.ONLY, columns.within(times)
    ):
        visit = by_patient[record["subject_id"]]
        before = task.before_arrival(record, visit.stay_id)
        chart = session.build(opened, before, visit.arrival)
        prompt = asked[visit.subject_id]
        if chart.text != prompt.context:
            raise UserError(
                "a chart is not as its prompt of step 4 shows it: run "
                f"`{command_for('prompts')} --force`"
            )
        yield Shown(visit, chart, prompt.question)
