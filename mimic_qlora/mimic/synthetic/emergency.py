"""The synthetic emergency department: ed/ and the images of note/, with planted levels of urgency.

It adds tables and changes none: a visit leads to a hospital stay that is there already, or to none.
Its random stream is its own. data/emergency.yaml says how level, complaint and chart hang together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any

from mimic_qlora.mimic.synthetic import times
from mimic_qlora.mimic.synthetic.book import Book, weighted
from mimic_qlora.mimic.synthetic.patient import Patient
from mimic_qlora.mimic.synthetic.vocabulary import Entry

Rows = Mapping[str, Sequence[dict[str, Any]]]  # of one patient, by table
APART = timedelta(days=9)  # visits that are no returns lie further apart
DAY = timedelta(days=1)
TRIES = 60  # at a quiet day


@dataclass(frozen=True)
class Visit:
    """One visit, and the level that is planted in it."""

    stay_id: int
    hadm_id: int | None
    begin: datetime
    end: datetime
    level: str


class Department:
    """The visits of one patient while they are drawn."""

    def __init__(self, book: Book, patient: Patient, rng: Random, rows: Rows) -> None:
        """Begin with what the hospital wrote of the patient."""
        self.book, self.patient, self.rng, self.rows = book, patient, rng, rows
        self.words: Entry = book.words.emergency
        self.coded = bool(rows.get("diagnoses_icd"))
        self.stays = sorted(rows.get("admissions", ()), key=lambda stay: stay["admittime"])
        self.busy = [
            row[column]
            for table, column in (("labevents", "charttime"), ("transfers", "intime"))
            for row in rows.get(table, ())
        ]
        self.visits: list[Visit] = []

    def draw(self) -> None:
        """Draw the visits that led to a stay, and others around each of them."""
        if not self.coded:
            for _ in range(self.rng.choice((0, 1, 1, 2))):
                severe = self.rng.random() < 1 / 2.3  # as of those who are admitted
                self.add(weighted(self.rng, self.words["severe" if severe else "others"])[0], None)
            return
        linked = [self.of_stay(stay) for stay in self.stays if stay["edregtime"]]
        kept = self.words["kept"]  # the department's tables do not know of all
        self.visits = [v for v in linked if v.level == "A" or self.rng.random() < kept]
        for visit in list(self.visits):
            for _ in range(self.rng.choices((0, 1, 2, 3), (25, 35, 25, 15))[0]):
                self.add(weighted(self.rng, self.words["others"])[0], visit)

    def of_stay(self, stay: dict[str, Any]) -> Visit:
        """Return the visit that led to a stay."""
        begin, soon = stay["edregtime"], stay["edregtime"] + DAY
        own = [row for row in self.rows["transfers"] if row.get("hadm_id") == stay["hadm_id"]]
        units = [
            row
            for row in self.rows.get("icustays", ())
            if begin <= row["intime"] <= soon and "Stepdown" not in row["first_careunit"]
        ]
        names = {self.book.words.drugs[key]["drug"] for key in self.words["life_saving"]}
        given = [
            row
            for row in self.rows.get("emar", ())
            if row["medication"] in names
            and begin <= row["charttime"] <= soon
            and "Administered" in (row["event_txt"] or "")
        ]
        died = stay["deathtime"] and stay["deathtime"] <= soon
        short = stay["dischtime"] - stay["admittime"] < 2 * DAY
        observed = stay["admission_type"].endswith(" OBSERVATION") and short
        level = "A" if units or given or died else "C" if observed else "B"
        return Visit(own[0]["transfer_id"], stay["hadm_id"], begin, stay["edouttime"], level)

    def add(self, level: str, beside: Visit | None) -> None:
        """Add a visit of a level, with as much of a chart as the visit beside it has."""
        back = self.quiet_day(beside, returns=level == "D-returned")
        if back is None:
            return
        begin = back
        if level == "D-returned":
            begin = back - timedelta(days=self.rng.uniform(1, 6))
            if not self.is_quiet(begin, self.visits):
                return
            if beside is None:  # who is never admitted here comes back to be sent on
                self.visits.append(self._new("B", back))
        self.visits.append(self._new(level, begin))

    def quiet_day(self, beside: Visit | None, returns: bool) -> datetime | None:
        """Return a time without another visit or stay, None where none is found."""
        if returns and beside is not None:
            return beside.begin if beside.level in "AB" else None
        ends = [stay["dischtime"] for stay in self.stays]
        first = min((stay["edregtime"] or stay["admittime"] for stay in self.stays), default=None)
        start = times.whole(self.patient.start + self.patient.shift)
        low, high = start - 30 * DAY, start + 1000 * DAY
        if beside is not None and first is not None:
            empty = beside.begin < min(ends)
            low, high = (first - 500 * DAY, first) if empty else (min(ends), max(ends) + 700 * DAY)
        for _ in range(TRIES):
            time = times.whole(low + (high - low) * self.rng.random())
            near = [v for v in self.visits if abs(v.begin - time) < APART]
            if not near and self.is_quiet(time, ()):
                return time
        return None

    def is_quiet(self, time: datetime, others: Sequence[Visit]) -> bool:
        """Return whether nothing else is on in the days after a time, and nobody dies."""
        dod = self.patient.dod
        if dod and (dod - time.date()).days < 32:
            return False
        near = [one for one in self.busy if -DAY < one - time < DAY]
        stays = [
            stay
            for stay in self.stays
            if (stay["edregtime"] or stay["admittime"]) - DAY < time < stay["dischtime"] + DAY
        ]
        return not near and not stays and not any(v.begin - DAY < time < v.end for v in others)

    def _new(self, level: str, begin: datetime) -> Visit:
        end, unlinked = begin + times.minutes(self.rng, 60, 600), None
        if level == "B" and self.rng.random() < 0.3:  # an admission of which there is no row
            unlinked = self.book.next_id("hadm_id of no stay", 30_000_000, 9_999_991)
        stay_id = self.book.next_id("stay_id of a visit", 40_000_000, 9_999_991)
        return Visit(stay_id, unlinked, begin, end, level)


def emergency(book: Book, patient: Patient, rng: Random, rows: Rows) -> dict[int, str]:
    """Write all visits of one patient. Returns stay_id -> level."""
    department = Department(book, patient, rng, rows)
    department.draw()
    for visit in sorted(department.visits, key=lambda visit: visit.begin):
        arrive(book, patient, rng, visit)
        treat(book, patient, rng, visit)
    return {visit.stay_id: visit.level for visit in department.visits}


def complaint(book: Book, patient: Patient, rng: Random, level: str) -> str:
    """Draw the complaint of a visit, by its level and by what the patient has."""
    words, held = book.words.emergency, patient.conditions.keys()
    grave = [one for one in words["complaints"] if held & set(one["with"])]
    others = [one for one in words["complaints"] if not held & set(one["with"])]
    if grave and rng.random() < words["grave"][level]:
        return str(rng.choice(rng.choice(grave)["texts"]))
    if not others or rng.random() < words["small"][level]:
        return str(rng.choice(words["harmless"]))
    return str(rng.choice(rng.choice(others)["texts"]))


def arrive(book: Book, patient: Patient, rng: Random, visit: Visit) -> None:
    """Write edstays, triage and medrecon."""
    words, who = book.words.emergency, _who(patient, visit)
    race = Random(f"{book.seed}:{patient.subject_id}:race")
    linked = visit.hadm_id is not None
    book.add(
        "edstays",
        **who,
        hadm_id=visit.hadm_id,
        intime=visit.begin,
        outtime=visit.end,
        gender=patient.sex,
        race=weighted(race, words["races"])[0],
        arrival_transport=weighted(rng, words["transport"])[0],
        disposition="ADMITTED" if linked else words["dispositions"][visit.level],
    )
    said: str | None = complaint(book, patient, rng, visit.level)
    odd = rng.random()
    if odd < 0.03:
        said = rng.choice(words["left_out"]) if odd < 0.02 else None if odd < 0.025 else "___"
    acuity = rng.choices(range(1, 6), words["acuity"][visit.level])[0]
    pain = rng.choice(("0", "3", "7", "10", "unable", "ua", "5-6", None))
    book.add(
        "triage",
        **who,
        **_vitals(patient, rng, visit),
        pain=pain,
        acuity=None if rng.random() < 0.02 else acuity,
        chiefcomplaint=said,
    )
    if rng.random() < 0.03:  # a row of no stay
        book.add("triage", **{**who, "stay_id": visit.stay_id + 7}, chiefcomplaint="Chest pain")
    at = visit.begin + times.minutes(rng, 0, 90) * (rng.random() < 0.8)  # some at arrival
    for key in patient.drugs if rng.random() < 0.8 else ():
        drug = book.words.drugs[key]
        named = {"name": drug["drug"], "gsn": drug["gsn"], "ndc": drug["ndc"]}
        book.add("medrecon", **who, charttime=at, **named, etc_rn=1, etccode="00000000")


def treat(book: Book, patient: Patient, rng: Random, visit: Visit) -> None:
    """Write vitalsign, diagnosis, pyxis and the images, by the planted level."""
    words, who = book.words.emergency, _who(patient, visit)
    for n in range(rng.randrange(0, 4)):
        time = visit.begin + n * timedelta(minutes=67)  # the first at arrival
        if time <= visit.end:
            rhythm = weighted(rng, words["rhythms"])[0] if rng.random() < 0.2 else None
            book.add(
                "vitalsign", **who, charttime=time, **_vitals(patient, rng, visit), rhythm=rhythm
            )
    codes = [codes[10][0] for codes in patient.conditions.values()][:3]
    for number, code in enumerate(codes, 1):
        row = {"icd_code": code, "icd_version": 10, "icd_title": f"CODE {code}"}
        book.add("diagnosis", **who, seq_num=number, **row)
    resource = {"A": 1.0, "B": 0.9, "C": 1.0, "AMA": 0.6, "ELOPED": 0.4}.get(visit.level, 0.0)
    drugs = [rng.choice(words["pyxis"]["tablets"])] if rng.random() < 0.4 else []
    images = 0
    if rng.random() < resource:
        images = rng.choice((0, 1, 1))
        drugs += rng.sample(words["pyxis"]["injected"], 1 if not images else rng.randrange(3))
    if visit.level == "A" and visit.hadm_id is None:
        drugs.append(rng.choice(words["pyxis"]["A"]))
    for number, name in enumerate(drugs, 1):
        time = visit.begin + (visit.end - visit.begin) * rng.uniform(0.2, 0.9)
        drug = {"name": name, "med_rn": number, "gsn_rn": 1, "gsn": f"{rng.randrange(10**6):06d}"}
        book.add("pyxis", **who, charttime=times.whole(time), **drug)
    for number in range(images):
        time = times.whole(visit.begin + (visit.end - visit.begin) * rng.uniform(0.2, 0.9))
        image(book, patient, rng, visit, time, number)


def image(
    book: Book, patient: Patient, rng: Random, visit: Visit, time: datetime, number: int
) -> None:
    """Write the report of an image."""
    examined = rng.choice(book.words.emergency["images"])
    sequence = book.next_id("note of an image", 1, 9_999_991)
    book.add(
        "radiology",
        note_id=f"{patient.subject_id}-RR-{sequence}",
        subject_id=patient.subject_id,
        hadm_id=visit.hadm_id,
        note_type="RR",
        note_seq=sequence,
        charttime=time,
        storetime=time + times.minutes(rng, 20, 300),
        text=f"EXAMINATION: {examined}\n\nIMPRESSION: made up, without a finding ({number + 1}).",
    )


def _who(patient: Patient, visit: Visit) -> dict[str, int]:
    return {"subject_id": patient.subject_id, "stay_id": visit.stay_id}


def _vitals(patient: Patient, rng: Random, visit: Visit) -> dict[str, Any]:
    """Draw a set of vital signs, worse at the higher levels; some temperatures are in Celsius."""
    ill = {"A": 1.0, "B": 0.5, "C": 0.2}.get(visit.level, 0.0)
    fahrenheit = rng.gauss(98.2 + ill, 0.8)
    celsius = rng.random() < 0.04
    return {
        "temperature": round((fahrenheit - 32) / 1.8 if celsius else fahrenheit, 1),
        "heartrate": round(rng.gauss(patient.hr + 18 * ill, 11)),
        "resprate": round(rng.gauss(17 + 4 * ill, 2)),
        "o2sat": min(100, round(rng.gauss(98 - 3 * ill, 1.5))) if rng.random() < 0.95 else None,
        "sbp": round(rng.gauss(patient.sbp + 8 - 12 * ill, 14)),
        "dbp": round(rng.gauss(74, 10)),
    }
