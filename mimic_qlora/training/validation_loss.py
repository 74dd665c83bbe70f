"""Loss on the validation patients as a reader may compare it: nats a token and bits a byte, with an interval."""

import json
import math
from pathlib import Path


def by_patient(samples: list, sums: list[float]) -> dict:
    """patient -> [nats, supervised tokens, bytes of the answers], from the summed loss of each sample."""
    found: dict[int, list] = {}
    for sample, nats in zip(samples, sums, strict=True):
        if not sample.n_supervised:  # it only fills a place
            continue
        row = found.setdefault(sample.patient, [0.0, 0, 0])
        for i, amount in enumerate((nats, sample.n_supervised, sample.n_bytes)):
            row[i] += amount
    return found


def place(folder: Path, step: int) -> Path:
    return folder / f"validation-{step}.json"


def write(folder: Path, step: int, losses: dict) -> None:
    place(folder, step).write_text(json.dumps(losses), encoding="utf-8")


def read(folder: Path, step: int) -> dict:
    return json.loads(place(folder, step).read_text(encoding="utf-8"))


def ratio(numerators: list[float], denominators: list[float]) -> tuple[float, float, float]:
    """A ratio of sums and its 95% interval, with patients as the unit: (value, low, high); no interval for one patient.

    Linearised variance of a ratio estimator with t on n - 1 degrees of freedom (Cochran, Sampling Techniques, 6.4).
    """
    from scipy.stats import t

    n, total = len(numerators), sum(denominators)
    value = sum(numerators) / total
    if n < 2:
        return value, math.nan, math.nan
    residual = sum((a - value * b) ** 2 for a, b in zip(numerators, denominators, strict=True))
    half = t.ppf(0.975, n - 1) * math.sqrt(residual * n / (n - 1)) / total
    return value, value - half, value + half


def bits_per_byte(base: dict, adapter: dict) -> dict:
    """Bits a byte of the answers by the base, by the adapter, and their difference, each as [value, low, high]."""
    bits = {
        name: [row[0] / math.log(2) for row in rows.values()]
        for name, rows in (("a", base), ("b", adapter))
    }
    n_bytes = [row[2] for row in base.values()]
    change = [b - a for a, b in zip(bits["a"], bits["b"], strict=True)]
    return {
        "base": ratio(bits["a"], n_bytes),
        "adapter": ratio(bits["b"], n_bytes),
        "difference": ratio(change, n_bytes),
    }
