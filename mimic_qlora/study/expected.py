"""What a study is expected to take: seconds, disk and GPU memory of each step.

Slopes were measured on two cores of an AMD EPYC without a GPU (benchmarks/README.md names the
commands). What runs on a GPU is computed from the model's shape, and time there only for training.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mimic_qlora.display import text_tables
from mimic_qlora.display.cells import Row
from mimic_qlora.display.text import size
from mimic_qlora.features.settings import FeatureSettings
from mimic_qlora.llm import finding
from mimic_qlora.mimic import tables
from mimic_qlora.step import limits, terminal
from mimic_qlora.step.errors import UserError
from mimic_qlora.study import commands
from mimic_qlora.study.study_file import EMBEDDED, StudyFile
from mimic_qlora.subjects import buckets, patients
from mimic_qlora.training import cost, recipes
from mimic_qlora.validation import plan as plans

MEASURED, COMPUTED, UNKNOWN = "measured", "computed", "not known"
GB = 1e9
# step 1: seconds a GB of CSV on two cores, half of them however few patients are kept
SECONDS_A_GB, READING = 19.0, 0.5
LEFT_OF_CSV, TAKEN_OF_CSV = 0.45, 0.77  # bytes of output, and at most while it works
SYNTHETIC_PATIENT = 20_000  # bytes of its CSV, unpacked
SUMMARY_GB = 0.6  # seconds of step 2 a GB, beside its start
SELECTED = 1.0  # seconds of step 3 a target and seed, 241 patients with a coded stay
CODED = 0.6  # share of patients who have one
KEPT = 0.65  # share of the records that a patient could give (82% open demo, 52% synthetic)
RECORD = 0.0017  # seconds of step 4, with chartevents
RECORD_BYTES = 7_000
BEYOND_CONTEXT = 200  # tokens of a record beside its context
CPU_TOKENS = 540  # a second, the embedded model on a CPU
START = {"subjects": 2, "summary": 3, "features": 5, "prompts": 5, "adapters": 45, "qa": 10}
VALIDATED = 1.2  # training and validations, to training
ANSWER_TOKEN = 0.015  # seconds a token of an answer, the embedded model on a CPU
ANSWER_BYTES = 10_000
MFU = 0.4  # of a GPU's peak, assumed
PEAKS = {"gpu_24gb": ("RTX 4090", 165e12), "gpu_80gb": ("A100", 312e12)}  # operations a second
SUPERVISED = 0.26  # share of the tokens
ROWS = 16  # answers generated at once
CRISES = 50  # prompts that --forgetting asks too


@dataclass(frozen=True)
class Expected:
    """What a step takes; `seconds` and `gpu_bytes` are None where nothing was measured."""

    step: str
    number: int
    seconds: float | None
    disk: float  # bytes that stay
    gpu_bytes: float | None  # 0 without a GPU
    basis: str  # MEASURED, COMPUTED or UNKNOWN, of the time
    at_work: float = 0  # bytes of disk at most while it works


@dataclass(frozen=True)
class Sizes:
    """The sizes that costs depend on."""

    csv: float  # bytes of all tables, unpacked
    patients: float  # that are kept
    share: float  # of all patients
    records: float  # of step 4
    recipe: str
    config: Mapping[str, Any] | None  # of the model; None of the embedded one

    @property
    def on_gpu(self) -> bool:
        """Return whether training and answering run on a GPU."""
        return self.recipe != "cpu"


def of_study(file: StudyFile, store: Path, root: Path) -> list[Expected]:
    """Return what each step is expected to take."""
    sizes = _sizes(file, store)
    return [*_of_data(file, sizes), _training(file, sizes, root), *_answers(file, sizes)]


def _sizes(file: StudyFile, store: Path) -> Sizes:
    study = file.study
    listed = 1.0
    if study.data.is_synthetic:
        everybody = float(study.data.synthetic_patients or 400)
        csv = everybody * SYNTHETIC_PATIENT
    else:
        csv, everybody, listed = _of_folder(file)
    share = listed * (study.data.sample or 1.0)
    tasks = len(study.prompts.tasks or (1, 2, 3))
    records = everybody * share * tasks * (study.prompts.pairs_per_subject or 2) * KEPT
    records = min(records, study.prompts.max_total or records)
    return Sizes(csv, everybody * share, share, records, _recipe(file), _config(file, store))


class _Folder(NamedTuple):
    """A folder of MIMIC-IV: its bytes, unpacked, its patients, and the share of them listed."""

    csv: float
    patients: float
    listed: float = 1.0


def _of_folder(file: StudyFile) -> _Folder:
    """Return the sizes of a MIMIC-IV folder; of the demo if there is none yet.

    Raises UserError for what step 1 would refuse in its patients, or in the list of those wanted.
    """
    folder, wanted = commands.mimic_of(file), file.study.data.subjects_file
    if not folder.exists():  # the demo is to be fetched
        return _Folder(0.11 * GB, 100)
    found = tables.find(folder, file.study.data.multiline or [])
    everybody = patients.read(found["patients"])
    listed = patients.listed(file.near(wanted), everybody) if wanted else everybody
    csv = float(sum(map(buckets.unpacked_bytes, found.values())))
    return _Folder(csv, float(len(everybody)), len(listed) / len(everybody))


def _recipe(file: StudyFile) -> str:
    """Return the recipe that the file names, else the one that this machine would take."""
    if file.study.training.recipe or file.study.training.device == "cpu":
        return file.study.training.recipe or "cpu"
    found = None if limits.gpus_hidden() else limits.gpus()
    return "gpu_24gb" if found and found.listed else "cpu"


def _config(file: StudyFile, store: Path) -> Mapping[str, Any] | None:
    """Return the model's config, None of the embedded one and where no cost can be computed."""
    if file.study.model == EMBEDDED:
        return None
    folder = finding.config_folder(commands.model_of(file), store)
    try:
        config = finding.read_json(folder / "config.json") if folder else None
        if config:
            cost.shape(config)
        return config
    except (UserError, KeyError, TypeError, ValueError):
        return None


