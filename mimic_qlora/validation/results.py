"""What step 7 keeps of an answered trial: a row of output.csv, knowledge.csv or records.csv, a line of results.jsonl an
arm."""

from mimic_qlora.clinical import content
from mimic_qlora.step import storage
from mimic_qlora.tasks import chart_qa, diagnoses
from mimic_qlora.validation.scoring import likeness, rubric

ARMS = {
    "base": "base",
    "qlora": "adapter",
}  # ending of the columns -> name of the arm, of the pair that is compared
# What is asked apart from the trials: column -> (label, higher is better)
APART = {
    "key_points": ("knowledge: key points", True),
    "chart_qa": ("chart QA: answered right", True),
    "diagnoses": ("diagnoses: F1 of a patient", True),
}
# The columns of output.csv that stand first; the first twelve are those that its readers know.
COLUMNS = (
    "subject_id",
    "question",
    "lat_ms_base",
    "lat_ms_qlora",
    "len_base",
    "len_qlora",
    "rel_cos_prompt_base",
    "rel_cos_prompt_qlora",
    "rel_to_ideal_base",
    "rel_to_ideal_qlora",
    "base_answer",
    "qlora_answer",
    "question_id",
    "symptom",
    "unseen",
    "sex",
    "age_band",
    "hadm_id",
    "as_of",
    "split",
    "prompt",
    "ideal",
    "cautions_called_for",
    "cautions_called_for_held_out",
)


def of_trial(trial, given: dict, milliseconds: dict) -> dict:
    """A row of output.csv. `given` maps each arm's ending of columns to its Answer, `milliseconds` to what it took.

    Likeness is added at the end (`add_likeness`), when one pass embeds all answers.
    """
    row = {
        "trial": trial.number,
        "subject_id": trial.subject_id,
        "question": trial.question["question"],
        "question_id": trial.question["id"],
        "symptom": trial.question["symptom"],
        "unseen": content.symptom_of(trial.question)["held_out"],
        "sex": trial.chart.facts["sex"],
        "age_band": age_band(trial.chart.facts["age"]),
        "hadm_id": trial.moment.hadm_id,
        "as_of": str(trial.moment.as_of),
        "prompt": trial.messages[-1]["content"],
        "ideal": trial.question["ideal"].strip(),
        "cautions_called_for": rubric.ids(trial.cautions),
        "cautions_called_for_held_out": rubric.ids([c for c in trial.cautions if c["held_out"]]),
        "lat_basis": "time of the batch / its answers, so equal for the arms that share it",
    }
    for arm, a in given.items():
        scores = rubric.rubric(trial.question, trial.cautions, a.text, a.ended, trial.chart.text)
        row |= {
            f"{arm}_answer": a.text,
            f"lat_ms_{arm}": milliseconds[arm],
            f"len_{arm}": a.n_tokens,
        }
        row |= {f"{name}_{arm}": value for name, value in scores.items()}
    return row


def age_band(age: int | None) -> str:
    return (
        "unknown"
        if age is None
        else "under 45"
        if age < 45
        else "45 to 64"
        if age < 65
        else "65 and over"
    )


def of_knowledge(trial, given: dict, milliseconds: dict) -> dict:
    """A row of knowledge.csv."""
    row = {
        "trial": trial.number,
        "question_id": trial.question["id"],
        "question": trial.question["question"],
    }
    row |= {"ideal": trial.question["ideal"].strip()}
    for arm, a in given.items():
        row |= {
            f"{arm}_answer": a.text,
            f"key_points_{arm}": rubric.key_points(trial.question, a.text),
        }
        row |= {
            f"len_{arm}": a.n_tokens,
            f"cut_{arm}": float(not a.ended),
            f"lat_ms_{arm}": milliseconds[arm],
        }
    return row


def of_record(trial, given: dict, milliseconds: dict) -> dict:
    """A row of records.csv. What counts as one question is a kind of chart question; the diagnoses of every stay are
    asked for alike, so there it is the patient."""
    record = trial.question["record"]
    row = {name: record.get(name) for name in ("task", "subject_id", "hadm_id", "as_of", "split")}
    row |= {
        "trial": trial.number,
        "question": trial.question["question"],
        "ideal": trial.question["ideal"],
    }
    row["question_id"] = (
        trial.question["id"] if record["task"] == "chart_qa" else f"patient {trial.subject_id}"
    )
    for arm, a in given.items():
        row |= {f"{arm}_answer": a.text}
        if record["task"] == "chart_qa":
            row[f"chart_qa_{arm}"] = chart_qa.score(record, a.text)
        else:
            found = diagnoses.score(record, a.text)
            row[f"diagnoses_{arm}"] = found.pop("f1")
            row |= {f"{name}_{arm}": value for name, value in found.items()}
        row |= {
            f"len_{arm}": a.n_tokens,
            f"cut_{arm}": float(not a.ended),
            f"lat_ms_{arm}": milliseconds[arm],
        }
    return row


