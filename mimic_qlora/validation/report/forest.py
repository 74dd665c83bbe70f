"""The differences of a comparison as a forest plot: an SVG that is as wide as its page.

Places along the scale are percentages of the width, so that texts keep their size on any screen.
Right is better for every metric, also for those of which less is better.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mimic_qlora.validation import findings
from mimic_qlora.validation.findings import Comparison
from mimic_qlora.validation.statistics import Difference

REACHES = (0.1, 0.2, 0.5, 1.0)  # ends of the scale that read well
LEFT, RIGHT = 2.0, 98.0  # where the scale ends, in percent of the width


class Line(NamedTuple):
    """A metric: its name and numbers, and its interval along the scale, in percent of the width.

    `kind` is "better", "worse" or "open": where the interval holds 0.
    """

    name: str
    more_is_better: bool
    part: bool  # of the metric above it
    numbers: str
    claimed: bool
    low: float
    mean: float
    high: float
    kind: str

    @property
    def label(self) -> str:
        """The name, with a word where less is better."""
        return self.name if self.more_is_better else f"{self.name} (less is better)"


class Tick(NamedTuple):
    """A mark of the scale: its place in percent of the width, and its text."""

    place: float
    text: str


class Forest(NamedTuple):
    """All that is drawn."""

    lines: Sequence[Line]
    ticks: Sequence[Tick]


def of(comparison: Comparison) -> Forest:
    """Return the metrics that have an interval, drawn to one scale."""
    differences, adjusted, metrics = comparison
    found = {
        name: d
        for name in metrics
        if (d := differences.get(name)) and d.low is not None and d.high is not None
    }
    ends = [min(1.0, abs(x)) for d in found.values() for x in (d.low, d.high) if x is not None]
    reach = next(r for r in REACHES if r >= max(ends, default=0))

    def place(value: float) -> float:
        inside = max(-reach, min(reach, value))
        return round((LEFT + RIGHT) / 2 + inside / reach * (RIGHT - LEFT) / 2, 2)

    lines = []
    for name, d in found.items():
        label, up = metrics[name]
        ends_and_mean = (x for x in (d.low, d.mean, d.high) if x is not None)
        low, mean, high = sorted(place(x if up else -x) for x in ends_and_mean)
        numbers = f"{findings.signed(d.mean)} {findings.interval(d)}"
        lines.append(
            Line(
                label.strip(),
                up,
                label.startswith(" "),
                numbers,
                name in adjusted,
                low,
                mean,
                high,
                _kind(d, up),
            )
        )
    marks = (-reach, -reach / 2, 0.0, reach / 2, reach)
    return Forest(lines, [Tick(place(mark), f"{mark:+.2g}" if mark else "0") for mark in marks])


def _kind(d: Difference, up: bool) -> str:
    if d.low is None or d.high is None or d.low <= 0 <= d.high:
        return "open"
    return "better" if (d.mean > 0) == up else "worse"
