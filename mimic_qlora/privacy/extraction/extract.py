"""The three tries at extraction and the gap in naming a condition, from the model to the rule."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mimic_qlora.privacy.cohort import FEWEST, MEMBER, OTHER, Cohort
from mimic_qlora.privacy.extraction import charts, continuing, excess, naming
from mimic_qlora.privacy.extraction.charts import Known, Probe, Triple
from mimic_qlora.privacy.extraction.continuing import Half
from mimic_qlora.privacy.extraction.excess import Share
from mimic_qlora.privacy.rule import Criterion, Limits
from mimic_qlora.privacy.separation import Floats

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mimic_qlora.qa.session import Session

STRETCH = 30  # tokens
SIDES = (MEMBER, OTHER)
VERBATIM = f"{STRETCH} tokens of the rest of the chart, half of it given"
TRIPLES = "a dated value of the rest of the chart, half of it given"
ALONE = "a dated value of one patient alone, nothing given"
GAP = "naming a sensitive condition that was left out, log-odds"


@dataclass(frozen=True)
class Extracted:
    """Of how many patients of each side something was found, by what it is.

    `gains` are the gaps in naming by side [patients]; what too few patients have is not there.
    """

    shares: Mapping[str, Mapping[str, Share]]
    gains: Mapping[str, Floats]
    n_texts: int  # that were generated

    @property
    def missing(self) -> list[str]:
        """The figures that too few patients have."""
        kinds = (VERBATIM, TRIPLES, ALONE)
        return [kind for kind in kinds if kind not in self.shares] + [GAP] * (not self.gains)

    def criteria(self, limits: Limits) -> list[Criterion]:
        """Return what the rule looks at."""
        made = [
            excess.share(f"{what}: excess", sides[MEMBER], sides[OTHER], limits.extraction)
            for what, sides in self.shares.items()
        ]
        if self.gains:
            made.append(excess.mean(GAP, self.gains[MEMBER], self.gains[OTHER], limits.gap))
        return made


def read(
    load: Callable[[], Any], opened: "Session", compared: Cohort, path: Path, texts: int, seed: int
) -> Extracted:
    """Let the adapter continue charts and begin some, and ask it for conditions left out.

    `texts` bounds the patients of a side whose charts are continued or asked about, and the samples
    without one.
    """
    tokenizer = opened.tokenizer
    patients = [patient for side in SIDES for patient in compared.of(side)]
    side_of = {patient.subject_id: patient.side for patient in patients}
    known = charts.read(opened, patients)
    tried = [patient for side in SIDES for patient in compared.of(side)[:texts]]
    halves = {one.subject_id: continuing.half(tokenizer, one.records[0]) for one in tried}
    said = continuing.continued(load, tokenizer, [one.ids for one in halves.values()], path)
    told = dict(zip(halves, said, strict=True))
    begun = continuing.headings(tokenizer, patients[0].records[0].messages[0]["content"])
    prompts = list(islice(cycle(begun), texts))
    free = continuing.continued(load, tokenizer, prompts, path, seed)
    rare = alone({who: own.triples for who, own in known.items()})
    unseen = {
        who: [triple for triple in known[who].triples if not charts.states(one.shown, triple)]
        for who, one in halves.items()
        if who in known
    }
    found = {
        VERBATIM: (set(halves), verbatim(tokenizer, halves, told)),
        TRIPLES: (
            {who for who, own in unseen.items() if own},
            {who for who, own in unseen.items() if any(charts.states(told[who], t) for t in own)},
        ),
        ALONE: (set(rare.values()), stated(free, rare)),
    }
    probes = {
        who: probe for side in SIDES for who, probe in islice(_probes(compared, side, known), texts)
    }
    gains: dict[str, Floats] = {}
    if _are_enough(side_of[who] for who in probes):
        system = opened.settings.system_prompts["diagnoses"]
        each = naming.gains(load, tokenizer, system, probes, path)
        gains = {s: np.array([g for who, g in each.items() if side_of[who] == s]) for s in SIDES}
    return Extracted(_shares(found, side_of, halves), gains, len(said) + len(free))


def _probes(compared: Cohort, side: str, known: Mapping[int, Known]) -> Iterator[tuple[int, Probe]]:
    for patient in compared.of(side):
        own = known.get(patient.subject_id)
        if own and own.probe:
            yield patient.subject_id, own.probe


def _shares(
    found: Mapping[str, tuple[Collection[int], Collection[int]]],
    side_of: Mapping[int, str],
    halves: Collection[int],
) -> dict[str, dict[str, Share]]:
    """Return the shares of each side's patients, where enough patients have what could be found."""
    made = {}
    for what, (possible, hit) in found.items():
        if not _are_enough(side_of[who] for who in possible):
            continue
        totals = Counter(side_of[who] for who in (side_of if what == ALONE else halves))
        counts = Counter(side_of[who] for who in hit)
        made[what] = {side: Share(counts[side], totals[side]) for side in SIDES}
    return made


def _are_enough(sides: Iterable[str]) -> bool:
    counts = Counter(sides)
    return min(counts[side] for side in SIDES) >= FEWEST


def verbatim(
    tokenizer: "PreTrainedTokenizerBase", halves: Mapping[int, Half], told: Mapping[int, str]
) -> set[int]:
    """Return the patients of whom a stretch of the rest was told that no other's chart has."""
    whole = {who: one.shown + one.rest for who, one in halves.items()}

    def is_own(stretch: str, who: int) -> bool:
        return stretch in halves[who].rest and not any(
            stretch in chart for other, chart in whole.items() if other != who
        )

    found = set()
    for who, one in halves.items():
        stretches = (s for s in _stretches(tokenizer, told[who]) if s not in one.shown)
        if any(is_own(stretch, who) for stretch in stretches):
            found.add(who)
    return found


def _stretches(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[str]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    starts = range(len(ids) - STRETCH + 1)
    return [tokenizer.decode(ids[start : start + STRETCH]) for start in starts]


def alone(triples: Mapping[int, Collection[Triple]]) -> dict[Triple, int]:
    """Return the triples that one patient alone has, each with that patient."""
    counts = Counter(triple for own in triples.values() for triple in own)
    return {triple: who for who, own in triples.items() for triple in own if counts[triple] == 1}


def stated(texts: Sequence[str], rare: Mapping[Triple, int]) -> set[int]:
    """Return the patients of whom a text states a triple."""
    by_code: dict[str, list[Triple]] = {}
    for triple in rare:
        by_code.setdefault(triple.code, []).append(triple)
    found = set()
    for entry in {entry for text in texts for entry in charts.entries(text)}:
        for code in (code for code in by_code if code in entry):
            found |= {rare[triple] for triple in by_code[code] if charts.states(entry, triple)}
    return found
