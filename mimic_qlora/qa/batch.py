"""Answers to many questions at once."""

import json
import sys
import time
from itertools import islice
from pathlib import Path

from mimic_qlora.step.errors import UserError

QUESTIONS = Path(__file__).parent / "run_files"


def answer(talk, asked: list, on_batch=None) -> list:
    """The answers of each arm to questions about patients, as [{arm: {"text", "n_tokens", "ended"}}].

    `asked` holds (patient, question); nothing that was asked before is followed up on. `on_batch` as for
    generation.generate.
    """
    from mimic_qlora.llm import generation
    from mimic_qlora.qa import conversation, session

    arms = conversation.ARMS[talk.arm]
    turns = [turns_of(talk, patient, question) for patient, question in asked]
    session.check_room(talk.source, turns, talk.args.max_new_tokens)
    flat = generation.generate(
        talk.model,
        talk.source.tokenizer,
        [turn for turn in turns for _ in arms],
        [*arms] * len(turns),
        talk.args.max_new_tokens,
        talk.args.batch_size,
        on_batch,
    )
    given = zip(*[iter(a._asdict() for a in flat)] * len(arms), strict=True)
    return [dict(zip(arms, row, strict=True)) for row in given]


def bar(talk, questions: int):
    """A progress bar over the answers of all arms to so many questions."""
    from tqdm import tqdm

    from mimic_qlora.qa import conversation

    total = questions * len(conversation.ARMS[talk.arm])
    return tqdm(total=total, desc="answers", smoothing=0, disable=None, leave=False)


def turns_of(talk, patient, question: str) -> list:
    from mimic_qlora.chart import context

    return context.messages(talk.source.settings, patient.context.text, question)


def read_lines(path: str) -> list:
    """The lines of --batch with their numbers; empty ones are passed over. Raises UserError for a file that is none."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--batch {path} cannot be read as UTF-8 text ({type(error).__name__})"
        ) from None
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def wanted(talk, line: str) -> tuple:
    """(patient, question) of a line of --batch. Raises UserError that says what is wrong with it."""
    from mimic_qlora.qa import conversation, session

    try:
        asked = json.loads(line)
    except ValueError:
        raise UserError("this is no JSON") from None
    if not (
        isinstance(asked, dict)
        and isinstance(asked.get("question"), str)
        and asked["question"].strip()
    ):
        raise UserError(
            'a line is {"subject_id": number, "question": "..."}, with "as_of" if you like'
        )
    as_of = conversation.parse_time(asked["as_of"]) if asked.get("as_of") else None
    patient, question = (
        conversation.chart(talk.source, asked.get("subject_id"), as_of),
        asked["question"].strip(),
    )
    session.check_room(talk.source, [turns_of(talk, patient, question)], talk.args.max_new_tokens)
    return patient, question


def batch(talk, lines: list) -> int:
    """Answer each line with a line, in the same order; 1 when one could not be answered."""
    from mimic_qlora.qa import conversation

    failed, size = (
        0,
        4 * talk.args.batch_size,
    )  # so many at a time that those of like length find each other
    with bar(talk, len(lines)) as shown:
        for part in (lines[i : i + size] for i in range(0, len(lines), size)):
            asked, replies = {}, {}
            for number, line in part:
                try:
                    asked[number] = wanted(talk, line)
                except UserError as error:
                    replies[number] = {"line": number, "error": str(error)}
            failed += len(replies)
            shown.update(len(replies) * len(conversation.ARMS[talk.arm]))
            given_to = answer(talk, [*asked.values()], shown.update) if asked else []
            for (number, (patient, question)), given in zip(asked.items(), given_to, strict=True):
                talk.said.append(conversation.entry(talk, patient, question, given))
                replies[number] = {"line": number, **talk.said[-1]}
            for _, reply in sorted(replies.items()):
                print(json.dumps(reply), flush=True)
    if talk.said:
        print(f"Saved {conversation.save(talk)}", file=sys.stderr)
    if failed:
        print(f"{failed} of {len(lines)} lines could not be answered", file=sys.stderr)
    return int(failed > 0)


def charts_to_check(talk) -> list:
    """(subject_id, milliseconds to open it, patient or the error) of n validation patients of the cohort."""
    from mimic_qlora.qa import conversation

    found = []
    for subject_id, _, _ in islice(talk.randoms, talk.args.check):
        started = time.perf_counter()
        try:
            patient = conversation.chart(talk.source, subject_id, None)
        except UserError as error:
            patient = str(error)
        found.append((subject_id, (time.perf_counter() - started) * 1000, patient))
    if not found:
        raise UserError(
            "no validation patient has a coded stay that ended with a discharge to home: convert more patients"
        )
    return found


def told(text: str) -> list:
    """The lines of a context that tell something of the chart, beyond age and sex."""
    nothing = ("unknown", "none on record", "none coded", "the record does not say")
    lines = [line for line in text.splitlines()[1:] if not line.startswith(("- Age:", "- Sex:"))]
    return [line for line in lines if not line.endswith(nothing)]


def check(talk, checked: list) -> int:
    """Print what holds for each patient; 1 when something does not."""
    from mimic_qlora.clinical import content

    question = talk.args.question or content.load_questions(QUESTIONS)[0]["question"]
    there = [patient for _, _, patient in checked if not isinstance(patient, str)]
    with bar(talk, len(there)) as shown:
        answered = iter(
            answer(talk, [(patient, question) for patient in there], shown.update) if there else []
        )
    budget, failed = talk.source.settings["token_budget"], 0
    print(f"\n{'subject_id':>10} {'opened':>9} {'context':>9} {'age':>5} {'sex':>4}  result")
    for subject_id, ms, patient in checked:
        if isinstance(patient, str):
            wrong, cells = [patient], ("-", "-", "-")
        else:
            facts, tokens, given = (
                patient.context.facts,
                talk.source.count_tokens(patient.context.text),
                next(answered),
            )
            cells = (
                f"{tokens} tok",
                "over 89" if (facts["age"] or 0) > 89 else facts["age"] or "-",
                facts["sex"] or "-",
            )
            wrong = [
                *([] if told(patient.context.text) else ["the context is empty"]),
                *([f"the context has more than {budget} tokens"] if tokens > budget else []),
                *(["age unknown"] if facts["age"] is None else []),
                *(["sex unknown"] if facts["sex"] not in ("F", "M") else []),
                *([f"{arm}: no answer" for arm, a in given.items() if not a["text"]]),
                *(
                    [
                        f"{arm}: cut at {a['n_tokens']} tokens"
                        for arm, a in given.items()
                        if not a["ended"]
                    ]
                ),
            ]
        failed += bool(wrong)
        print(
            f"{subject_id:>10} {ms:>6.1f} ms {cells[0]:>9} {cells[1]!s:>5} {cells[2]:>4}  {'; '.join(wrong) or 'ok'}"
        )
    fewer = f" ({talk.args.check} were asked for)" if len(checked) < talk.args.check else ""
    print(f"\nAsked: {question}\n{len(checked) - failed} of {len(checked)} patients passed{fewer}")
    return int(failed > 0)
