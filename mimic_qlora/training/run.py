"""One run of step 5: from settings to the adapter's folder.

What trains is imported when it trains: peft and bitsandbytes take seconds, which no refusal needs.
"""

import contextlib
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mimic_qlora.llm import chat, finding
from mimic_qlora.processes import environment, meeting
from mimic_qlora.step import durable, ending, errors, faults, files, manifests, storage
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.manifests import Manifest
from mimic_qlora.subjects.manifest import Source, data_line, subjects_manifest
from mimic_qlora.training import data, hardware, packing
from mimic_qlora.training.encoding import new_lines
from mimic_qlora.training.memorisation import canaries
from mimic_qlora.training.settings import DRAFT, Job, damaged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mimic_qlora.training import adapter_folder, loop

TRIAL = 100  # optimizer steps: minutes of a GPU; the demo takes 82
_OF_A_RUN = re.compile(  # the names in its work folder
    r"\..*|draft\.json|about\.json|validation-\d+\.json|whole|tensorboard|(tmp-)?checkpoint-\d+"
)


@dataclass(frozen=True)
class Run:
    """A job whose inputs were found: the data, the base model and the place of the adapter."""

    job: Job
    store: Path
    place: Path  # the adapter's folder
    model: Path  # the base model's folder
    tokenizer: "PreTrainedTokenizerBase"
    base: data.BaseModel
    source: Source  # the data of step 1
    manifest: dict[str, Any]  # of the adapter, as far as it is known before the run

    @property
    def step(self) -> str:
        """The adapter's folder as the manifest names it."""
        return f"adapters/{self.job.run}"

    @property
    def work(self) -> Path:
        """The folder of the checkpoints, which outlives an interruption."""
        return self.place.with_name(f".{self.place.name}.training")


def train_one(job: Job) -> None:
    """Train one adapter into its folder.

    One that the folder holds already is not trained again. Raises UserError for what the user can
    fix.
    """
    run = open_run(job)
    agree(run)
    if not hardware.is_main():
        train_along(run)
        return
    options = ending.Options(job.storage, job.model, job.run)
    with (
        ending.told(run.step, run.store, options, "curves.png"),
        storage.locked(run.place, run.step),
    ):
        storage.recover(run.place)
        storage.refuse_other_output(run.store, run.step)
        stop_if_up_to_date(run)
        check_replaced(run)
        samples = read_samples(run)
        data.describe(samples, run.tokenizer)
        if job.preview:
            print(packing.mark_supervised(run.tokenizer, samples["train"][0]))
        from mimic_qlora.training import adapter_folder

        started = time.time()
        open_work(run)
        hardware.wait_for_all()
        print("Loading the model", flush=True)
        trained = train(run, samples)
        results = adapter_folder.results(trained.state, samples, run.work)
        put_in_place(run, trained, results, started)
        adapter_folder.report(results)


def open_run(job: Job) -> Run:
    """Find the inputs of a job and say which they are. Raises UserError for those that are not."""
    store = storage.open_storage(job.storage)
    subjects = subjects_manifest(store)
    prompts = storage.verified_manifest(store, "prompts")
    model = finding.model_path(job.model, store)
    if hardware.is_main():
        print(data_line(subjects["source"]))
        print(finding.describe(model))
        print(f"Recipe: {job.recipe}")
        if alone := environment.alone():
            print(alone)
    if (without_gpu := hardware.check_driver()) and hardware.is_main():
        print(without_gpu)
    hardware.check_sharding(job.recipe)
    environment.check_meets_at()
    tokenizer = chat.load_tokenizer(model)
    base = data.check_model(store, model, tokenizer)
    settings = job.settings.identity() | {"base_model": asdict(base)}
    step = f"adapters/{job.run}"
    place = files.output_place(store, step)
    inputs = {"prompts": prompts["id"]}
    if n := job.settings.canaries:
        if hardware.is_main():
            with storage.locked(place, step):  # a run that trains into it has read the present ones
                check_canaries(job, store, prompts["id"])
                canaries.make(store, n, prompts["id"])
        hardware.wait_for_all()
        inputs["canaries"] = storage.verified_manifest(store, canaries.STEP)["id"]
    identity = manifests.new_manifest(step, settings, inputs)
    how = {"base_model": asdict(base), "recipe": job.recipe, "processes": hardware.n_processes()}
    manifest = {**identity, **how}
    source = subjects["source"]
    return Run(job, store, place, model, tokenizer, base, source, manifest)


