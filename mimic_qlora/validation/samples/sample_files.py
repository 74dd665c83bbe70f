"""The files that lm-evaluation-harness leaves with --log_samples: one run, read and checked."""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError

DATE = r"(\d{4}-\d\d-\d\dT[\d.-]+)"
RESULTS = re.compile(rf"results_{DATE}\.json")
SAMPLES = re.compile(rf"samples_(.+)_{DATE}\.jsonl")
UNKNOWN = "quantisation unknown"
QUANTISED = ("load_in_4bit", "load_in_8bit")  # arguments by which older versions quantise


class Sample(NamedTuple):
    """One document as a model answered it; `scores` by the name of the metric.

    `question` and `patient` are the clusters that our own tasks name, None in others.
    """

    doc_hash: str
    prompt_hash: str
    scores: Mapping[str, float]
    question: str | None = None
    patient: str | None = None


class Task(NamedTuple):
    """The samples of a task by document, and its metrics in order: name -> higher is better."""

    samples: Mapping[str, Sample]
    metrics: Mapping[str, bool]


@dataclass(frozen=True)
class Ran:
    """One run: how the model was loaded and asked, and the samples by task."""

    folder: Path
    model: str  # the argument pretrained
    adapter: str  # the argument peft, "" without one
    precision: str
    asked: Mapping[str, str]  # what both runs must share, in words -> value
    tasks: Mapping[str, Task]
    passed_over: tuple[str, ...] = ()  # tasks of which the folder holds earlier runs alone
    incomplete: tuple[str, ...] = ()  # metrics that some documents of a task lack, in words
    lost: tuple[str, ...] = ()  # tasks of which not all documents are there, in words


def read(folder: Path) -> Ran:
    """Return the newest run in a folder that was given as --output_path.

    Raises UserError when it holds none, runs of several models, or no samples.
    """
    found = sorted(path for path in folder.rglob("results_*.json") if RESULTS.fullmatch(path.name))
    if not found:
        raise UserError(
            f"{folder} holds no results of lm-evaluation-harness: give a folder that was its "
            "--output_path"
        )
    places = sorted({str(path.parent) for path in found})
    if len(places) > 1:
        raise UserError(f"{folder} holds runs of several models: give {' or '.join(places)}")
    newest = found[-1]
    results = _json(newest)
    date = RESULTS.fullmatch(newest.name)
    assert date, "it was found by that name"
    tasks: dict[str, Task] = {}
    of_it, earlier = set(), set()
    incomplete: list[str] = []
    read_of: dict[str, int] = {}
    for path in sorted(newest.parent.glob("samples_*.jsonl")):
        match = SAMPLES.fullmatch(path.name)
        if match and match[2] == date[1]:
            of_it.add(match[1])
            found_in, lacking, read_of[match[1]] = _tasks(path, match[1], results)
            tasks |= found_in
            incomplete += lacking
        elif match:
            earlier.add(match[1])
    if not tasks:
        raise UserError(
            f"{newest.parent} holds no samples: run lm-evaluation-harness with --log_samples"
        )
    ran = _ran(newest, results, tasks)
    passed_over = tuple(sorted(earlier - of_it))
    lost = tuple(_lost(results, {*earlier} - of_it, read_of))
    return replace(ran, passed_over=passed_over, incomplete=tuple(incomplete), lost=lost)


def _lost(
    results: Mapping[str, Any], passed_over: Collection[str], read_of: Mapping[str, int]
) -> Iterator[str]:
    """Yield the tasks of which fewer documents are there than were asked: a copy may lack some."""
    asked = files.part_of(results, "n-samples")
    for name in sorted(asked.keys() - passed_over):
        n, found = files.part_of(asked, name).get("effective"), read_of.get(name, 0)
        if isinstance(n, int) and found < n:
            yield f"{name} ({found:,} of {n:,})"


def _json(path: Path) -> dict[str, Any]:
    try:
        found = files.read_json(path)
        parts = [found["config"], found.get("n-shot", {}), found.get("higher_is_better", {})]
        if all(isinstance(part, dict) for part in parts):
            return found
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise UserError(
        f"{path} cannot be read as results of lm-evaluation-harness: run it again, or give another "
        "folder"
    )


