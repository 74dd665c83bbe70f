"""Who reads the answers of a run: the patterns alone, or a judge with the patterns beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mimic_qlora.processes.entries import Journal
from mimic_qlora.validation.arms import PAIR, Arm
from mimic_qlora.validation.judge import as_readings, criteria, judge
from mimic_qlora.validation.judge.judge import Judge
from mimic_qlora.validation.scoring.readings import Readings
from mimic_qlora.validation.trial_results import COMPARED, TrialResult, TwinResult, scored

PATTERNS = "patterns"
Judged = TrialResult | TwinResult


@dataclass(frozen=True)
class Reader:
    """The reader of a run: the judge, or None for the patterns alone."""

    judge: Judge | None = None

    @property
    def name(self) -> str:
        """Return its name in results."""
        return self.judge.name if self.judge else PATTERNS

    @property
    def thresholds_sha256(self) -> str | None:
        """Return the hash of a judge's thresholds; None where there are none."""
        return self.judge.thresholds.sha256 if self.judge else None

    @property
    def described(self) -> str:
        """Return why nothing that it reads is claimed about, even with labels; "" otherwise."""
        return self.judge.described if self.judge else ""

    @property
    def phrase(self) -> str:
        """Return who read the answers, as a phrase."""
        return f"the judge {self.judge.name}" if self.judge else PATTERNS

    @property
    def in_words(self) -> str:
        """Return who read the answers, in a sentence."""
        if self.judge is None:
            return "The answers were read by patterns."
        of_file = self.thresholds_sha256
        fitted = f"thresholds {of_file[:12]}" if of_file else "no fitted thresholds, 0.5 for all"
        return f"The answers were read by the judge {self.name} ({fitted}), and by patterns beside."

    @property
    def why_not(self) -> str:
        """Return why a run claims nothing about what was read, as the end of a sentence."""
        if self.described:
            return f"{self.described} ({self.name})"
        who = f"the judge {self.name} errs" if self.judge else "the patterns err"
        return (
            f"how {who} in these answers is not known until people label some of them (label.csv, "
            "run_files/label.py)"
        )


def cases(results: Sequence[Judged]) -> list[criteria.Case]:
    """Return every answer of these results as a case for a judge, whatever its arm."""
    return [
        criteria.Case(r.trial.curated, r.cautions, r.trial.known.text, given.answer.text)
        for r in results
        for given in r.given.values()
    ]


def judged(
    results: Sequence[Judged], by: Judge, batch_size: int, journal: Journal, anew: bool
) -> Iterator[Judged]:
    """Yield the results as a judge reads them; what the patterns found stays beside it."""
    everything = cases(results)
    read = iter(zip(everything, judge.read(by, everything, batch_size, journal, anew), strict=True))
    for result in results:
        found: dict[Arm, Readings] = {}
        for arm in result.given:
            case, probabilities = next(read)
            found[arm] = as_readings.of(case, probabilities, by.thresholds)
        if isinstance(result, TrialResult):
            scores = scored(result.trial, result.given, found)
            yield replace(result, found=found, scores=scores, second=result.scores)
        else:
            yield replace(result, found=found)


def disagreement(results: Sequence[TrialResult]) -> list[str]:
    """Return on how many answers the judge and the patterns differ, in a sentence."""
    of = [result for result in results if result.second]
    if not of:
        return []
    parts = []
    for name, what in COMPARED.items():
        counts = [sum(result.readers_differ(arm, name) for result in of) for arm in PAIR]
        parts.append(f"{what} {counts[0]} and {counts[1]}")
    return [
        f"The judge and the patterns differ, of {len(of)} answers of base and adapter each, on "
        f"{'; '.join(parts)}. Such answers are drawn more often for labels."
    ]
