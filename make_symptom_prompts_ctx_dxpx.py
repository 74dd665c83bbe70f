"""Step 4: make symptom prompts with the patient's context, diagnoses and procedures.

    python make_symptom_prompts_ctx_dxpx.py --model meta-llama/Meta-Llama-3-8B-Instruct

Leaves `prompts/` in the storage folder: chat records for training, validation and test as JSONL,
what each gold answer rests on, a card, and context.json with the settings that steps 5 to 7 share.
A prompt stands some days after a live discharge to home and shows only what the chart held at that
time, without the columns that step 3 found least important.
"""

import argparse
import csv
import json
from collections import Counter
from functools import partial
from pathlib import Path

from mimic_qlora import storage
from mimic_qlora.storage import UserError

SYSTEM_PROMPT = Path(__file__).parent / "run_files" / "system_prompt.txt"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        help="model that budgets the context in tokens: folder or hub name (default: the embedded one)",
    )
    parser.add_argument(
        "--pairs-per-subject", type=int, default=2, help="questions asked per patient (default: %(default)s)"
    )
    parser.add_argument("--max-total", type=int, help="at most this many records over all splits (default: no limit)")
    parser.add_argument(
        "--token-budget", type=int, default=700, help="tokens of the patient context (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=42, help="seed of days, symptoms and sentences (default: %(default)s)"
    )
    parser.add_argument("--preview", type=int, default=0, metavar="N", help="print the first N records (default: none)")
    storage.add_arguments(parser)
    args = parser.parse_args()
    storage.check_positive(args, "pairs_per_subject", "max_total", "token_budget")
    storage.check_range(args, "preview", 0, 1_000_000)
    return args


def main():
    args = arguments()
    store = storage.open_storage(args.storage)
    subjects_manifest = storage.read_manifest(store, "subjects")
    features_manifest = storage.read_manifest(store, "features")
    print(storage.data_line(subjects_manifest))

    from mimic_qlora import clinical, models

    path = models.model_path(args.model, store)
    system_prompt = SYSTEM_PROMPT.read_text(encoding="utf-8").strip()
    content = storage.digest([clinical.content_sha256(), system_prompt])
    settings = {k: getattr(args, k) for k in ("pairs_per_subject", "max_total", "token_budget", "seed")} | {
        "model": models.model_name(path)
    }
    inputs = {"subjects": subjects_manifest["id"], "features": features_manifest["id"], "clinical_content": content}
    with storage.step_output(store, "prompts", settings, inputs, args.force) as out:
        print(f"Tokenizer: {models.describe(path)}")
        tokenizer = models.load_tokenizer(path)
        shared = {
            "system_prompt": system_prompt,
            "token_budget": args.token_budget,
            "dropped_columns": dropped_columns(store),
            "seed": args.seed,
            "tokenizer": models.model_name(path),
            "model": models.model_name(path),
            "template_sha256": models.template_sha256(tokenizer),
        }
        storage.write_json(out.path / "context.json", shared)
        counts = make_records(store, out.path, shared, args, partial(models.count_tokens, tokenizer))
        out.manifest["counts"] = counts
        (out.path / "README.md").write_text(card(subjects_manifest, shared, counts), encoding="utf-8")
        report(counts)
        preview(out.path, args.preview)
    print(f"Wrote {store / 'prompts'}")


def dropped_columns(store: Path) -> list:
    """The columns that step 3 found least important, as "table.column"."""
    with open(store / "features" / "columns_least.csv", newline="", encoding="utf-8") as file:
        return sorted(row["column"] for row in csv.DictReader(file))


def make_records(store: Path, folder: Path, shared: dict, args, count_tokens) -> dict:
    """Write the records of every patient of the cohort, by split, and count who is left out and why."""
    from tqdm import tqdm

    from mimic_qlora import context, draws, facts, moments, splits, subjects

    split = subjects.split_of(store)
    labels = context.lab_labels(store)
    counts = {name: Counter() for name in ("cohort", "records", "symptoms", "cautions", "cut")}
    order = {s: rank for rank, s in enumerate(draws.order(split, "prompts", args.seed))}
    lines = []
    bar = tqdm(subjects.records(store, facts.WANTED, split), total=len(split), desc="patients", disable=None)
    for record in bar:
        subject_id = record["subject_id"]
        found = moments.of(record, args.seed)
        reason = "kept" if found else "no live discharge to home that a question could follow"
        counts["cohort"]["no coded stay" if not record["diagnoses_icd_labeled"] else reason] += 1
        if not found or not record["diagnoses_icd_labeled"]:
            continue
        built = context.build(record, found[-1].as_of, shared, labels, count_tokens)
        counts["cut"].update(built.cuts.keys())
        for number, made in enumerate(prompts_of(subject_id, found[-1], built, shared, split[subject_id], args)):
            lines.append(((number, order[subject_id]), made))
    # a limit takes whole rounds of patients in random order, so that it neither prefers nor splits neighbours
    lines = [made for _, made in sorted(lines, key=lambda line: line[0])][: args.max_total]
    if not any(made["split"] == "train" for made in lines):
        raise UserError(
            "no training prompt could be made: no patient has a coded stay that ended with a discharge to home"
        )
    for name in splits.SHARES:
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for made in lines:
                if made["split"] == name:
                    file.write(json.dumps(made, ensure_ascii=False, default=str) + "\n")
    counts["records"].update(made["split"] for made in lines)
    counts["symptoms"].update(made["symptom"] for made in lines)
    counts["cautions"].update(caution for made in lines for caution in made["cautions"])
    return {name: dict(sorted(counter.items())) for name, counter in counts.items()}