def _of_data(file: StudyFile, sizes: Sizes) -> Iterator[Expected]:
    """Yield what steps 1 to 4 take, none of which needs a GPU."""
    csv, share = sizes.csv / GB, sizes.share
    seconds = csv * SECONDS_A_GB * (READING + (1 - READING) * share)
    left, taken = (sizes.csv * share * of for of in (LEFT_OF_CSV, TAKEN_OF_CSV))
    yield Expected("subjects", 1, START["subjects"] + seconds, left, 0, MEASURED, taken)
    yield Expected("summary", 2, START["summary"] + csv * share * SUMMARY_GB, 1e6, 0, MEASURED)
    features, default = file.study.features, FeatureSettings()
    fits = (features.seeds or default.seeds) * (features.n_targets or default.n_targets)
    larger = max(1.0, sizes.patients * CODED / 241)
    basis = MEASURED if larger < 1.5 else COMPUTED
    seconds = START["features"] + fits * SELECTED * larger
    yield Expected("features", 3, seconds, 1e6, 0, basis)
    yield Expected(
        "prompts",
        4,
        START["prompts"] + sizes.records * RECORD,
        sizes.records * RECORD_BYTES,
        0,
        MEASURED,
    )


def _training(file: StudyFile, sizes: Sizes, root: Path) -> Expected:
    """Return what step 5 takes for all its seeds."""
    training = file.study.training
    recipe = recipes.read_recipe(_name(file), root / "recipes")
    tokens = (file.study.prompts.token_budget or 700) + BEYOND_CONTEXT
    prompts = min(0.8 * sizes.records, training.limit or sizes.records)
    total = prompts * tokens * float(training.epochs or recipe.epochs or 1)
    if steps := training.max_steps or recipe.max_steps:
        row = training.batch_tokens or recipe.batch_tokens or 1536
        total = min(total, steps * row * (training.accumulate or recipe.accumulate or 1))
    runs, rank = len(training.runs), training.rank or 16
    if sizes.config is None or not sizes.on_gpu:
        basis = MEASURED if sizes.config is None and not sizes.on_gpu else UNKNOWN
        seconds = START["adapters"] + total / CPU_TOKENS * VALIDATED
        known = basis == MEASURED
        return Expected("adapters", 5, runs * seconds if known else None, runs * 25e6, 0, basis)
    shape = cost.shape(dict(sizes.config))
    gpu, peak = PEAKS.get(sizes.recipe, PEAKS["gpu_24gb"])
    flops = cost.flops_per_token(shape, rank, tokens / 2, SUPERVISED)
    flops += cost.recomputed_flops_per_token(shape, rank, tokens / 2, 2)
    seconds = START["adapters"] + total * flops / (MFU * peak) * VALIDATED
    row = training.batch_tokens or recipe.batch_tokens or 4096
    memory = cost.training_bytes(shape, rank, cost.Row(row, round(row * SUPERVISED)), 2)
    disk = runs * rank * shape.lora_per_rank * 4 * 1.1
    return Expected("adapters", 5, runs * seconds, disk, memory, f"{COMPUTED}, {gpu}")