def check_canaries(job: Job, store: Path, prompts_id: str) -> None:
    """Raise UserError where the run would replace the canaries of a finished adapter.

    A storage folder holds one set of them. Those on other prompts serve no adapter any more.
    """
    n = job.settings.canaries
    asked = canaries.manifest(n, prompts_id)
    found = manifests.read(store / canaries.STEP)
    if not found or found["inputs"] != asked["inputs"] or manifests.is_same_run(found, asked):
        return
    on_them = manifests.adapters_on(store, canaries.STEP)
    kept = [run for run in on_them if not _is_trial(manifests.read(store / "adapters" / run) or {})]
    if kept and not job.replace_adapter:
        before = found["settings"].get("n")
        same = "" if before == n else f"--canaries {before}, "
        raise UserError(
            f"{store / canaries.STEP} holds the {before} canaries of the finished adapter "
            f"{', '.join(kept)}, which this run would replace: give {same}another --storage, or "
            "--replace-adapter if that is meant"
        )


def agree(run: Run) -> None:
    """Let the processes of a run agree on what they train, before they wait for each other.

    Processes with another rate of learning would train apart without a word. Raises UserError.
    """
    with meeting.joined(run.store) as team:
        if hardware.gpu():
            environment.take_gpu()
        team.meet(
            {
                "version of the software": files.digest(manifests.versions()),
                "model": run.base.fingerprint + run.base.computing,
                "set of prompts": files.digest(run.manifest["inputs"]),
                "set of arguments": files.digest([asdict(run.job.settings), run.job.run]),
            }
        )


def stop_if_up_to_date(run: Run) -> None:
    """Raise UpToDate when the adapter's folder already holds what this run would write."""
    if run.job.force:
        return
    try:
        storage.stop_if_up_to_date(run.place, cast(Manifest, run.manifest))
    except errors.UpToDate:
        # a kill came between the end of the run and its tidying up
        with contextlib.suppress(UserError):
            # the draft goes last, and then the folder
            if manifests.is_same_run(draft_of(run.work) or run.manifest, run.manifest):
                remove_work(run.work)
        raise


def check_replaced(run: Run) -> None:
    """Raise UserError where the run would replace a finished adapter that is another one.

    That of a trial gives way without being asked for, which is said. Raises OSError where it cannot
    be read now which one it is.
    """
    manifests.check_readable(run.place)
    found = manifests.read(run.place)
    if not found or manifests.is_same_run(found, run.manifest) or run.job.replace_adapter:
        return
    steps = _steps(found)
    which = "finished" if steps is None else f"of {steps:,} optimizer steps"
    holds = (
        f"{run.place} holds an adapter ({which}) of other {_changed(found, run.manifest)}, which "
        "this run"
    )
    if not _is_trial(found):
        raise UserError(
            f"{holds} would replace: give another --run to train beside it, or --replace-adapter "
            "if that is meant"
        )
    print(f"note: {holds} replaces at its end: to keep it, stop and choose another --run")


def _steps(manifest: dict[str, Any]) -> int | None:
    """Return how long an adapter was trained, None where its manifest does not tell."""
    steps = files.part_of(manifest, "results").get("steps")
    return steps if isinstance(steps, int) else None


def _is_trial(manifest: dict[str, Any]) -> bool:
    steps = _steps(manifest)
    return steps is not None and steps <= TRIAL


def train_along(run: Run) -> None:
    """Train as one of several processes, of which another writes."""
    if not run.job.force and manifests.up_to_date(run.place, cast(Manifest, run.manifest)):
        return
    samples = read_samples(run)  # the first process encodes them, before any collective operation
    hardware.wait_for_all()
    train(run, samples)


def read_samples(run: Run) -> packing.Split:
    """Read the prompts, check their split and encode them, or find them encoded.

    The lines of validation answers that no training answer has are marked.
    """
    settings = run.job.settings
    samples = data.read_samples(
        data.Wanted(run.store, run.model, run.tokenizer, settings.max_length, settings.limit)
    )
    if settings.canaries:
        planted = canaries.read(run.store)
        if hardware.is_main():
            print(canaries.in_words(planted))
        train = [*samples["train"], *canaries.samples(run.tokenizer, planted)]
        samples = {**samples, "train": train}
        data.check_lengths(samples, settings.max_length)
    return new_lines.mark(samples, run.tokenizer)


