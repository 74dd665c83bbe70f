"""Steps 1 to 4 and the audit in this process, on the tables of a folder: for odd tables."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

from helpers.prompt_records import SHARED, SPLITS, count_words, read_jsonl
from helpers.storage_folders import step_three_stub
from mimic_qlora.chart import context
from mimic_qlora.features import cohort, matrix
from mimic_qlora.mimic import passed_over, tables
from mimic_qlora.prompts import audit, build, records
from mimic_qlora.step import storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import conversion, database
from mimic_qlora.subjects.manifest import SubjectsManifest, subjects_manifest
from mimic_qlora.summary import page
from mimic_qlora.summary import tables as summary_tables

# the checks of the audit that compare records with the chart; the others judge wordings
OF_CHART = ("ahead", "unfounded", "gold", "target", "split", "held_out")


class Done(NamedTuple):
    """What the steps left."""

    store: Path
    manifest: SubjectsManifest
    summary: dict[str, list[dict[str, Any]]]  # table -> rows, no count hidden
    features: matrix.Features
    prompts: dict[str, list[dict[str, Any]]]  # split -> records
    faults: dict[str, list[str]]  # by the audit's check of OF_CHART that found any

    @property
    def contexts(self) -> list[str]:
        return [one["messages"][1]["content"] for split in SPLITS for one in self.prompts[split]]


def convert(
    mimic: Path, store: Path, max_rejects: int = 0, subjects_file: Path | None = None
) -> Path:
    """Run step 1, and compare its output with the tables."""
    store.mkdir(exist_ok=True)
    sources = tables.find(mimic)
    empty = passed_over.without_rows(sources)
    conversion.print_sources(mimic, sources, empty)
    settings = conversion.ConversionSettings(
        folder=mimic,
        synthetic=False,
        sample=1.0,
        subjects_file=str(subjects_file) if subjects_file else None,
        seed=42,
        memory=1 << 30,
        workers=1,
        max_rejects=max_rejects,
    )
    conversion.write_subjects(store, sources, empty, settings, force=True)
    conversion.verify(store, sources)
    return store


def run_steps(mimic: Path, store: Path, subjects_file: Path | None = None) -> Done:
    """Run steps 1 to 4 and the audit; of step 3 what reads the tables, not the models."""
    convert(mimic, store, subjects_file=subjects_file)
    manifest = subjects_manifest(store)
    summary = summary_tables.summarize(store, store, manifest, 0)
    page.print_tables(summary, 0, everything=True)
    for kind in ("codes", "phenotypes"):
        con = database.connect(store, store)
        people = cohort.gather(con, 24)
        with contextlib.suppress(UserError):  # no target has enough patients
            cohort.choose(con, people, kind, 2)
        con.close()
    features = matrix.build(store, people, store)
    step_three_stub(store, "admissions.language")
    settings = build.PromptSettings(
        tasks=["guidance", "chart_qa", "diagnoses"],
        pairs_per_subject=2,
        max_total=None,
        token_budget=SHARED.token_budget,
        landmark_hours=24,
        seed=42,
        model="words",
    )
    maker = records.PromptMaker(SHARED, context.lab_labels(store), count_words)
    with storage.step_output(store, "prompts", {}, {"subjects": manifest["id"]}) as out:
        SHARED.write(out.path)
        build.make_records(store, out.path, settings, maker)
    faults = audit.of_storage(store).faults
    return Done(
        store,
        manifest,
        {table.name: table.rows for table in summary.tables},
        features,
        {split: read_jsonl(store / "prompts" / f"{split}.jsonl") for split in SPLITS},
        {check: faults[check] for check in OF_CHART if faults[check]},
    )
