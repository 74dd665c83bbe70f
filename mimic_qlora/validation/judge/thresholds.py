"""The thresholds of a judge: fitted on written answers, frozen in a file, known by their hash."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation.judge import criteria

UNFITTED = 0.5


class Fit(BaseModel):
    """The threshold of one kind of criterion, and how it did on the answers that it was fitted to.

    `found` of `there` statements that hold were at least as probable, and `false_alarms` of
    `absent` that do not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float
    found: int
    there: int
    false_alarms: int
    absent: int


class Fitted(BaseModel):
    """The file of a judge's thresholds: by whom, with which words, on which answers, by kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    judge: str
    fingerprint: str
    wording: str  # criteria.WORDING
    answers_sha256: str
    kinds: dict[str, Fit]


class Thresholds(NamedTuple):
    """The threshold of each kind of criterion, and the hash of their file; None where unfitted."""

    of_kind: Mapping[str, float]
    sha256: str | None
    unfitted: Sequence[str]  # kinds that no written answer tells


def path_of(store: Path, fingerprint: str) -> Path:
    """Return the place of a judge's thresholds in the storage folder."""
    return store / "validation" / "judges" / f"{fingerprint}-{criteria.WORDING}.json"


def load(store: Path, fingerprint: str) -> Thresholds:
    """Return a judge's thresholds. A kind without one gets UNFITTED. Raises UserError if damaged.

    Those fitted with other words of the criteria are not these words' thresholds.
    """
    path, of_kind = path_of(store, fingerprint), dict.fromkeys(criteria.KINDS, UNFITTED)
    if not path.is_file():  # those until 2026-11-30 have the first 16 digits
        path = path_of(store, fingerprint[:16])
    if not path.is_file():
        return Thresholds(of_kind, None, criteria.KINDS)
    try:
        fitted = Fitted.model_validate_json(path.read_bytes())
    except ValidationError:
        fitted = None
    if (
        fitted is None
        or fitted.wording != criteria.WORDING
        or fitted.fingerprint not in (fingerprint, fingerprint[:16])
    ):
        raise UserError(
            f"{path} holds no thresholds of this judge: remove it and fit them anew with "
            "benchmarks/judge.py"
        )
    of_kind |= {kind: fit.threshold for kind, fit in fitted.kinds.items()}
    unfitted = [kind for kind in criteria.KINDS if kind not in fitted.kinds]
    return Thresholds(of_kind, files.file_sha256(path), unfitted)


def freeze(store: Path, fitted: Fitted, anew: bool = False) -> Path:
    """Write a judge's thresholds, to be read alone. Raises UserError when there are some already.

    `anew` lets them be fitted again; those of before stay beside them, as results name their hash.
    """
    path = path_of(store, fitted.fingerprint)
    files.private_folder(store / "validation")
    files.private_folder(path.parent)
    if path.exists() and not anew:
        raise UserError(
            f"the thresholds of {fitted.judge} were frozen before, in {path}: --force fits anew"
        )
    text = json.dumps(fitted.model_dump(), indent=1, sort_keys=True) + "\n"
    files.freeze(path, text.encode())
    return path


def fit(probabilities: Sequence[float], there: Sequence[bool]) -> Fit | None:
    """Return the threshold with the highest sensitivity + specificity (Youden, Cancer 3, 1950).

    It stands midway between two probabilities that were seen. None unless some statements hold and
    some do not.
    """
    n_there, n_absent = sum(there), len(there) - sum(there)
    if not n_there or not n_absent:
        return None
    seen = sorted(set(probabilities))
    candidates = [0.0, *((a + b) / 2 for a, b in zip(seen, seen[1:], strict=False)), 1.0]

    def at(threshold: float) -> Fit:
        pairs = list(zip(probabilities, there, strict=True))
        return Fit(
            threshold=threshold,
            found=sum(p >= threshold for p, holds in pairs if holds),
            there=n_there,
            false_alarms=sum(p >= threshold for p, holds in pairs if not holds),
            absent=n_absent,
        )

    def gain(fit: Fit) -> tuple[float, float]:
        # of equals, the one nearest to even odds
        youden = fit.found / n_there - fit.false_alarms / n_absent
        return youden, -abs(fit.threshold - UNFITTED)

    return max(map(at, candidates), key=gain)