def _tasks(
    path: Path, name: str, results: Mapping[str, Any]
) -> tuple[dict[str, Task], list[str], int]:
    """Return the task of a file, or one for each filter of its answers where there are several;
    its metrics that some documents lack, and how many documents it has.
    """
    by_filter: dict[str, dict[str, Sample]] = {}
    names: dict[str, None] = {}
    where = ""
    try:
        better = results["higher_is_better"][name]
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if line:
                where = f", line {number}"
                row = json.loads(line.decode("utf-8"))
                names |= dict.fromkeys(row["metrics"])
                samples = by_filter.setdefault(str(row["filter"]), {})
                document = str(row["doc_id"])
                if document in samples:
                    raise UserError(f"{path} holds the document {document} twice: run it again")
                samples[document] = _sample(row)
    except UnicodeDecodeError:
        raise UserError(
            f"{path}{where}: this is not UTF-8 text: restore the file that lm-evaluation-harness "
            "wrote, or run it again"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path}{where} cannot be read as samples of lm-evaluation-harness: run it again"
        ) from None
    found, lacking = {}, []
    for used, samples in by_filter.items():
        task = name if len(by_filter) == 1 else f"{name} ({used})"
        n = {metric: sum(metric in one.scores for one in samples.values()) for metric in names}
        whole = [metric for metric in names if n[metric] == len(samples)]
        if any(n.values()):
            metrics = {metric: bool(better.get(metric, True)) for metric in whole}
            found[task] = Task(samples, metrics)
        lacking += [
            f"{metric} of {task} ({len(samples) - n[metric]:,} of {len(samples):,} lack it)"
            for metric in names
            if 0 < n[metric] < len(samples)
        ]
    return found, lacking, max(map(len, by_filter.values()), default=0)


def _sample(row: Mapping[str, Any]) -> Sample:
    doc = row["doc"]
    patient = doc.get("patient")
    question = doc.get("question_id") if patient is not None else None
    scores = {name: value for name in row["metrics"] if (value := score(row[name])) is not None}
    return Sample(
        str(row["doc_hash"]),
        str(row["prompt_hash"]),
        scores,
        None if question is None else str(question),
        None if patient is None else str(patient),
    )


def score(value: Any) -> float | None:
    """Return a metric of one document as a number; None where its value stands for no score.

    A pair is a log-likelihood in nats with a number of bytes or words: bits for each of these.
    Raises ValueError for a number that is not finite.
    """
    if isinstance(value, bool | int | float):
        if not math.isfinite(value):
            raise ValueError("a score is no number")
        return float(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        nats, size = value
        if all(isinstance(x, int | float) for x in value) and size > 0:
            return score(-float(nats) / math.log(2) / float(size))
    return None


def _ran(path: Path, results: Mapping[str, Any], tasks: Mapping[str, Task]) -> Ran:
    config = results["config"]
    arguments = _arguments(config.get("model_args"))
    model = arguments.get("pretrained", "")
    shots = results.get("n-shot", {})
    asked = {
        "chat template": results.get("chat_template_sha"),
        "system instruction": results.get("system_instruction_sha"),
        "few-shot examples": {name: shots[name] for name in sorted(shots)},
        "generation arguments": config.get("gen_kwargs"),
        "version of lm-evaluation-harness": results.get("lm_eval_version"),
        "versions of the tasks": results.get("versions"),
    }
    return Ran(
        folder=path.parent,
        model=model,
        adapter=arguments.get("peft", ""),
        precision=_precision(model, str(config.get("model_dtype")), arguments),
        asked={name: json.dumps(value, sort_keys=True) for name, value in asked.items()},
        tasks=tasks,
    )


def _arguments(given: Any) -> dict[str, str]:
    """Return the model's arguments, which are kept as a mapping or as text (a=1,b=2)."""
    if isinstance(given, Mapping):
        return {str(name): str(value) for name, value in given.items()}
    parts = (part.partition("=") for part in str(given or "").split(","))
    return {name: value for name, _, value in parts if value}


def _precision(model: str, dtype: str, arguments: Mapping[str, str]) -> str:
    """Return the number type of a model, and how it is quantised as far as that can be seen."""
    kind = dtype.removeprefix("torch.")
    quantised = [name for name in QUANTISED if arguments.get(name) == "True"]
    config = Path(model) / "config.json"
    if model and config.is_file():
        try:
            own = files.read_json(config).get("quantization_config") or {}
        except (OSError, ValueError, AttributeError):
            own = {}
        quantised += [name for name in QUANTISED if own.get(name)]
        method = own.get("quant_method")
        quantised += [str(method)] if method and not quantised else []
    if not quantised and not config.is_file():
        return f"{kind}, {UNKNOWN}"  # the model is no folder here
    return f"{kind}, {', '.join(dict.fromkeys(quantised)) or 'not quantised'}"
