"""The methods section of a paper, as far as the manifests of a storage folder can fill it.

What no manifest knows is left to the authors, in square brackets.
"""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mimic_qlora.clinical import content
from mimic_qlora.llm import embedded
from mimic_qlora.prompts import audit
from mimic_qlora.step import files, manifests, step_commands
from mimic_qlora.step.plain_text import inline
from mimic_qlora.step.version import VERSION
from mimic_qlora.study import runs
from mimic_qlora.summary.disclosure import HIDDEN
from mimic_qlora.validation import results
from mimic_qlora.validation.labelling import claims, remade

FIRST = ("subjects", "summary", "features", "prompts")  # the steps before training
_TASKS = {
    "guidance": "guidance on a symptom",
    "chart_qa": "questions about the chart",
    "diagnoses": "the diagnoses of a stay",
    "urgency": "the urgency of an emergency visit",
}


def text(store: Path) -> str:
    """Return the section, a paragraph a topic; one whose step is not done says so."""
    parts: dict[str, Callable[[Path], str]] = {
        "Data": _data,
        "Prediction-time columns": _features,
        "Training and validation records": _prompts,
        "Model and training": _training,
        "Evaluation": _evaluation,
        "Software and availability": _software,
    }
    return "\n\n".join(f"{title}. {inline(_told(tell, store))}" for title, tell in parts.items())


def _told(tell: Callable[[Path], str], store: Path) -> str:
    try:
        return tell(store)
    except (KeyError, TypeError, ValueError, AttributeError):  # a manifest of another version
        return "[The manifest does not say: to be filled in.]"


def _manifest(store: Path, step: str) -> Mapping[str, Any]:
    return manifests.read(files.linked_place(store / step)) or {}


def _stale(store: Path, step: str) -> str:
    """Return a note for each version of another step that a step was made from and is not told."""
    notes = []
    for name, was in (_manifest(store, step).get("inputs") or {}).items():
        now = _manifest(store, name).get("id") if name in step_commands.COMMANDS else was
        if was and now != was:
            notes.append(f"[{step} was made from another version of {name} than this tells of.] ")
    return "".join(notes)


def _missing(step: str) -> str:
    return f"[`{step_commands.plain_command(step)}` has not been run]"  # no path of this machine


def _data(store: Path) -> str:
    found = _manifest(store, "subjects")
    source, settings, split = (found.get(key) for key in ("source", "settings", "split"))
    if not (isinstance(source, dict) and isinstance(settings, dict) and isinstance(split, dict)):
        return _missing("subjects")
    named = source["version"]
    if source["kind"] == "synthetic":
        named = "a built-in synthetic hospital with the tables of MIMIC-IV (no real patient)"
    sample = settings.get("sample", 1.0)
    kept = "" if sample == 1 else f", a {sample:g} sample by seed {settings.get('seed')}"
    parts = ", ".join(f"{n:,} to {name}" for name, n in split.items())
    told = (
        f"We used {named}: {source['patients']:,} patients{kept}. Each patient is in one split "
        f"alone, drawn by a keyed hash of the identifier: {parts}. "
    )
    approval = "[Approval and data use agreement: to be filled in.]"
    return told + _flow(store) + _stale(store, "summary") + approval


def _flow(store: Path) -> str:
    """Return who was left out, from step 2, with its small counts hidden."""
    try:
        with open(store / "summary" / "flow.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        left = [
            f"{'some' if r['left_out'] == HIDDEN else r['left_out']} with {r['because']}"
            for r in rows
            if r["left_out"] not in "0"
        ]
        rest = rows[-1]["n"].replace(HIDDEN, "the others")
        if left and not _manifest(store, "summary")["settings"].get("min_cell"):
            return "[Who was left out: run step 2 without `--min-cell 0` or `1`.] "
        return f"Left out: {', '.join(left)}; {rest} remained. " if left else ""
    except (OSError, KeyError, IndexError, csv.Error):
        return ""


