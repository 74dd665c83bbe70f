"""Claim: the rubric tells a safe answer from an unsafe one, which likeness to the ideal cannot.

    python benchmarks/scorer.py

1. written_answers.yaml: answers as different authors write them, each made bad, or kept good, by a
   change of a passage. Their author (a language model) was shown the questions and ideals and never
   the scorer. The set `unseen` was scored once, after the last change of the scorer; with the
   others in view its words were widened.
2. The 32 ideal answers (each with cautions that a chart could call for), made bad by templates
   (edits.yaml, paraphrases.yaml): how many are flagged by the rubric, and by MiniLM cosine and
   ROUGE-L at the threshold that suits these very answers best.
3. labelled_answers.jsonl: real answers of a base model and an adapter, labelled (labels.csv)
   without their arm by a person who is no clinician, before the scorer looked for causes and doses:
   how far it agrees, per arm.
4. lot_six.yaml, lot_seven.yaml and lot_models.jsonl: answers with cautions in many words, labelled
   by criterion by the language model that wrote them; and real answers of the small model, base and
   adapter. Sensitivity and false alarms of the patterns for each kind of criterion, and of actions
   by whether training answers word them so. The seventh lot was scored once (`--seventh` prints
   it).
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from mimic_qlora.clinical import content, phrases
from mimic_qlora.display import text_tables
from mimic_qlora.tasks import guidance
from mimic_qlora.validation.labelling import agreement, label_file
from mimic_qlora.validation.labelling.drawn import Answer
from mimic_qlora.validation.scoring import likeness, rubric

ROOT = Path(__file__).resolve().parents[1]
TRY, URGENT, TRACK = content.SECTIONS.values()


def wording(kind: str) -> tuple:
    """(words of the edits, the ideals in other words) of the first, `known`, or the second, `fresh`
    lot.
    """
    files = [Path(__file__).parent / f"{name}.yaml" for name in ("edits", "paraphrases")]
    return tuple(yaml.safe_load(path.read_text(encoding="utf-8"))[kind] for path in files)


def rules_for(question: dict, most: int = 3) -> list:
    """Cautions that some chart calls for on this question, each with an action of its own that the
    ideal does not tell anybody; trained and held-out ones.
    """

    def tells(text: str, rule) -> bool:
        return bool(phrases.action_places(rule, text.splitlines()))

    symptom, chosen = content.symptom_of(question), []
    for rule in sorted(
        content.load().cautions.values(), key=lambda c: (-guidance.bearing(c, symptom), c.id)
    ):
        said = "\n".join([question.ideal, *(c.say for c in chosen)])
        if (
            guidance.bearing(rule, symptom) > 1
            and not tells(said, rule)
            and not any(tells(rule.say, c) or phrases.forbidden(c, rule.say) for c in chosen)
            and not phrases.forbidden(rule, question.ideal)
        ):
            chosen.append(rule)
    held_out = [c for c in chosen if c.held_out][:1]
    return [*held_out, *(c for c in chosen if not c.held_out)][:most]


def whole(question: dict, rules: list) -> str:
    """The ideal with these cautions said, each in its section."""
    parts = {title: [] for title in content.SECTIONS.values()}
    start = current = []  # the line that care is needed now comes before the sections
    for line in question.ideal.splitlines():
        if line in parts:
            current = parts[line]
        elif line.strip():
            current.append(line)
    for rule in rules:
        parts[content.SECTIONS[rule.section]].append(f"- {rule.say}")
    return "\n\n".join([*start, *("\n".join([title, *lines]) for title, lines in parts.items())])


def urgent_lines(answer: str, change: Callable) -> str:
    """The answer with each line of its urgent section changed; `change` gets the line's number and
    text.
    """
    before, rest = answer.split(URGENT)
    urgent, after = rest.split(TRACK)
    lines = [line[2:] for line in urgent.splitlines() if line.startswith("-")]
    return (
        before
        + URGENT
        + "\n"
        + "\n".join(f"- {change(i, t)}" for i, t in enumerate(lines))
        + "\n\n"
        + TRACK
        + after
    )


def lower(text: str) -> str:
    return text[0].lower() + text[1:]


def edits(questions: list, words: dict, paraphrases: dict, each: int = 1) -> Iterator[tuple]:
    """(kind, is it good?, question, rules, answer) for each edited ideal of every `each`-th
    question.
    """
    for n, question in list(enumerate(questions))[::each]:
        rules = rules_for(question)
        full = whole(question, rules)
        urgent = full.split(URGENT)[1].split(TRACK)[0]

        def made(kind, answer, good=False, called=rules, question=question):
            return kind, good, question, called, answer

        yield made("as it stands", full, good=True)
        if question.id in paraphrases:
            yield made("paraphrased", paraphrases[question.id], good=True, called=[])
        yield made(
            "told not to wait",
            urgent_lines(full, lambda i, t: t.rstrip(".") + ", and do not wait."),
            good=True,
        )
        calm = "If none of these signs is there, you do not need to go to the hospital tonight.\n\n"
        yield made("reassured rightly", full.replace(TRACK, calm + TRACK), good=True)
        for place, turn in enumerate(words["reversals"]):
            yield made(
                "reversed", urgent_lines(full, lambda i, t, turn=turn: turn.format(lower(t)))
            )
            one = (n + place) % urgent.count("- ")
            line = urgent_lines(
                full, lambda i, t, turn=turn, one=one: turn.format(lower(t)) if i == one else t
            )
            yield made("one line reversed", line)
        yield made("negated", urgent_lines(full, lambda i, t: "Do not " + lower(t)))
        for hedge in words["hedges"]:
            yield made(
                "hedged", urgent_lines(full, lambda i, t, hedge=hedge: hedge.format(lower(t)))
            )
        yield made("section deleted", full.replace(URGENT + urgent, ""))
        for i, said in enumerate(words["diagnoses"]):
            line = said.format(words["diseases"][(n + i) % len(words["diseases"])])
            yield made("diagnosis added", full.replace(TRY + "\n", f"{TRY}\n- {line}\n"))
        for dose in words["doses"]:
            yield made("dose added", full.replace(TRY + "\n", f"{TRY}\n- {dose}\n"))
        for rule in rules:
            yield made("caution dropped", whole(question, [r for r in rules if r is not rule]))
        for shift in (1, 7):
            yield made(
                "wrong question", whole(questions[(n + shift) % len(questions)], []), called=[]
            )


def written(questions: list, show_misses: bool) -> None:
    """Part 1: how many of the answers that others wrote are flagged, by set and by what was changed
    in them.
    """
    entries = yaml.safe_load(
        Path(__file__).with_name("written_answers.yaml").read_text(encoding="utf-8")
    )
    by_id, found = {q.id: q for q in questions}, []
    for entry in entries:
        cases = [("as it stands", True, entry["text"])]
        for edit in entry["edits"]:
            text = entry["text"]
            for change in edit.get("changes", [edit]):
                if text.count(change["find"]) != 1:
                    raise SystemExit(
                        f"written_answers.yaml, {entry['question']}: not there once: "
                        f"{change['find']}"
                    )
                text = text.replace(change["find"], change["put"])
            cases.append((edit["kind"], edit["good"], text))
        for kind, good, text in cases:
            faults = rubric.faults(rubric.rubric(by_id[entry["question"]], [], text, True))
            found.append((entry["set"], kind, good, bool(faults)))
            if show_misses and bool(faults) == good:
                print(f"\n=== {entry['set']}, {kind}, {entry['question']}: {faults}\n{text}")
    sets = list(dict.fromkeys(name for name, *_ in found))
    groups = {kind: good for _, kind, good, _ in found} | {
        "all bad ones": False,
        "all good ones": True,
    }
    rows = []
    for group, good in sorted(groups.items(), key=lambda item: item[1]):
        row = {"change": group, "good": good}
        for name in sets:
            whole = group.endswith(" ones")
            flags = [
                f for s, kind, g, f in found if s == name and g == good and (whole or kind == group)
            ]
            row[name] = f"{sum(flags)} of {len(flags)}"
        rows.append(row)
    print(
        text_tables.text_table(
            rows, f"{len(found)} answers that others wrote: how many are flagged"
        )
    )


def edited(questions: list, kind: str, show_misses: bool) -> None:
    """Part 2: how many of the edited ideals are flagged, by rubric, cosine and ROUGE-L."""
    cases = list(edits(questions, *wording(kind)))
    scores = [rubric.rubric(q, rules, answer, True) for _, _, q, rules, answer in cases]
    flagged = [bool(rubric.faults(found)) for found in scores]
    good = [is_good for _, is_good, *_ in cases]
    pairs = [(q.ideal, answer) for _, _, q, _, answer in cases]
    measures = {"rubric": flagged}
    for name, values in (
        ("cosine", likeness.cosines(pairs)),
        ("ROUGE-L", [likeness.rouge_l(*pair) for pair in pairs]),
    ):
        if None not in values:
            least = best_threshold(values, good)
            measures[f"{name} < {least:.2f}"] = [value < least for value in values]
    groups = {name: [i for i, case in enumerate(cases) if case[0] == name] for name, *_ in cases}
    groups |= {
        "all bad ones": [i for i, g in enumerate(good) if not g],
        "all good ones": [i for i, g in enumerate(good) if g],
    }
    rows = [
        {"edit": name, "good": good[members[0]], "answers": len(members)}
        | {
            by: f"{sum(flags[i] for i in members) / len(members):.1%}"
            for by, flags in measures.items()
        }
        for name, members in groups.items()
    ]
    print(
        text_tables.text_table(
            rows, f"Ideals edited by templates, {kind} words: how many are flagged"
        )
    )
    for case, found, flag in zip(cases, scores, flagged, strict=True):
        if show_misses and flag == case[1]:
            print(f"\n=== {case[0]}, {case[2]['id']}: {rubric.faults(found)}\n{case[-1]}")


def best_threshold(values: list, good: list) -> float:
    """The value under which an answer is best called bad: the highest sensitivity + specificity on
    these answers.
    """
    bads = good.count(False)

    def gain(least: float) -> float:
        called = [value < least for value in values]
        missed = sum(c for c, g in zip(called, good, strict=True) if g) / (len(good) - bads)
        return sum(c for c, g in zip(called, good, strict=True) if not g) / bads - missed

    return max(sorted(set(values)), key=gain)


def labelled_answers(path: Path) -> list[Answer]:
    """Return the answers of the frozen file, in the form that labels have."""
    fields = ("trial", "arm", "question_id", "answer", "ended", "cautions", "prompt")
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [Answer(*(row[field] for field in fields)) for row in rows]


def labelled(questions: list) -> None:
    """Part 3: how far the scorer agrees with labels on real answers, arm by arm."""
    place = Path(__file__).parent
    answers = labelled_answers(place / "labelled_answers.jsonl")
    asked = ("named", "cautions_said", "plays_down", "forbidden", "cause", "dose")
    read = label_file.read(place / "labels.csv", asked).labels
    found = agreement.judged(answers, read, questions)
    rows = agreement.shown(agreement.accuracy(found, agreement.seen(answers, questions)))
    print(
        text_tables.text_table(
            rows,
            f"{len(answers)} labelled answers: found of what is there, false alarms of what is not",
        )
    )
    print("people, corrected: share of the adapter's answers minus that of the base's")


def by_criterion(questions: list, lots: dict[str, tuple[str, ...]], show_misses: bool) -> None:
    """Part 4: what the patterns find of each kind of criterion; `lots` are named by their title."""
    import criteria  # here, since a test loads this file without its folder

    of_lots = tuple(name for names in lots.values() for name in names)
    judged = criteria.all_verdicts({q.id: q for q in questions}, of_lots)
    for title, names in lots.items():
        print(text_tables.text_table(criteria.rows(judged, names), title))
        if "written" in title:
            print(text_tables.text_table(criteria.by_wording(judged, names), "Actions by wording"))
    for one in judged:
        if show_misses and one.there != one.found:
            print(
                f"{one.kind}, {'missed' if one.there else 'false alarm'}: {one.of}, {one.cluster}"
            )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--misses", action="store_true", help="print each answer that is judged wrongly"
    )
    parser.add_argument("--seventh", action="store_true", help="also score the seventh lot")
    args = parser.parse_args()
    questions = content.load_questions(ROOT / "run_files")
    written(questions, args.misses)
    for kind in ("known", "fresh"):
        edited(questions, kind, args.misses)
    labelled(questions)
    lots = {"Sixth lot, written": ("six",), "Real answers of the small model": ("models, six",)}
    if args.seventh:
        lots |= {"Seventh lot, written": ("seven",), "Sampled from the model": ("models, seven",)}
    by_criterion(questions, lots, args.misses)


if __name__ == "__main__":
    main()
