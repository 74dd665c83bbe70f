"""Render the README of the prompts folder."""

from pathlib import Path

import jinja2

from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.clinical import content as clinical
from mimic_qlora.prompts import near_duplicates
from mimic_qlora.prompts.dataset import SILENT, Counts
from mimic_qlora.step import manifests
from mimic_qlora.step.plain_text import in_markdown

TASKS = {
    "guidance": (
        "a lay symptom question some days after a live discharge to home; the answer is put "
        "together\n  from the clinical content files, of which {reviewed}."
    ),
    "chart_qa": (
        "a question with one verifiable answer in the context, or with none: "
        '"The record does\n  not say".'
    ),
    "diagnoses": (
        "the conditions that a stay was later coded with, asked {hours:g} hours after arrival. "
        "Codes\n  are made for billing, and their order is no rank of truth; MIMIC-IV has no "
        "present-on-admission\n  flag; codes of external causes and of histories are left out."
    ),
    "urgency": (
        "how urgent an emergency visit was, asked at arrival with the chart before it and the "
        "complaint;\n  the level is told from what followed (docs/urgency.md), the care received "
        "and not the care\n  needed; urgency.csv has each visit, urgency_flow.csv who was left out."
    ),
}
TABLES = {
    "splits": "split",
    "tasks": "task",
    "temporal_splits": "split by time",
    "sexes": "sex",
    "ages": "age",
    "kinds": "kind of chart question",
    "symptoms": "symptom",
    "cautions": "caution rule",
}


def card(data_line: str, settings: ContextSettings, counts: Counts) -> str:
    """Return the dataset card: content of the records, counts, lengths, balance, what to avoid."""
    content = clinical.load()
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["inert"] = in_markdown
    template = environment.from_string(
        (Path(__file__).parent / "card.md.jinja").read_text(encoding="utf-8")
    )
    return template.render(
        data_line=data_line,
        study=manifests.study_sentences(),
        settings=settings,
        counts=counts,
        content=content,
        held_out={
            "symptoms": sum(s.held_out for s in content.symptoms.values()),
            "cautions": sum(c.held_out for c in content.cautions.values()),
        },
        tasks={
            task: text.format(hours=settings.landmark_hours, reviewed=clinical.reviewed())
            for task, text in TASKS.items()
            if task in counts.tasks
        },
        tables={title: _rows(counts, name) for name, title in TABLES.items()},
        silent=counts.answers.get(SILENT, 0),
        words={
            part: " / ".join(f"{n:g}" for n in lengths.values())
            for part, lengths in counts.words.items()
        },
        cut=", ".join(f"{section} {n:,}" for section, n in counts.cut.items()),
        threshold=near_duplicates.THRESHOLD,
    )


def _rows(counts: Counts, name: str) -> list[tuple[str, int]]:
    """Return (value, records), the most frequent first, ages in their order."""
    rows: list[tuple[str, int]] = list(getattr(counts, name).items())
    return rows if name == "ages" else sorted(rows, key=lambda row: (-row[1], row[0]))