def _features(store: Path) -> str:
    """Return the method of step 3 without its number of patients: step 2 may hide that."""
    found = _manifest(store, "features")
    settings, columns = found.get("settings"), found.get("columns")
    if not isinstance(settings, dict) or not isinstance(columns, dict):
        return _missing("features")
    hours, seeds, margin = (settings[key] for key in ("landmark_hours", "seeds", "margin"))
    return (
        f"For {found.get('targets')} target diagnoses, XGBoost models were fitted on what was "
        f"known {hours:g} hours into each patient's first coded stay, {seeds} per target. "
        f"A column was left out of prompts when it did no better than its "
        f"shuffled shadow and refits without it ruled out a loss of AUROC of {margin:g}: "
        f"{columns.get('least', 0)} columns. {_stale(store, 'features')}"
    ).rstrip()


def _prompts(store: Path) -> str:
    found = _manifest(store, "prompts")
    settings, counts = found.get("settings"), found.get("counts")
    if not isinstance(settings, dict) or not isinstance(counts, dict):
        return _missing("prompts")
    splits = counts.get("splits", {})
    tasks = " and ".join(_TASKS.get(task, task) for task in settings["tasks"])
    parts = ", ".join(f"{splits.get(name, 0):,} for {name}" for name in splits)
    return (
        f"Records ask for {tasks}: {sum(splits.values()):,} ({parts}), at most "
        f"{settings['pairs_per_subject']} of a task per patient, each at one time and with what "
        f"the chart held at it, within {settings['token_budget']} tokens. Gold answers were "
        f"composed from content files written from public guidance, of which {content.reviewed()}. "
        + _stale(store, "prompts")
        + _audited(store)
    )


def _audited(store: Path) -> str:
    found = audit.kept(store)
    if found is None:
        return f"[`{step_commands.COMMANDS['prompts']} --audit` has not been run]"
    # not of how many patients: step 2 may hide that
    counted = ", ".join(f"{n:,} {what}" for what, n in found.counts.items() if what != "patients")
    return (
        f"Each statement was held against the chart by other code than wrote it "
        f"({counted}): {found.n_faults:,} faults."
    )


def _training(store: Path) -> str:
    found = {one.run: _manifest(store, f"adapters/{one.run}") for one in runs.of_storage(store)}
    found = {k: one for k, one in found.items() if one.get("results") and one.get("settings")}
    if not found:
        return _missing("adapters")
    first = next(iter(found))
    s = found[first]["settings"]
    base = s["base_model"]["name"]
    until = f"{s['max_steps']:,} steps" if s.get("max_steps") else f"epochs {s['epochs']:g}"
    said = [
        f"{base} was held in 4 bits (NF4, double quantisation); LoRA matrices of rank {s['rank']} "
        f"(alpha {s['alpha']:g}, dropout {s['dropout']:g}) on all linear layers were trained on "
        f"the answers' tokens: peak learning rate {s['lr']:g} (5% warm-up, then cosine), {until}, "
        f"{s['accumulate']} packed rows of {s['batch_tokens']:,} tokens a step, "
        f"optimizer {s['optimizer']}."
    ]
    others = [one["settings"] for one in found.values()]
    names = {name for other in others for name in {*s, *other} if other.get(name) != s.get(name)}
    if differ := sorted(names - {"seed"}):
        said.append(f"[So {first}; the runs differ in {', '.join(differ)}: to be filled in.]")
    for name, one in found.items():
        r, seed = one["results"], one["settings"]["seed"]
        # not of how many patients: less those of Table 1, they tell who has no record
        said.append(
            f"Run {name}, seed {seed}: {r['steps']} steps on {r['train_prompts']:,} records; loss "
            f"on {r['validation_prompts']:,} records of validation patients "
            f"{r['validation_loss_base']:.3f} (base) and {r['validation_loss_adapter']:.3f} nats a "
            f"token. {_stale(store, f'adapters/{name}')}"
        )
    if base == embedded.EMBEDDED_ORIGIN:
        said.append("[The built-in model is for trying things out, never for results.]")
    return " ".join(part.strip() for part in said)


