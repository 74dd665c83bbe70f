"""Build the prompt records of all patients."""

from collections import Counter
from pathlib import Path

from mimic_qlora.step.errors import UserError


def make_records(store: Path, folder: Path, shared: dict, args, count_tokens) -> dict:
    """Write the records of every patient of the cohort, by split, and count what was made and who was left out."""
    from tqdm import tqdm

    from mimic_qlora.chart import context
    from mimic_qlora.prompts import cohort, dataset
    from mimic_qlora.prompts import records as prompts
    from mimic_qlora.subjects import reader

    found = cohort.cohort(store, args.tasks, args.pairs_per_subject, args.seed, args.landmark_hours)
    slots = cohort.chosen(found.slots, args.max_total, args.seed)
    split, labels, cut = reader.split_of(store), context.lab_labels(store), Counter()

    def made():
        for record in tqdm(prompts.records(store, slots), "patients", len(slots), disable=None):
            subject_id = record["subject_id"]
            years = found.year_groups[subject_id]
            groups = {
                "split": split[subject_id],
                "anchor_year_group": years,
                "temporal_split": "test" if years and years == found.latest else "train",
            }
            for one in prompts.of_patient(
                record, slots[subject_id], shared, labels, count_tokens, cut
            ):
                yield one | groups

    counts = dataset.write(folder, made())
    if not counts["splits"].get("train"):
        raise UserError(
            "no training prompt could be made: no patient has a coded stay that a question could be asked about"
        )
    places = sum(map(len, slots.values()))
    return counts | {
        "cohort": found.counts,
        "without_gold": places - sum(counts["splits"].values()) - counts["near_duplicates"],
        "cut": dict(sorted(cut.items())),
        "latest_years": found.latest,
    }
