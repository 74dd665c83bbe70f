"""What step 7 keeps of an answered trial: a row of output.csv or knowledge.csv, and a line of results.jsonl per arm."""

from mimic_qlora import scoring

ARMS = {"base": "base", "qlora": "adapter"}  # ending of the columns -> name of the arm
# The columns of output.csv that stand first; the first twelve are those that its readers know.
COLUMNS = (
    "subject_id", "question", "lat_ms_base", "lat_ms_qlora", "len_base", "len_qlora",
    "rel_cos_prompt_base", "rel_cos_prompt_qlora", "rel_to_ideal_base", "rel_to_ideal_qlora",
    "base_answer", "qlora_answer",
    "question_id", "symptom", "hadm_id", "as_of", "split", "prompt", "ideal",
    "cautions_called_for", "cautions_called_for_held_out",
)  # fmt: skip


def of_trial(trial, given: dict, milliseconds: float) -> dict:
    """A row of output.csv. `given` maps "base" and "qlora" to their Answer; `milliseconds` is what one answer took.

    Likeness is added at the end (`add_likeness`), when one pass embeds all answers.
    """
    row = {
        "trial": trial.number,
        "subject_id": trial.subject_id,
        "question": trial.question["question"],
        "question_id": trial.question["id"],
        "symptom": trial.question["symptom"],
        "hadm_id": trial.moment.hadm_id,
        "as_of": str(trial.moment.as_of),
        "prompt": trial.messages[-1]["content"],
        "ideal": trial.question["ideal"].strip(),
        "cautions_called_for": scoring.ids(trial.cautions),
        "cautions_called_for_held_out": scoring.ids([c for c in trial.cautions if c["held_out"]]),
        "lat_basis": "time of the batch / its answers, so equal for the arms that share it",
    }
    for arm, a in given.items():
        scores = scoring.rubric(trial.question, trial.cautions, a.text, a.ended)
        row |= {f"{arm}_answer": a.text, f"lat_ms_{arm}": round(milliseconds, 1), f"len_{arm}": a.n_tokens}
        row |= {f"{name}_{arm}": value for name, value in scores.items()}
    return row


def of_knowledge(trial, given: dict, milliseconds: float) -> dict:
    """A row of knowledge.csv."""
    row = {"trial": trial.number, "question_id": trial.question["id"], "question": trial.question["question"]}
    row |= {"ideal": trial.question["ideal"].strip()}
    for arm, a in given.items():
        row |= {f"{arm}_answer": a.text, f"key_points_{arm}": scoring.key_points(trial.question, a.text)}
        row |= {f"len_{arm}": a.n_tokens, f"cut_{arm}": float(not a.ended), f"lat_ms_{arm}": round(milliseconds, 1)}
    return row


def lines(trial, given: dict, row: dict, split: str) -> list:
    """The lines of results.jsonl: one per arm, with the exact conversation and answer."""
    about = {"subject_id": trial.subject_id, "hadm_id": row.get("hadm_id"), "as_of": row.get("as_of"), "split": split}
    return [
        {
            "trial": trial.number,
            "kind": "trial" if trial.subject_id else "knowledge",
            "arm": ARMS[arm],
            "question_id": trial.question["id"],
            **(about if trial.subject_id else {}),
            "messages": trial.messages,
            "answer": a.text,
            "n_tokens": a.n_tokens,
            "ended": a.ended,
            "scores": {k.removesuffix(f"_{arm}"): v for k, v in row.items() if k.endswith(f"_{arm}")},
        }
        for arm, a in given.items()
    ]


def add_likeness(rows: list) -> None:
    """Add to each row of output.csv how like its answers are to the question and to the ideal response."""
    likeness = [
        (column, other, arm)
        for column, other in (("rel_cos_prompt", "question"), ("rel_to_ideal", "ideal"))
        for arm in ARMS
    ]
    cosines = iter(scoring.cosines([(row[other], row[f"{arm}_answer"]) for row in rows for _, other, arm in likeness]))
    for row in rows:
        row |= {f"{column}_{arm}": next(cosines) for column, _, arm in likeness}
        row |= {f"rouge_l_{arm}": scoring.rouge_l(row["ideal"], row[f"{arm}_answer"]) for arm in ARMS}
