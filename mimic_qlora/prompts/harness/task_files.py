"""Write a split's records as tasks of lm-evaluation-harness: a YAML and a JSONL file each."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimic_qlora.clinical.schema import Knowledge
from mimic_qlora.llm import chat
from mimic_qlora.prompts import record_files
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.step import errors, files, manifests, storage
from mimic_qlora.step.plain_text import in_markdown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OWN = Path(__file__).parent
FOLDERS = {"validation": "lm_eval", "test": "lm_eval_test"}  # by split, in the storage folder
README = """# Held-out records as tasks of lm-evaluation-harness

{n} documents of {split} patients, as JSONL with one YAML file a task: {tasks}. They are patients'
data like the records that they come from, and so are the samples that `--log_samples` writes.
docs/forgetting.md has the two commands (base, adapter) and how to compare what they leave.
"""
Document = dict[str, Any]


def write(
    store: Path,
    split: str,
    tokenizer: "PreTrainedTokenizerBase",
    knowledge: Sequence[Knowledge],
    force: bool = False,
) -> Path | None:
    """Write the tasks of a split into the storage folder; None where they are there already."""
    step = FOLDERS[split]
    inputs = {
        "prompts": storage.verified_manifest(store, "prompts")["id"],
        "knowledge": files.digest([one.model_dump(mode="json") for one in knowledge]),
        "template": chat.template_sha256(tokenizer),
        "tasks": files.digest([files.file_sha256(path) for path in sorted(OWN.glob("*.yaml"))]),
    }
    try:
        with storage.step_output(store, step, {"split": split}, inputs, force) as out:
            tasks = documents(store, split, tokenizer)
            tasks["knowledge"] = [of_knowledge(one) for one in knowledge]
            write_files(out.path, {name: rows for name, rows in tasks.items() if rows}, split)
    except errors.UpToDate:
        return None
    return store / step


def documents(
    store: Path, split: str, tokenizer: "PreTrainedTokenizerBase"
) -> dict[str, list[Document]]:
    """Return the documents of each task of step 4 that the harness can score."""
    tasks: dict[str, list[Document]] = {name: [] for name in MAKERS}
    for record in record_files.read(record_files.path_of(store, split)):
        if record.task in MAKERS:  # urgency is judged by probabilities, in step 7
            of_task = MAKERS[record.task](record, tokenizer)
            tasks[record.task].append(_asked(record, tokenizer) | of_task)
    return tasks


def _asked(record: PromptRecord, tokenizer: "PreTrainedTokenizerBase") -> Document:
    """Return what every document of a patient holds; `question_id` and `patient` are clusters."""
    system, user, answer = (chat.neutralise(tokenizer, t["content"]) for t in record.messages)
    question = record.kind or record.symptom or f"patient {record.subject_id}"
    asked = {"question_id": question, "patient": record.subject_id}
    return {**asked, "system": system, "user": user, "answer": answer}


def _guidance(record: PromptRecord, tokenizer: "PreTrainedTokenizerBase") -> Document:
    """Return what is supervised in training: the answer up to the token that ends it."""
    whole = chat.chat_text(tokenizer, record.messages)
    prompt = chat.chat_text(tokenizer, record.messages[:-1], add_generation_prompt=True)
    return {"supervised": whole.removeprefix(prompt).rstrip()}


def _chart_qa(record: PromptRecord, _: "PreTrainedTokenizerBase") -> Document:
    return {}


def _diagnoses(record: PromptRecord, _: "PreTrainedTokenizerBase") -> Document:
    return {"due": [criterion.tags for criterion in record.rubric]}


MAKERS: dict[str, Callable[[PromptRecord, "PreTrainedTokenizerBase"], Document]] = {
    "guidance": _guidance,
    "chart_qa": _chart_qa,
    "diagnoses": _diagnoses,
}


def of_knowledge(prompt: Knowledge) -> Document:
    """Return the document of a question without a patient."""
    patterns = [point.pattern for point in prompt.key_points]
    asked = {"question_id": prompt.id, "user": prompt.question, "answer": prompt.ideal.strip()}
    return {**asked, "patterns": patterns}


def write_files(folder: Path, tasks: dict[str, list[Document]], split: str) -> None:
    """Write each task's documents and YAML file, and what reads the documents."""
    for name, rows in tasks.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        shutil.copyfile(OWN / f"{name}.yaml", folder / f"{name}.yaml")
    shutil.copyfile(OWN / "documents.py", folder / "documents.py")
    names = ", ".join(f"mimic_{name}" for name in tasks)
    n = sum(map(len, tasks.values()))
    text = README.format(n=f"{n:,}", split=split, tasks=names)
    text += "".join(f"\n{in_markdown(one)}.\n" for one in manifests.study_sentences())
    (folder / "README.md").write_text(text, encoding="utf-8")
