"""Claim: no answer contradicts itself, its chart or its levels of urgency, and no rule is idle.

    python benchmarks/clinical_content.py [--subjects STORAGE] [--show PATIENT ...] [--charts N]

Composes the answer to every symptom for the made-up patients of made_up_patients.yaml, and, with
`--subjects`, the gold answers of every patient in the storage folder of step 1 (the open demo), as
step 4 does, but for all symptoms; and, as ideals, the curated answer to every question that fits,
as step 7 shows it. Counts in them what the content forbids, and in the content what no answer
shows: self-care for which a finding of self_care_pairs.yaml is no obstacle, rules that can meet and
tell opposites, signs without a level, held-out rules that no question reaches. With `--subjects`
it also tells how often a trial of the primary endpoint would test a caution that is told anyway.
`--show` prints the answers of made-up patients ("all" for every one); `--charts` those of the N
charts with the most rules, to be read beside their contexts: patients' text, for the screen only.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import yaml

from mimic_qlora.chart import columns, context, facts, prediction_times
from mimic_qlora.chart.context_settings import ContextSettings
from mimic_qlora.chart.derived_values import DerivedFact
from mimic_qlora.chart.facts import Facts
from mimic_qlora.clinical import conflicts, content, levels, presumptions
from mimic_qlora.clinical.schema import Caution, Phrasing, Question, Symptom
from mimic_qlora.display import text_tables
from mimic_qlora.prompts import audit_guidance
from mimic_qlora.subjects import reader
from mimic_qlora.tasks import composing, guidance, holding_out
from mimic_qlora.validation import power
from mimic_qlora.validation.scoring import anyway

ROOT = Path(__file__).resolve().parents[1]
SEED, TOKENS = 42, 700
CONTENT = content.load()


class Answer(NamedTuple):
    """A composed answer, and what it was made of."""

    patient: composing.Patient
    symptom: Symptom
    question: str
    text: str
    cautions: list


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=Path, help="storage folder with step 1's output")
    parser.add_argument("--show", nargs="+", default=[], help="made-up patients to print")
    parser.add_argument("--charts", type=int, default=0, help="charts to print (default: none)")
    args = parser.parse_args()
    people = made_up_patients()
    counts = {
        "made-up patients": checked(faults(a) for f in people.values() for a in answers(f)),
        "their ideals": checked(f for known in people.values() for f in of_ideals(known, known)),
    }
    if args.subjects:
        charts = list(built_charts(args.subjects))
        golds = {subject: list(gold_answers(built, subject)) for subject, built in charts}
        counts["charts"] = checked(faults(a) for found in golds.values() for a in found)
        counts["ideals of charts"] = checked(
            f for _, built in charts for f in of_ideals(built.facts, built.chart)
        )
        most = sorted(charts, key=lambda c: -len(composing.called_for(c[1].chart)))
        for subject, built in most[: args.charts]:
            print(built.text, *(worded(a) for a in golds[subject][:2]), sep="\n\n", end="\n\n\n")
    for name in people if "all" in args.show else args.show:
        print(f"# {name}", *(worded(a) for a in answers(people[name])), sep="\n\n", end="\n\n")
    kinds = list(dict.fromkeys(kind for found in counts.values() for kind in found))
    print(
        text_tables.text_table(
            [{"in answers": k} | {where: str(n[k]) for where, n in counts.items()} for k in kinds]
        )
    )
    print(text_tables.text_table([{"in the content": k, "n": str(n)} for k, n in of_content()]))
    if args.subjects:
        print(told_anyway([built for _, built in charts]))


def made_up_patients() -> dict[str, Facts]:
    """Name -> facts of each made-up patient."""
    text = (Path(__file__).parent / "made_up_patients.yaml").read_text(encoding="utf-8")
    return {name: made_up(**found) for name, found in yaml.safe_load(text).items()}


def made_up(age, sex, phenotypes=(), drug_classes=(), labs=None, derived=None, procedures=()):
    """The facts of a made-up chart."""
    return replace(
        composing.ANYBODY.chart,
        phenotypes={name: {} for name in phenotypes},
        drug_classes={name: {} for name in drug_classes},
        labs={item: facts.LabFact(*found) for item, found in (labs or {}).items()},
        derived={name: DerivedFact(*found, ()) for name, found in (derived or {}).items()},
        procedures=[facts.ProcedureFact((group,), days) for group, days in procedures],
        age=age,
        sex=sex,
    )


def answers(known: Facts) -> Iterator[Answer]:
    """The answer to the first fitting question on every symptom that such a patient may have."""
    patient = composing.patient_of(known, known)
    for symptom in CONTENT.symptoms.values():
        if symptom.needs is not None and not symptom.needs.holds(known):
            continue
        asked = first_question(symptom, known)
        cautions = guidance.cautions_for(symptom, known, patient.called, asked.signs)
        due = guidance.opening(asked.signs, symptom.urgent, patient.called)
        text = composing.compose(
            symptom, cautions, f"made up:{symptom.id}", patient, due, asked.signs
        )
        told = cautions[: composing.MOST_CAUTIONS]
        yield Answer(patient, symptom, asked.text, text, told)


def first_question(symptom: Symptom, known: Facts) -> Phrasing:
    """The first phrasing that names a warning sign and fits, else the first that fits."""
    fit = [
        one
        for one in symptom.phrasings
        if (one.when is None or one.when.holds(known))
        and not presumptions.unfounded(one.text, known)
    ]
    return next((one for one in fit if one.signs), fit[0])


def built_charts(store: Path) -> Iterator[tuple[int, context.Context]]:
    """Each patient who went home, with the context at the usual time; a token is four letters."""
    prompts = dict.fromkeys(("guidance", "chart_qa", "diagnoses"), "")
    settings = ContextSettings("", prompts, TOKENS, 24, [], SEED, "", "", "")
    labels = context.lab_labels(store)
    for record in reader.records(store, columns.WANTED, None, columns.ONLY):
        if home := prediction_times.after_discharge(record, SEED):
            when = home[-1].as_of
            yield (
                record["subject_id"],
                context.build(record, when, settings, labels, lambda text: len(text) // 4),
            )


def gold_answers(built: context.Context, subject: int) -> Iterator[Answer]:
    """The gold answers on all symptoms that are trained on."""
    patient = composing.patient_of(built.facts, built.chart)
    for gold in guidance.golds(
        built.facts, built.chart, len(CONTENT.symptoms), f"{SEED}:{subject}"
    ):
        cautions = [CONTENT.cautions[name] for name in gold.cautions]
        yield Answer(patient, CONTENT.symptoms[gold.symptom], gold.question, gold.answer, cautions)


def checked(found: Iterator[Mapping[str, int]]) -> Mapping[str, int]:
    """What was looked for in answers -> how often it was there."""
    counts = Counter({"answers": 0})
    for faults_of_one in found:
        counts["answers"] += 1
        for kind, n in faults_of_one.items():
            counts[kind] += n
    return counts


def faults(one: Answer) -> dict[str, int]:
    """Kind of fault -> how often an answer has it."""
    symptom, called = one.symptom, one.patient.called
    start, lines = audit_guidance.parts(one.text)
    everything = [*symptom.self_care, *symptom.urgent, *symptom.track, *one.cautions]
    said = [s for s in everything if s.say in lines]
    against = [c.what for c in conflicts.of(said)]
    urgent = [s for s in said if s.level in ("911", "emergency", "today") and s in symptom.urgent]
    return {
        "opposed advice": sum(" against " in what for what in against)
        + sum(conflicts.opposes(s, rule) for s in said for rule in called),
        "two levels for one sign": sum(" and " in what for what in against)
        + sum(conflicts.outranked(s, called) for s in said),
        "takes for granted": sum(
            bool(presumptions.unfounded(text, one.patient.chart)) for text in (one.question, *lines)
        ),
        "a line twice": len(lines) - len(set(lines)),
        "opens with a lower level than a sign of the question": int(
            start != due_line(one, [*symptom.urgent, *called])
        ),
        "no red flag": int(not urgent),
    }


def of_ideals(shown: Facts, chart: Facts) -> Iterator[dict[str, int]]:
    """The faults of the ideal of each question that somebody with this chart may be asked."""
    called = composing.called_for(chart)
    for question in content.load_questions(ROOT / "run_files"):
        needs = question.needs is None or question.needs.holds(shown)
        if needs and not presumptions.unfounded(question.question, shown):
            yield ideal_faults(question, shown, chart, called)


def ideal_faults(
    question: Question, shown: Facts, chart: Facts, called: list[Caution]
) -> dict[str, int]:
    """Kind of fault -> how often an ideal has it, by the words of its lines."""
    symptom = content.symptom_of(question)
    cautions = guidance.cautions_for(symptom, shown)
    start, lines = audit_guidance.parts(guidance.ideal_for(question, cautions, chart))
    told = [c for c in cautions if c.say in lines]
    steps = {how.first_step for how in levels.LEVELS.values()} | {c.say for c in told}
    own = [conflicts.as_advice(line) for line in lines if line not in steps]
    against = [c.what for c in conflicts.of([*own, *told])]
    given = [*question.red_flags, *getattr(symptom, "urgent", ()), *cautions, *called]
    level = levels.highest(conflicts.level_of(sign, given) for sign in question.signs)
    return {
        "opposed advice": sum(" against " in what for what in against)
        + sum(conflicts.opposes(one, rule) for one in own for rule in called),
        "two levels for one sign": sum(" and " in what for what in against)
        + sum(bool(one.level) and conflicts.outranked(one, called) for one in own),
        "takes for granted": sum(bool(presumptions.unfounded(text, chart)) for text in lines),
        "a line twice": len(lines) - len(set(lines)),
        "opens with a lower level than a sign of the question": int(
            start != (levels.LEVELS[level].opening if level else "")
        ),
        "no red flag": int(not any(one.level for one in own)),
    }


def told_anyway(charts: list[context.Context]) -> str:
    """How many pairs of a chart and a question never trained on test a held-out caution."""
    questions = content.load_questions(ROOT / "run_files")
    pairs, first, some = 0, 0, 0
    for built in charts:
        called = composing.called_for(built.facts)
        for question in questions:
            symptom = content.symptom_of(question)
            rules = guidance.cautions_for(symptom, built.facts, called)
            needs = question.needs is None or question.needs.holds(built.facts)
            if needs and (rule := power.first(question, rules)):
                tested = anyway.tested(question, rules)
                pairs, first, some = pairs + 1, first + (rule not in tested), some + bool(tested)
    return (
        f"Of {pairs} pairs of a chart and a question never trained on that call for a caution "
        f"never trained on, the most severe is told anyway in {first}; {some} have one that counts."
    )


def due_line(one: Answer, sayings: list) -> str:
    """The line that an answer must open with."""
    signs = [s for p in one.symptom.phrasings if p.text == one.question for s in p.signs]
    level = levels.highest(conflicts.level_of(sign, sayings) for sign in signs)
    return levels.LEVELS[level].opening if level else ""


def of_content() -> Iterator[tuple[str, int]]:
    """What was looked for in the content itself, and how often it was there."""
    rules = list(CONTENT.cautions.values())
    pairs = [*self_care_pairs()]
    open_pairs = [name for name, sentences in pairs if sentences]
    yield f"of {len(pairs)} pairs of self-care and a finding: not covered", len(open_pairs)
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.charts import charts_that_fulfil

    opposed = [pair for pair in combinations(rules, 2) if conflicts.opposes(*pair)]
    yield (
        f"of {len(opposed)} pairs of opposed rules: can come together",
        sum(any(True for _ in charts_that_fulfil(a.when, b.when)) for a, b in opposed),
    )
    sayings = [*rules, *(line for s in CONTENT.symptoms.values() for line in s.urgent)]
    leveled = {sign for one in sayings if one.level for sign in one.signs}
    questions = content.load_questions(ROOT / "run_files")
    leveled |= {
        sign for q in questions for flag in q.red_flags if flag.level for sign in flag.signs
    }
    asked = {sign for q in questions for sign in q.signs}
    asked |= {sign for s in CONTENT.symptoms.values() for p in s.phrasings for sign in p.signs}
    yield "signs without a level", len(({*CONTENT.signs} | asked) - leveled)
    held_out = {s.id for s in CONTENT.symptoms.values() if s.held_out}
    never = holding_out.never_trained(questions, held_out)
    yield (
        "held-out rules that no never-trained question reaches",
        sum(
            rule.held_out and not any(guidance.bearing(rule, symptom) > 1 for symptom in never)
            for rule in rules
        ),
    )


def self_care_pairs() -> Iterator[tuple[str, list[str]]]:
    """Each symptom with a finding, and the harmful self-care that it is given all the same."""
    text = (Path(__file__).parent / "self_care_pairs.yaml").read_text(encoding="utf-8")
    for entry in yaml.safe_load(text):
        for symptom, chart in product(entry["symptoms"], entry["charts"]):
            known = made_up(**{"age": 60, "sex": "F"} | chart)
            rules = set(entry.get("rules", ()))
            yield (
                f"{symptom} {chart}",
                given(CONTENT.symptoms[symptom], entry["words"], known, rules),
            )


def given(symptom: Symptom, words: str, known: Facts, rules: set[str]) -> list[str]:
    """The self-care with these words that fits a chart; none where one of the rules is told."""
    told = guidance.cautions_for(symptom, known)[: composing.MOST_CAUTIONS]
    if not rules.isdisjoint(c.id for c in told):
        return []
    patient = composing.patient_of(known, known)
    return [
        line.say
        for line in (*symptom.self_care, *symptom.track)
        if re.search(words, line.say, re.IGNORECASE) and composing.fits(line, told, patient)
    ]


def worded(one: Answer) -> str:
    """An answer as it is read, with the rules behind it."""
    names = ", ".join(c.id for c in one.cautions) or "no rule"
    return f"## {one.symptom.id} ({names})\n? {one.question}\n{one.text}"


if __name__ == "__main__":
    sys.exit(main())