def train(run: Run, samples: packing.Split) -> "loop.Trained":
    """Train on samples, from the last checkpoint in the work folder to the end."""
    from mimic_qlora.training import loop

    job = run.job
    return loop.train(job.settings, run.model, run.base.name, samples, run.work, job.save_minutes)


def put_in_place(
    run: Run, trained: "loop.Trained", results: "adapter_folder.Results", started: float
) -> None:
    """Write the adapter's folder as a whole and remove the work folder."""
    from mimic_qlora.training import adapter_folder

    manifest = run.manifest | {"results": asdict(results), "training": asdict(trained.setup)}
    card = adapter_folder.card(run.base, results, manifest, run.source)
    title = f"{run.job.run}, an adapter of {run.base.name}"
    folder = adapter_folder.write(
        run.work, run.tokenizer, trained.state, trained.setup, card, title
    )
    finished = manifests.finish_manifest(folder, manifest, started, run.place)
    files.write_json(folder / manifests.NAME, finished)
    durable.sync(folder)
    storage.replace_folder(folder, run.place)
    files.sync_entry(run.place.parent)
    remove_work(run.work)


def draft_of(work: Path) -> dict[str, Any]:
    """Return the manifest of the unfinished run in a folder; empty when there is none.

    Raises UserError when it is damaged, or gone from beside its checkpoints.
    """
    path = work / DRAFT
    if not path.exists() and not any(work.glob("checkpoint-*")):
        return {}
    try:
        draft = files.read_json(path)
        _compared(draft, draft)
        return draft
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        if faults.of_the_machine(error):
            raise
        raise damaged(path) from None


def _keep_own(work: Path) -> None:
    """Put beside the adapter what somebody keeps among its checkpoints, as a copy of one."""
    own = [p for p in sorted(work.iterdir()) if not (p.is_symlink() or _OF_A_RUN.fullmatch(p.name))]
    if own:
        place = work.with_name(work.name[1:].removesuffix(".training"))
        kept = files.gathered(own, work, place)
        print(f"note: {work} held {', '.join(p.name for p in own)}: now in {kept}", flush=True)


def remove_work(work: Path) -> None:
    """Remove the folder of a run that ended or is dropped, but for what somebody keeps in it.

    Its draft goes last: a kill leaves what tells whose it is.
    """
    if not work.is_dir():
        return
    _keep_own(work)
    for path in work.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != DRAFT:
            path.unlink()
    shutil.rmtree(work)


def open_work(run: Run) -> None:
    """Open the folder of the checkpoints.

    Raises UserError when it holds those of an unfinished run with other settings, or of another
    number of processes, whose steps are others, and when it is a link.
    """
    work, manifest = run.work, run.manifest
    if work.is_symlink():
        raise UserError(
            f"{work} is a link, and an adapter is written on the disk where it stays: put the "
            "folder itself there, or give another --run"
        )
    if run.job.force:
        remove_work(work)
    before = draft_of(work)
    other = not manifests.is_same_run(before, manifest) or _processes(before) != _processes(
        manifest
    )
    ended = manifests.is_same_run(manifests.read(run.place) or {}, before)
    abandoned = ended or not before or not any(work.glob("checkpoint-*"))
    if other and abandoned:
        remove_work(work)
    elif other:
        raise UserError(
            f"{work} holds an unfinished run with other {_changed(before, manifest)}: go on with "
            "the same, choose another --run, or give --force to drop it"
        )
    work.mkdir(mode=0o700, exist_ok=True)
    if other:  # else checkpoints are sealed with the one that is there
        files.write_json(work / DRAFT, manifest)


def _processes(manifest: dict[str, Any]) -> int:
    return int(manifest.get("processes", 1))  # manifests until 2026-11 lack it


def _compared(*runs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what decides how each of two runs trains."""
    return [
        {**settings, "prompts": run["inputs"]["prompts"], "processes": _processes(run)}
        for settings, run in zip(manifests.comparable_settings(*runs), runs, strict=True)
    ]


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Word which settings of two runs differ."""
    try:
        old, new = _compared(before, now)
        names = [name for name in new if new[name] != old.get(name)]
    except (KeyError, TypeError, AttributeError):  # a manifest that is damaged
        names = []
    return f"settings ({', '.join(names) or 'software version'})"
