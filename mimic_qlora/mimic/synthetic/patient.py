"""The synthetic patients: age, sex, conditions, drugs taken at home, effects on labs and vitals."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from random import Random

from mimic_qlora.mimic.synthetic.book import weighted
from mimic_qlora.mimic.synthetic.vocabulary import Entry, Vocabulary

LAST_DAY = datetime(2022, 12, 1)

Codes = dict[int, list[str]]  # version of the ICD, 9 or 10 -> codes


@dataclass
class Patient:
    """One made-up person, whose charts carry times moved by `shift`, as those of MIMIC do."""

    rng: Random
    subject_id: int
    sex: str
    age: int  # at the anchor
    anchor_year: int
    year_group: str
    start: datetime  # first contact, not shifted
    shift: timedelta
    conditions: dict[str, Codes]  # by name
    drugs: list[str]  # taken at home
    avoid: set[str]  # drugs never given
    lab_shift: dict[str, float]  # lab -> standard deviations
    inches: float
    bmi: float  # kg/m2
    sbp: float  # mmHg
    hr: float  # beats a minute
    payer: str
    lab_habit: dict[str, float] = field(default_factory=dict)  # lab -> standard deviations
    last_poe: int = 0
    last_emar: int = 0
    dod: date | None = None

    def next_poe(self) -> int:
        """Return the sequence number of the next order; numbers have gaps, as the real ones."""
        self.last_poe += self.rng.choice((1, 1, 1, 2, 5))
        return self.last_poe


def new_patient(words: Vocabulary, rng: Random, subject_id: int, coded: bool) -> Patient:
    """Draw a patient; those with a coded stay (`coded`) have more conditions."""
    sex = "F" if rng.random() < 0.53 else "M"
    ages = (rng.gauss(66, 14), rng.gauss(66, 14), rng.gauss(38, 14))
    age = int(min(max(rng.choice(ages), 18), 97))
    group = rng.choices(words.hospital["year_groups"], words.hospital["year_group_weights"])[0]
    start = datetime(int(group[:4]), 1, 1) + timedelta(days=rng.random() * 1090)
    start = min(start, LAST_DAY - timedelta(days=40))
    anchor_year = rng.randrange(2110, 2186)
    shift = timedelta(days=round((anchor_year - start.year) * 365.25))
    conditions = chronic_conditions(words, rng, sex, age, burden=1.25 if coded else 0.8)
    held = [one for one in words.conditions if one["name"] in conditions]
    avoid = {drug for one in held for drug in one.get("avoid", ())}
    drugs = home_drugs(words, rng, held, avoid)
    effects = words.hospital["drug_effects"]
    lab_shift: dict[str, float] = {}
    for shifts in [one.get("labs", {}) for one in held] + [effects.get(drug, {}) for drug in drugs]:
        for key, amount in shifts.items():
            lab_shift[key] = lab_shift.get(key, 0) + amount
    added = {key: sum(one.get(key, 0) for one in held) for key in ("bmi", "sbp", "hr")}
    return Patient(
        rng,
        subject_id,
        sex,
        age,
        anchor_year,
        group,
        start,
        shift,
        conditions,
        drugs,
        avoid,
        lab_shift,
        inches=round(rng.gauss(63.5 if sex == "F" else 69, 2.6) * 4) / 4,
        bmi=max(17, rng.gauss(25.5, 3.2) + added["bmi"]),
        sbp=rng.gauss(120, 9) + added["sbp"],
        hr=rng.gauss(78, 8) + added["hr"],
        payer=weighted(rng, words.hospital["insurance"]["old" if age >= 65 else "young"])[0],
    )


def chronic_conditions(
    words: Vocabulary, rng: Random, sex: str, age: int, burden: float
) -> dict[str, Codes]:
    """Draw the conditions that a patient has, and how they are coded."""
    held: dict[str, Entry] = {}
    for one in words.conditions:
        chance = burden * one["share"] / (1 + math.exp((one["mid"] - age) / one["width"]))
        chance *= one.get("sex", {}).get(sex, 1.0)
        chance *= math.prod(times for other, times in one.get("with", {}).items() if other in held)
        if rng.random() < min(chance, 0.95) and not held.keys() & set(one.get("without", ())):
            held[one["name"]] = one
    return {
        name: {version: condition_codes(rng, one, held, version) for version in (9, 10)}
        for name, one in held.items()
    }


def condition_codes(rng: Random, one: Entry, held: Collection[str], version: int) -> list[str]:
    """Draw the codes of one condition, of those that go with the other conditions held."""
    icd = f"icd{version}"
    combined = [
        other[icd] for other in one.get("combined", ()) if other["with"] in held and icd in other
    ]
    status = [other[icd] for other in one.get("status", ()) if rng.random() < other["p"]]
    return [combined[0] if combined else rng.choice(one[icd]), *status]


def home_drugs(
    words: Vocabulary, rng: Random, held: Sequence[Entry], avoid: Collection[str]
) -> list[str]:
    """Draw the drugs taken at home for the conditions held, never two of one family."""
    family = {drug: set(members) for members in words.hospital["families"] for drug in members}
    drugs: list[str] = []
    for group in (group for one in held for group in one.get("drugs", ())):
        suitable = [
            drug
            for drug in group
            if drug not in avoid and not family.get(drug, {drug}) & set(drugs)
        ]
        if suitable and rng.random() < 0.88:
            drugs.append(rng.choice(suitable))
    return drugs
