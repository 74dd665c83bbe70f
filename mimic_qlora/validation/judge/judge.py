"""The judge of a run: which model reads the answers, and what it found, kept by content."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimic_qlora.llm import chat, embedded, finding, generation, loading
from mimic_qlora.processes import entries
from mimic_qlora.processes.entries import Entry, Journal, Work
from mimic_qlora.step import files, manifests
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import answer_cache
from mimic_qlora.validation.judge import criteria, probabilities, thresholds
from mimic_qlora.validation.judge.criteria import Case
from mimic_qlora.validation.judge.thresholds import Thresholds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BASE, EMBEDDED = "base", "embedded"


@dataclass(frozen=True)
class Judge:
    """A model that reads answers: its folder, what it is known by, and its thresholds.

    `described` says why what rests on it may be described and not claimed; empty where nothing
    speaks against a claim.
    """

    path: Path
    identity: Mapping[str, Any]
    thresholds: Thresholds
    described: str

    @property
    def name(self) -> str:
        """Return the name of the model."""
        return finding.model_name(self.path)


def choose(name: str, store: Path, base: Path | None) -> Judge:
    """Return the judge that --judge names: "base", "embedded", a folder or a cached hub name.

    `base` is the folder of the model that the arms share; None where the judge is only measured.
    Raises UserError for an adapter, for a model tuned from the base, and for one that is not on
    this machine.
    """
    if (files.given_path(name) / "adapter_config.json").is_file():
        raise UserError(
            f"--judge {name} is an adapter, and an adapter judges its own answers: give another "
            "instruct model, whole"
        )
    if name == BASE and base is not None:
        path = base
    else:
        path = finding.model_path(None if name == EMBEDDED else name, store)
    fingerprint, judges_itself = finding.fingerprint(path), False
    if base is not None:
        judges_itself = fingerprint == finding.fingerprint(base)
        weights = finding.embeddings_fingerprint(path)
        if not judges_itself and weights and weights == finding.embeddings_fingerprint(base):
            raise UserError(
                f"--judge {name} was tuned from the same weights as {finding.model_name(base)}, "
                "which answers: give an instruct model of another family"
            )
    fitted = thresholds.load(store, fingerprint)
    import torch

    identity = {
        "fingerprint": fingerprint,
        "beside_weights": finding.beside_weights(path),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "computing": str(loading.compute_dtype()),  # CPUs differ in it
        "versions": manifests.versions(),
    }
    return Judge(path, identity, fitted, _described(path, judges_itself, fitted))


def _described(path: Path, judges_itself: bool, fitted: Thresholds) -> str:
    """Return why what this judge finds is not claimed about, as the end of a sentence."""
    if judges_itself:
        return "the base judges its own answers"
    if embedded.is_embedded(path):
        return "the embedded model is for trying things out"
    if fitted.unfitted:
        return f"its thresholds were not fitted for {', '.join(fitted.unfitted)}"
    return ""


def load(judge: Judge) -> "PreTrainedModel":
    """Return the model of a judge, in 4 bits, without an adapter."""
    from tqdm import tqdm

    tqdm.write(f"Loading the judge {judge.name}")
    return loading.unpacked(loading.load_base(judge.path))


def cache_of(judge: Judge, store: Path) -> Path:
    """Return the file of all that this judge has read."""
    return answer_cache.path_of(store, dict(judge.identity), "judgements")


def read(
    judge: Judge, cases: Sequence[Case], batch_size: int, journal: Journal, anew: bool = False
) -> list[list[float]]:
    """Return the probability that each statement on each case is true, as criteria.of lists them.

    Each distinct case is read once; what an earlier run read is taken from the cache, and each
    batch is on the disk before the next. The order of the cases changes nothing. `anew` reads all
    once more. Several processes share the batches.
    """
    from tqdm import tqdm

    path, team = journal
    if team.is_first:
        entries.begin(path, dict(judge.identity), anew)
    team.meet({"judge": files.digest(judge.identity)})
    known = entries.known_to(journal)
    asked = {criteria.key_of(case): case for case in cases}
    new = sorted(key for key in asked if key not in known)
    tokenizer, model = chat.load_tokenizer(judge.path), functools.cache(lambda: load(judge))
    fits = batch_size

    def make(keys: list[str]) -> list[Entry]:
        nonlocal fits
        talks = [criteria.conversations(asked[key]) for key in keys]
        groups = [probabilities.prompts(tokenizer, one) for one in talks]
        _check_room(judge, groups)
        found, fits = probabilities.of_yes(model(), tokenizer, groups, fits)
        return [{"key": key, "of_yes": of} for key, of in zip(keys, found, strict=True)]

    batches = generation.batches([_length(asked[key]) for key in new], batch_size)
    parts = [[new[row] for row in rows] for rows in batches]
    works = [Work(keys, keys, partial(make, keys)) for keys in parts]
    with tqdm(total=len(new), desc="answers judged", disable=None, leave=False) as bar:
        for done in entries.each(works, journal):
            known |= {entry["key"]: entry for entry in done.entries}
            bar.update(len(done.of))
    return [criteria.averaged(known[criteria.key_of(case)]["of_yes"]) for case in cases]


def _check_room(judge: Judge, groups: Sequence[probabilities.Group]) -> None:
    """Raise UserError where a prompt exceeds the judge's context length, or a layer's window.

    In a window, the padding of a batch would take the places of tokens.
    """
    length = finding.read_json(judge.path / "config.json").get("max_position_embeddings", math.inf)
    most = min(length, finding.attention_window(judge.path) or math.inf)
    endings = [ids for one in groups for ids in one.endings]
    longest = max(len(one.shared) for one in groups) + max(map(len, endings))
    if longest > most:
        raise UserError(
            f"the judge {judge.name} reads {most} tokens, and an answer with its record takes "
            f"{longest}: give another judge"
        )


def _length(case: Case) -> range:
    """Return what has the length of a case, in characters: cases of like length share a batch."""
    return range(len(case.record) + len(case.answer))