def _name(file: StudyFile) -> str:
    """Return the recipe for `read_recipe`."""
    near = file.near(file.study.training.recipe or "")
    return str(near) if file.study.training.recipe and near.is_file() else _recipe(file)


def _answers(file: StudyFile, sizes: Sizes) -> Iterator[Expected]:
    """Yield what steps 6 and 7 take; no time of an answer on a GPU was measured."""
    asking, validation = file.study.asking, file.study.validation
    memory = 0.0 if not sizes.on_gpu or sizes.config is None else _answering_bytes(sizes.config)
    known = sizes.config is None and not sizes.on_gpu
    basis = MEASURED if known else UNKNOWN
    seconds = START["qa"] + 2 * (asking.max_new_tokens or 512) * ANSWER_TOKEN
    yield Expected("qa", 6, seconds if known else None, 1e4, memory, basis)
    trials = validation.n or (0 if validation.plan else 20)
    if plan := commands.plan_of(file):
        trials += plans.load(plan).n
    trials += CRISES if validation.forgetting else 0
    arms = max(2, len(validation.arms or ())) - 1 + len(file.study.training.runs)
    tokens = trials * arms * (validation.max_new_tokens or 512)
    seconds = 20 + tokens * ANSWER_TOKEN
    disk = trials * arms * ANSWER_BYTES
    yield Expected("validation", 7, seconds if known else None, disk, memory, basis)


def _answering_bytes(config: Mapping[str, Any]) -> float:
    """Return the GPU memory of answering: 4-bit weights, and keys and values of 16 rows."""
    shape = cost.shape(dict(config))
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    cached = 2 * 2 * shape.layers * head * (config.get("num_key_value_heads") or heads)
    return cost.fixed_bytes(shape, 0) + ROWS * 1_300 * cached


def free_bytes(store: Path) -> int:
    """Return what is free on the disk of a storage folder, which need not be there yet."""
    there = next(path for path in (store, *store.parents) if path.exists())
    return shutil.disk_usage(there).free


def in_words(found: Sequence[Expected], free: float) -> list[str]:
    """Return a table of what is expected, and what its figures rest on; `free` bytes of disk."""
    rows: list[Row] = [
        {
            "step": str(one.number),
            "folder": one.step,
            "time": "?" if one.seconds is None else duration(one.seconds),
            "disk": size(one.disk),
            "GPU memory": size(one.gpu_bytes) if one.gpu_bytes else "none",
            "basis": one.basis,
        }
        for one in found
    ]
    known: list[float] = [one.seconds for one in found if one.seconds is not None]
    more = "" if len(known) == len(found) else ", and what is not known"
    disk, at_work = sum([one.disk for one in found]), max([one.at_work for one in found])
    enough = "" if max(disk, at_work) < free else ": too little"
    told = [
        text_tables.text_table(rows, "Expected"),
        f"In all {duration(sum(known))}{more}; {size(disk)} stay on the disk, and step 1 takes up "
        f"to {size(at_work)} while it works ({size(free)} are free{enough}). "
        "Measured: on two idle cores without a GPU (benchmarks/README.md); a busy or slower "
        "machine takes two to four times as long. Computed: from the model's shape, or by the "
        "slope of smaller data. A step that is up to date takes seconds.",
    ]
    return [terminal.fitted(line, terminal.width()) for line in told]


def duration(seconds: float) -> str:
    """Return a time as people read it: "12 s", "5 min", "1.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