OF_KIND = {"trial": of_trial, "knowledge": of_knowledge, "record": of_record}


def lines(trial, asked: list, given: dict, row: dict) -> list:
    """The lines of results.jsonl: one per arm (`asked` holds its arms.Ask), with the exact conversation and answer."""
    about = {name: row.get(name) for name in ("subject_id", "hadm_id", "as_of", "split")}
    return [
        {
            "trial": trial.number,
            "kind": trial.kind,
            "arm": ask.arm.name,
            "question_id": trial.question["id"],
            **(about if trial.subject_id else {}),
            **({"task": row["task"], "ideal": row["ideal"]} if trial.kind == "record" else {}),
            "cautions": [c["id"] for c in trial.cautions],
            "messages": ask.messages,
            "answer": a.text,
            "n_tokens": a.n_tokens,
            "ended": a.ended,
            "scores": {
                k.removesuffix(f"_{arm}"): v for k, v in row.items() if k.endswith(f"_{arm}")
            },
        }
        for ask in asked
        for arm, a in [(ask.arm.column, given[ask.arm.column])]
    ]


def add_likeness(rows: list) -> None:
    """Add to each row of output.csv how like its answers are to the question and to the ideal response."""
    pairs = [
        (row, arm, column, other)
        for row in rows
        for arm in [name.removesuffix("_answer") for name in row if name.endswith("_answer")]
        for column, other in (("rel_cos_prompt", "question"), ("rel_to_ideal", "ideal"))
    ]
    cosines = likeness.cosines([(row[other], row[f"{arm}_answer"]) for row, arm, _, other in pairs])
    for (row, arm, column, _), cosine in zip(pairs, cosines, strict=True):
        row[f"{column}_{arm}"] = cosine
        row[f"rouge_l_{arm}"] = likeness.rouge_l(row["ideal"], row[f"{arm}_answer"])


def over_runs(rows: list, arms: list) -> list:
    """The rows with the adapter's scores as means over all its runs, where step 5 trained it from several seeds."""
    runs = ["qlora", *(arm.column for arm in arms if "@" in arm.name)]
    if len(runs) == 1:
        return rows
    names = [*rubric.METRICS, *APART]
    return [
        row
        | {
            f"{n}_qlora": _mean([row[f"{n}_{run}"] for run in runs])
            for n in names
            if f"{n}_qlora" in row
        }
        for row in rows
    ]


def seeds(arms: list) -> str:
    """How far the claim reaches: over how many adapters."""
    runs = 1 + sum("@" in arm.name for arm in arms)
    if runs == 1:
        return "One adapter of one training seed: another seed may give another result."
    return (
        f"The adapter's figures are means over {runs} trained adapters, and the intervals are for these: they do "
        "not hold how far another training seed would differ. output.csv has each one's."
    )


def _mean(values: list) -> float | None:
    return None if None in values else sum(values) / len(values)


def of_pair(lines: list) -> list:
    """The lines of results.jsonl that people label: trials as the two arms of the headline answered them."""
    return [line for line in lines if line["kind"] == "trial" and line["arm"] in ARMS.values()]


def bits_per_byte(store, runs: str) -> list:
    """A sentence for each run of step 5: how well base and adapter foresee the gold answers of validation patients."""
    told = []
    for run in runs.split(","):
        found = (
            storage.read_manifest(store, f"adapters/{run}").get("results", {}).get("bits_per_byte")
        )
        if found:
            base, adapter, change = (found[name] for name in ("base", "adapter", "difference"))
            told.append(
                f"Gold answers of validation patients, in bits a byte (less is better): base {base[0]:.3f}, adapter "
                f"{run} {adapter[0]:.3f}, difference {change[0]:+.3f} [{change[1]:+.3f}, {change[2]:+.3f}] (step 5)."
            )
    return told