def _evaluation(store: Path) -> str:
    newest, of = results.newest(store), runs.opened(store)
    if newest is None:
        return _missing("validation")
    lines = [line for line in results.read(newest) if line.kind == "trial"]
    arms = sorted({line.arm for line in lines})
    n_patients = len({line.subject_id for line in lines})
    splits = sorted({line.split for line in lines if line.split})
    frozen = _plan_of(newest)
    plan = f"by a plan frozen before (SHA-256 {frozen[:12]})" if frozen else "without a plan"
    others = f"[These are results of {other}.] " if (other := runs.of_other(store, newest)) else ""
    basis = claims.Basis.read(newest)
    if basis and basis.opened:  # it also says that the patients were opened before
        others += f"[{basis.opened}] "
    if basis and basis.described:
        others += f"[Nothing is claimed of them: {basis.described}.] "
    counted = (
        f"Looks at validation patients: {of.looks:,}; openings of the test patients: "
        f"{of.openings:,} (ledger). "
    )
    if of.asked:
        counted += f"Step 6 asked an adapter about {of.asked:,} of the test patients. "
    if of.stopped:
        counted += "[Patients of a stopped --batch of step 6 are not counted: let it go on.] "
    if of.fault:  # its counts would be zeros
        counted = f"[How often patients were looked at is not known: {of.fault}.] "
    return (
        f"{len({line.trial for line in lines}):,} trials, pairs of a patient and a curated "
        f"question, of {n_patients:,} {'/'.join(splits)} patients and "
        f"{len({line.question_id for line in lines})} questions were answered by {', '.join(arms)} "
        f"and scored by a rubric, {plan}. Differences are paired by question, with 95% intervals. "
        f"{_corrected(store, newest, basis)} {counted}{others}[Human labels and raters: to be "
        "filled in.]"
    )


def _corrected(store: Path, made: Path, basis: claims.Basis | None) -> str:
    """Return in a sentence by whose labels the differences of results are corrected, if at all."""
    rows = remade.figures_of(made)
    if not rows:
        reader = basis.reader if basis else "the reader of the run"
        said = f"Answers were read by {reader}; no labels correct the differences."
        if earlier := remade.in_earlier(store):
            said += f" [The earlier results {earlier.name} have labels, and these have none.]"
        return said
    if "labelled_by" not in rows[0]:  # of an earlier version
        return "They are corrected by labels (labelled.txt says whose)."
    said = (
        f"They are corrected by labels of {rows[0]['labelled']} answers of each arm or more "
        f"({rows[0]['labelled_by']})."
    )
    if not any(row["p_holm"] for row in rows):
        said += " [Nothing is claimed by these labels: labelled.txt says why.]"
    return said


def _plan_of(made: Path) -> str:
    """Return the hash of the frozen plan by which results were made; "" without one."""
    try:
        with open(made / "output.csv", newline="", encoding="utf-8-sig") as file:
            return next(csv.DictReader(file), {}).get("plan_sha256") or ""
    except OSError:
        return ""


def _software(store: Path) -> str:
    versions: dict[str, dict[str, None]] = {}  # package -> its versions, each once, in order
    own: dict[str, None] = {}
    study = None
    for step in (*FIRST, *(f"adapters/{one.run}" for one in runs.of_storage(store))):
        found = _manifest(store, step)
        for name, version in (found.get("versions") or {}).items():
            versions.setdefault(name, {})[version] = None
        own[found.get("software") or VERSION] = None
        study = found.get("study") or study
    named = ", ".join(f"{name} {' and '.join(found)}" for name, found in versions.items())
    told = f"mimic_qlora {' and '.join(own)}; {named}."
    if any(len(found) > 1 for found in (own, *versions.values())):
        told += " [Which step ran with which version: to be filled in.]"
    if isinstance(study, dict):
        told += f" All settings: {study.get('file')} (SHA-256 {str(study.get('sha256'))[:12]})."
    return told + " [Availability of code and data: to be filled in.]"