def prompts_of(subject_id: int, moment, built, shared: dict, split: str, args) -> list:
    """The records of one patient: different symptoms, those first for which the chart calls for a caution.

    The symptoms of the curated questions and the held-out caution rules stay out, so that step 7 can tell learning
    from copying.
    """
    from mimic_qlora import clinical, context, draws, guidance

    key = f"{args.seed}:{subject_id}"
    asked = [s for s in clinical.load().symptoms.values() if not s["held_out"]]
    called_for = {s["id"]: guidance.cautions_for(s, built.facts) for s in asked}
    trained = {i: [c for c in rules if not c["held_out"]] for i, rules in called_for.items()}
    asked.sort(
        key=lambda s: (
            not trained[s["id"]],
            len(called_for[s["id"]]) - len(trained[s["id"]]),
            draws.pick(f"{key}:{s['id']}", 1 << 30),
        )
    )
    made = []
    for symptom in asked[: args.pairs_per_subject]:
        cautions = trained[symptom["id"]][: guidance.MOST_CAUTIONS]
        question = symptom["phrasings"][draws.pick(f"{key}:{symptom['id']}:phrasing", len(symptom["phrasings"]))]
        answer = guidance.compose(symptom, trained[symptom["id"]], f"{key}:{symptom['id']}")
        made.append({
            "messages": [*context.messages(shared, built.text, question), {"role": "assistant", "content": answer}],
            "task": "guidance",
            "subject_id": subject_id,
            "hadm_id": moment.hadm_id,
            "as_of": str(moment.as_of),
            "split": split,
            "symptom": symptom["id"],
            "cautions": [c["id"] for c in cautions],
            "evidence": [{"caution": c["id"], **row} for c in cautions for row in guidance.evidence(c, built.facts)],
            "rubric": guidance.rubric(symptom, cautions),
        })  # fmt: skip
    return made


def report(counts: dict) -> None:
    print("\nPatients")
    for reason, n in counts["cohort"].items():
        print(f"  {n:>8,}  {reason}")
    print("Records")
    for name, n in counts["records"].items():
        print(f"  {n:>8,}  {name}")
    print(f"Symptoms: {len(counts['symptoms'])}; caution rules that a chart called for: {len(counts['cautions'])}")
    print(
        "Sections cut to quota or budget, in patients: "
        + (", ".join(f"{k} {n}" for k, n in counts["cut"].items()) or "none")
    )


def preview(folder: Path, n: int) -> None:
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()[:n]
    for line in lines:
        made = json.loads(line)
        print(f"\n=== subject_id {made['subject_id']} as of {made['as_of']}; supervised part between >>> and <<<")
        for turn in made["messages"]:
            mark = (">>>\n", "\n<<<") if turn["role"] == "assistant" else ("", "")
            print(f"[{turn['role']}]\n{mark[0]}{turn['content']}{mark[1]}")


def card(subjects_manifest: dict, shared: dict, counts: dict) -> str:
    """The dataset card: what these records are, how many, and what they must not be used for."""
    table = "\n".join(f"| {name} | {n} |" for name, n in counts["records"].items())
    return f"""# Symptom prompts

{storage.data_line(subjects_manifest)}.
Tokenizer: {shared["tokenizer"]}. Context budget: {shared["token_budget"]} tokens.

| split | records |
| --- | --- |
{table}

Each record is one patient at one time after a live discharge to home, a lay symptom question and a gold answer that
is put together from the clinical content files (`reviewed_by: null`: no clinician has reviewed them). No patient is in
two splits. The symptoms of the curated questions and the held-out caution rules are in none of the records.

Records that come from MIMIC-IV are credentialed data under its data use agreement: do not share them. They are for
research on this pipeline and must not be used to advise a patient.
"""


if __name__ == "__main__":
    storage.run(main)
