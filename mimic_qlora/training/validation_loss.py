"""Loss on the validation patients in comparable units: nats a token and bits a byte."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mimic_qlora.step import faults, files
from mimic_qlora.step.errors import UserError
from mimic_qlora.training.packing import Sample


class PatientLoss(NamedTuple):
    """Sums over the answers of one patient."""

    nats: float
    tokens: int  # supervised
    n_bytes: int  # of the answers in UTF-8
    new_nats: float = 0.0  # of lines that no training answer has
    new_bytes: int = 0  # of these

    def plus(self, other: "PatientLoss") -> "PatientLoss":
        """Return the sums over both."""
        return PatientLoss(
            self.nats + other.nats,
            self.tokens + other.tokens,
            self.n_bytes + other.n_bytes,
            self.new_nats + other.new_nats,
            self.new_bytes + other.new_bytes,
        )


class Nats(NamedTuple):
    """The loss of an answer, and that of its lines that no training answer has."""

    whole: float
    new: float


NONE = PatientLoss(0.0, 0, 0)
Losses = dict[int, PatientLoss]  # by subject_id


class Interval(NamedTuple):
    """An estimate with its 95% interval; `low` and `high` are nan where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class BitsPerByte:
    """The loss in bits a byte of the answers: of the base, of the adapter, adapter minus base."""

    base: Interval
    adapter: Interval
    difference: Interval


@dataclass(frozen=True)
class NewLines:
    """The same over the lines that stand in no training answer, and their share of all bytes."""

    share: float
    bits_per_byte: BitsPerByte


def by_patient(samples: Sequence[Sample], nats: Sequence[Nats]) -> Losses:
    """Sum the losses of samples by patient; those that only fill up are left out."""
    losses: Losses = {}
    for sample, loss in zip(samples, nats, strict=True):
        if sample.n_supervised:
            own = PatientLoss(
                loss.whole, sample.n_supervised, sample.n_bytes, loss.new, sample.n_new_bytes
            )
            losses[sample.patient] = losses.get(sample.patient, NONE).plus(own)
    return losses


def merged(parts: Sequence[Losses]) -> Losses:
    """Add up what several processes found."""
    losses: Losses = {}
    for patient, loss in (item for part in parts for item in part.items()):
        losses[patient] = losses.get(patient, NONE).plus(loss)
    return losses


def mean(losses: Iterable[PatientLoss]) -> float:
    """Return the mean loss in nats over all supervised tokens of patients."""
    found = list(losses)
    return sum(loss.nats for loss in found) / sum(loss.tokens for loss in found)


def place(folder: Path, step: int) -> Path:
    """Return the file of the validation after so many optimizer steps."""
    return folder / f"validation-{step}.json"


def write(folder: Path, step: int, losses: Losses) -> None:
    """Write the losses as JSON: subject_id -> [nats, tokens, bytes, and both of new lines]."""
    files.atomic_write(place(folder, step), json.dumps(losses))


def read(folder: Path, step: int) -> Losses:
    """Read what `write` wrote. Raises UserError when it is gone or damaged."""
    path = place(folder, step)
    try:
        rows = files.read_json(path)
        return {int(patient): PatientLoss(*row) for patient, row in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        if faults.of_the_machine(error):
            raise
        raise UserError(
            f"{path} is gone or damaged: run the same command again, which goes on from the last "
            "whole checkpoint before it, or anew"
        ) from None


def written_until(folder: Path, step: int) -> list[Path]:
    """Return the files of the validations up to a step."""
    found = {path: path.stem.removeprefix("validation-") for path in folder.glob("validation-*")}
    return sorted(path for path, n in found.items() if n.isdecimal() and int(n) <= step)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Return a ratio of sums over patients with its interval; none for a single patient.

    Linearised variance of a ratio estimator with t on n - 1 degrees of freedom (Cochran, Sampling
    Techniques, 6.4).
    """
    from scipy.stats import t

    n, total = len(numerators), sum(denominators)
    value = sum(numerators) / total
    if n < 2:
        return Interval(value, math.nan, math.nan)
    residual = sum((a - value * b) ** 2 for a, b in zip(numerators, denominators, strict=True))
    half = t.ppf(0.975, n - 1) * math.sqrt(residual * n / (n - 1)) / total
    return Interval(value, value - half, value + half)


def bits_per_byte(base: Losses, adapter: Losses) -> BitsPerByte:
    """Compare two validations of the same patients, in the same order."""
    before = [loss.nats / math.log(2) for loss in base.values()]
    after = [loss.nats / math.log(2) for loss in adapter.values()]
    return _compared(before, after, [loss.n_bytes for loss in base.values()])


def of_new_lines(base: Losses, adapter: Losses) -> NewLines | None:
    """Compare them on the lines that stand in no training answer; None where there is none."""
    pairs = [(a, b) for a, b in zip(base.values(), adapter.values(), strict=True) if a.new_bytes]
    if not pairs:
        return None
    before = [a.new_nats / math.log(2) for a, _ in pairs]
    after = [b.new_nats / math.log(2) for _, b in pairs]
    n_bytes = [a.new_bytes for a, _ in pairs]
    share = sum(n_bytes) / sum(loss.n_bytes for loss in base.values())
    return NewLines(share, _compared(before, after, n_bytes))


def _compared(
    before: Sequence[float], after: Sequence[float], n_bytes: Sequence[int]
) -> BitsPerByte:
    change = [b - a for a, b in zip(before, after, strict=True)]
    return BitsPerByte(ratio(before, n_bytes), ratio(after, n_bytes), ratio(change, n_bytes))
