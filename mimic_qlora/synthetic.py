"""A made-up hospital with the tables of MIMIC-IV v3.1: coherent patients, the real data's oddities, and planted truths.

Patients have chronic conditions (synthetic_data/conditions.yaml) and come for acute reasons (reasons.yaml); these drive
codes, drugs, labs and vitals. The columns of noise.yaml come from random streams of their own and tell nothing of them.
No row of real data is in it.
"""

import csv
import gzip
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace

from mimic_qlora.tables import schema

DATA = Path(__file__).parent / "synthetic_data"
ICD10_SINCE = datetime(2015, 10, 1)
LAST_DAY = datetime(2022, 12, 1)
CHUNK = 7  # rows that stay together when a table is scattered, as patients' rows are in the real files
STRIDE = 7_368_787  # a prime, so that walking round the ids in such strides meets each of them once


def write(
    folder: Path, n_patients: int = 300, seed: int = 0, progress: bool = True, uncoded_share: float = 0.39
) -> None:
    """Write hosp/*.csv.gz, icu/*.csv.gz and planted_truths.json into `folder`: the same bytes for the same arguments.

    uncoded_share: share of patients without a coded stay (most are seen in clinics or the emergency department only).
    """
    from tqdm import tqdm

    words = vocabulary()
    book = Book(words, seed)
    for number in tqdm(range(n_patients), "synthetic patients", unit="patient", disable=None if progress else True):
        rng = Random(f"{seed}:{number}")
        coded = rng.random() >= uncoded_share
        patient = new_patient(words, rng, 10_000_000 + ((number + 1) * STRIDE + seed * 104_729) % 10_000_000, coded)
        live_through(book, patient, coded)
    for table, rows in words.dictionaries.items():
        for row in rows:
            book.add(table, **row)
    for table, column in (("provider", "provider_id"), ("caregiver", "caregiver_id")):
        for staff_id in book.staff[table]:
            book.add(table, **{column: staff_id})
    book.save(folder)
    noise = [{key: one[key] for key in ("table", "column", "kind")} for one in words.noise]
    truths = json.dumps({"signal": signals(words), "noise": noise}, indent=1)
    (folder / "planted_truths.json").write_text(truths + "\n", encoding="utf-8")


# ---- vocabularies, and the book of all rows


def vocabulary() -> SimpleNamespace:
    """All files of synthetic_data."""
    import yaml

    load = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    words = SimpleNamespace(
        **{path.stem: yaml.load(path.read_text("utf-8"), load) for path in sorted(DATA.glob("*.yaml"))}
    )
    words.drugs = {row["key"]: row for row in _rows("drugs")}
    words.labs = {row["key"]: _lab(row) for row in _rows("labs")}
    words.panels = {}
    for one in words.labs.values():
        words.panels.setdefault(one.panel, []).append(one)
    words.dictionaries = {
        table: _rows(table) for table in ("d_icd_diagnoses", "d_icd_procedures", "d_hcpcs", "d_items")
    }
    labitems = _rows("labs") + _rows("d_labitems_more")
    words.dictionaries["d_labitems"] = [
        {key: row[key] for key in ("itemid", "label", "fluid", "category")} for row in labitems
    ]
    words.hcpcs = {row["code"]: row["short_description"] for row in words.dictionaries["d_hcpcs"]}
    return words


def _rows(name: str) -> list:
    with open(DATA / f"{name}.csv", encoding="utf-8", newline="") as file:
        return [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]


def _lab(row: dict) -> SimpleNamespace:
    numbers = ("center", "spread", "low_f", "high_f", "low_m", "high_m")
    lab = SimpleNamespace(**row | {key: float(row[key]) if row[key] else None for key in numbers})
    lab.decimals = int(row["decimals"] or 0)
    lab.ranges = {"F": (lab.low_f, lab.high_f), "M": (lab.low_m, lab.high_m)}
    return lab


class Book:
    """Rows of all tables as CSV lines, with the hospital's id counters, its staff and the noise streams."""

    def __init__(self, words: SimpleNamespace, seed: int):
        self.words, self.seed, self.counters = words, seed, {}
        self.tables = {name: table for name, table in schema().items() if table.module in ("hosp", "icu")}
        self.position = {
            name: {column: i for i, column in enumerate(self.tables[name].columns)} for name in self.tables
        }
        self.lines = {name: [] for name in self.tables}
        rng = Random(f"{seed}:staff")
        letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        providers = sorted({f"P{rng.randrange(100):02d}" + "".join(rng.choices(letters, k=3)) for _ in range(400)})
        self.staff = {"provider": providers, "caregiver": sorted(rng.sample(range(1000, 100_000), 250))}
        self.noise = {name: [] for name in self.tables}
        for one in words.noise:
            self.noise[one["table"]].append(self.noise_stream(one, self.position[one["table"]]))

    def next_id(self, kind: str, first: int, size: int) -> int:
        """Ids that look random and never repeat: a walk round `size` numbers."""
        self.counters[kind] = (self.counters.get(kind, self.seed * 131 + len(kind) * 977) + STRIDE) % size
        return first + self.counters[kind]

    def add(self, table: str, **row) -> None:
        position, cells = self.position[table], [None] * len(self.position[table])
        for column, value in row.items():
            cells[position[column]] = value
        for where, draw_cell in self.noise[table]:
            cells[where] = draw_cell(cells)
        self.lines[table].append(",".join([_cell(value) for value in cells]))

    def noise_stream(self, one: dict, position: dict) -> tuple[int, Callable]:
        """Position of a noise column, and the function that draws its next cell."""
        rng, known = Random(f"{self.seed}:noise:{one['table']}.{one['column']}"), {}
        beside, subject, share = position.get(one.get("where")), position["subject_id"], one.get("share", 1.0)

        def value():
            if rng.random() >= share:
                return None
            if one["kind"] == "uniform":
                return round(rng.uniform(one["low"], one["high"]), 2)
            if one["kind"] == "category":
                return rng.choices(list(one["values"]), one["values"].values())[0]
            staff = self.staff[one["kind"]]
            return staff[int(len(staff) * rng.random() ** 2)]  # some of the staff are busier than others

        def draw_cell(cells):
            if one.get("per") == "subject":
                return known[cells[subject]] if cells[subject] in known else known.setdefault(cells[subject], value())
            drawn = value()
            return drawn if beside is None or cells[beside] is not None else None

        return position[one["column"]], draw_cell

    def save(self, folder: Path) -> None:
        for name, table in self.tables.items():
            lines = self.lines[name]
            chunks = [lines[i : i + CHUNK] for i in range(0, len(lines), CHUNK)]
            Random(f"{self.seed}:{name}").shuffle(chunks)
            text = "\n".join([",".join(table.columns), *(line for chunk in chunks for line in chunk), ""])
            path = folder / table.module / f"{name}.csv.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(text.encode("utf-8"), compresslevel=4, mtime=0))


def _cell(value) -> str:
    """One CSV cell: null is nothing, the empty string is \"\"."""
    if value is None:
        return ""
    text = str(value)
    if text == "" or "," in text or '"' in text or "\n" in text:
        return '"' + text.replace('"', '""') + '"'
    return text


def _pick(rng: Random, rows: list) -> list:
    """One of the rows, whose last item is its weight."""
    return rng.choices(rows, [row[-1] for row in rows])[0]


def _whole(time: datetime) -> datetime:
    return time.replace(second=0, microsecond=0)


def _hour(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


def _midnight(time: datetime) -> datetime:
    return time.replace(hour=0, minute=0, second=0, microsecond=0)


def _minutes(rng: Random, low: int, high: int) -> timedelta:
    return timedelta(minutes=rng.randrange(low, high))


def _seconds(rng: Random, time: datetime) -> datetime:
    return time.replace(second=rng.randrange(60), microsecond=0)


def _stored(rng: Random, time: datetime, early: float, minutes: int) -> datetime:
    """When a row was filed: after the event, but for the share `early` of rows filed ahead of it."""
    return time + (_minutes(rng, -30, 0) if rng.random() < early else _minutes(rng, 0, minutes))


# ---- who the patient is


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
    conditions: dict  # name -> {9: codes, 10: codes}
    drugs: list  # taken at home
    avoid: set  # drugs never given
    lab_shift: dict  # lab -> standard deviations
    inches: float
    bmi: float  # kg/m2
    sbp: float  # mmHg
    hr: float  # beats a minute
    payer: str
    lab_habit: dict = field(default_factory=dict)
    last_poe: int = 0
    last_emar: int = 0
    dod: date | None = None

    def next_poe(self) -> int:
        self.last_poe += self.rng.choice((1, 1, 1, 2, 5))
        return self.last_poe


def new_patient(words: SimpleNamespace, rng: Random, subject_id: int, coded: bool) -> Patient:
    sex = "F" if rng.random() < 0.53 else "M"
    age = int(min(max(rng.choice((rng.gauss(66, 14), rng.gauss(66, 14), rng.gauss(38, 14))), 18), 97))
    group = rng.choices(words.hospital["year_groups"], words.hospital["year_group_weights"])[0]
    start = datetime(int(group[:4]), 1, 1) + timedelta(days=rng.random() * 1090)
    start = min(start, LAST_DAY - timedelta(days=40))
    anchor_year = rng.randrange(2110, 2186)
    shift = timedelta(days=round((anchor_year - start.year) * 365.25))
    conditions = chronic_conditions(words, rng, sex, age, burden=1.25 if coded else 0.8)
    held = [one for one in words.conditions if one["name"] in conditions]
    avoid = {drug for one in held for drug in one.get("avoid", ())}
    drugs = home_drugs(words, rng, held, avoid)
    lab_shift = {}
    for shifts in [one.get("labs", {}) for one in held] + [
        words.hospital["drug_effects"].get(drug, {}) for drug in drugs
    ]:
        for key, amount in shifts.items():
            lab_shift[key] = lab_shift.get(key, 0) + amount
    bmi, sbp, hr = (sum(one.get(key, 0) for one in held) for key in ("bmi", "sbp", "hr"))
    return Patient(
        rng, subject_id, sex, age, anchor_year, group, start, shift, conditions, drugs, avoid, lab_shift,
        inches=round(rng.gauss(63.5 if sex == "F" else 69, 2.6) * 4) / 4, bmi=max(17, rng.gauss(25.5, 3.2) + bmi),
        sbp=rng.gauss(120, 9) + sbp, hr=rng.gauss(78, 8) + hr,
        payer=_pick(rng, words.hospital["insurance"]["old" if age >= 65 else "young"])[0],
    )  # fmt: skip


def chronic_conditions(words: SimpleNamespace, rng: Random, sex: str, age: int, burden: float) -> dict:
    """The conditions held: name -> {9: ICD-9 codes, 10: ICD-10 codes}."""
    held = {}
    for one in words.conditions:
        chance = burden * one["share"] / (1 + math.exp((one["mid"] - age) / one["width"]))
        chance *= one.get("sex", {}).get(sex, 1.0)
        chance *= math.prod(times for other, times in one.get("with", {}).items() if other in held)
        if rng.random() < min(chance, 0.95) and not held.keys() & set(one.get("without", ())):
            held[one["name"]] = one
    return {
        name: {version: condition_codes(rng, one, held, version) for version in (9, 10)} for name, one in held.items()
    }


def condition_codes(rng: Random, one: dict, held: dict, version: int) -> list:
    icd = f"icd{version}"
    combined = [other[icd] for other in one.get("combined", ()) if other["with"] in held and icd in other]
    status = [other[icd] for other in one.get("status", ()) if rng.random() < other["p"]]
    return [combined[0] if combined else rng.choice(one[icd]), *status]


def home_drugs(words: SimpleNamespace, rng: Random, held: list, avoid: set) -> list:
    family = {drug: set(members) for members in words.hospital["families"] for drug in members}
    drugs = []
    for group in (group for one in held for group in one.get("drugs", ())):
        suitable = [drug for drug in group if drug not in avoid and not family.get(drug, {drug}) & set(drugs)]
        if suitable and rng.random() < 0.88:
            drugs.append(rng.choice(suitable))
    return drugs


# ---- what happens to the patient


def live_through(book: Book, patient: Patient, coded: bool) -> None:
    """Stays, clinic visits and emergency visits of one patient, then the row in `patients`."""
    rng, now, illness = patient.rng, patient.start, len(patient.conditions)
    stays = 1 + min(int(rng.expovariate(1 / (0.6 + 0.18 * illness))), 14) if coded else 0
    for _ in range(stays):
        if now > LAST_DAY or patient.dod:
            break
        leave = stay(book, patient, now, why(book.words, patient, now))
        now = leave + timedelta(days=min(rng.lognormvariate(5.0, 1.2), 1500))
    if stays and not patient.dod and rng.random() < 0.008 * max(patient.age - 50, 0):
        patient.dod = (leave + patient.shift + timedelta(days=1 + rng.lognormvariate(4.5, 0.9))).date()
    if not coded and rng.random() < 0.1:
        observed = next(one for one in book.words.reasons if one["name"] == "chest_pain")
        stay(book, patient, now, observed, coded=False)
    clinic(book, patient, visits=int(rng.expovariate(1 / (2 + illness / 2))) + (not coded))
    for _ in range(int(rng.expovariate(1.4)) + (not coded and rng.random() < 0.5)):
        emergency_visit(book, patient)
    book.add(
        "patients", subject_id=patient.subject_id, gender=patient.sex,
        anchor_age=patient.age if patient.age <= 89 else 91, anchor_year=patient.anchor_year,
        anchor_year_group=patient.year_group, dod=patient.dod,
    )  # fmt: skip


def why(words: SimpleNamespace, patient: Patient, now: datetime) -> dict:
    """The reason for a stay, among those that fit age, sex, year and conditions."""
    weights = []
    for one in words.reasons:
        (low, high), (first, last) = one.get("ages", (0, 120)), one.get("years", (0, 9999))
        fits = low <= patient.age <= high and first <= now.year <= last
        fits = fits and ("needs" not in one or bool(patient.conditions.keys() & set(one["needs"])))
        boost = math.prod(times for name, times in one.get("boost", {}).items() if name in patient.conditions)
        weights.append(one["weight"] * one.get("sex", {}).get(patient.sex, 1.0) * boost * fits)
    return patient.rng.choices(words.reasons, weights)[0]


def stay(book: Book, patient: Patient, arrival: datetime, reason: dict, coded: bool = True) -> datetime:
    """One hospital stay, into every table that it touches. Returns the time of discharge, not shifted."""
    rng = patient.rng
    here = SimpleNamespace(
        reason=reason,
        kind=reason.get("kind", "emergency"),
        version=10 if arrival >= ICD10_SINCE else 9,
    )
    here.hadm_id = book.next_id("hadm_id", 20_000_000, 9_999_991)
    here.who = {"subject_id": patient.subject_id, "hadm_id": here.hadm_id}
    here.icu = rng.random() < reason["icu"]
    here.died = coded and rng.random() < min(reason["death"] * (patient.age / 68) ** 2, 0.5)
    here.begin = _whole(arrival + patient.shift)
    if here.kind == "elective":
        here.begin = here.begin.replace(hour=rng.choice((6, 7, 8)))
    here.end = here.begin + timedelta(days=min(max(rng.lognormvariate(math.log(reason["los"]), 0.45), 0.5), 30))
    if not here.died:
        here.end = max(here.end.replace(hour=rng.randrange(10, 19)), here.begin + timedelta(hours=7))
    here.end = _whole(here.end)
    here.days = (here.end - here.begin).total_seconds() / 86400
    here.has_emar = rng.random() < (0.98 if here.version == 10 else 0.4)
    here.drugs = stay_drugs(book.words, patient, here)
    admission(book, patient, here)
    movements(book, patient, here)
    orders(book, patient, here)
    stay_labs(book, patient, here)
    for specimen in reason.get("cultures", []) + ["MRSA SCREEN"] * here.icu:
        culture(book, patient, here, here.begin + _minutes(rng, 0, 1200), specimen)
    if coded:
        billing(book, patient, here)
    if here.icu:
        intensive_care(book, patient, here)
    return here.end - patient.shift


def stay_drugs(words: SimpleNamespace, patient: Patient, here: SimpleNamespace) -> list:
    """What is ordered in a stay: drugs from home, for the reason, and what the wards give to anybody."""
    rng, hospital = patient.rng, words.hospital
    avoid = patient.avoid | set(here.reason.get("avoid", ()))
    avoid |= set(hospital["not_in_pregnancy"]) if here.kind == "obstetric" else set()
    urgent = [drug for drug in here.reason.get("drugs", ()) if rng.random() < 0.7]
    families = [set(members) for members in hospital["families"]]
    replaced = set().union(*(members for members in families if members & set(urgent))) - set(urgent)
    wanted = dict.fromkeys(urgent, 1.0) | {drug: 0.93 for drug in patient.drugs if drug not in {*urgent, *replaced}}
    for drug, share in (hospital["ward_drugs"] | (hospital["icu_drugs"] if here.icu else {})).items():
        wanted.setdefault(drug, share)
    if "type_2_diabetes" in patient.conditions:
        wanted["Dextrose 50%"] = 0.6
    return [drug for drug, share in wanted.items() if rng.random() < share and drug not in avoid]


def admission(book: Book, patient: Patient, here: SimpleNamespace) -> None:
    rng, hospital = patient.rng, book.words.hospital
    here.type, location, _ = _pick(rng, hospital["kinds"][here.kind])
    here.ed_in = here.ed_out = deathtime = None
    if location in ("EMERGENCY ROOM", "WALK-IN/SELF REFERRAL"):
        here.ed_in, here.ed_out = here.begin - _minutes(rng, 60, 600), here.begin + _minutes(rng, 20, 200)
    facility = here.reason.get("facility", 0.12) + max(patient.age - 62, 0) * 0.015
    goes_to = _pick(rng, hospital["facilities" if rng.random() < facility else "homes"])[0]
    if here.kind == "observation" and rng.random() < 0.75:
        goes_to = None
    if here.died:
        goes_to, deathtime, patient.dod = "DIED", here.end - _minutes(rng, 1, 90), here.end.date()
    book.add(
        "admissions", **here.who, admittime=here.begin, dischtime=here.end, deathtime=deathtime,
        admission_type=here.type, admission_location=location, discharge_location=goes_to, edregtime=here.ed_in,
        edouttime=here.ed_out, insurance=patient.payer if rng.random() < 0.98 else None,
        hospital_expire_flag=int(here.died),
    )  # fmt: skip


def movements(book: Book, patient: Patient, here: SimpleNamespace) -> None:
    """transfers, services and icustays: a stay in intensive care carries the id of its transfer."""
    rng, reason = patient.rng, here.reason
    if here.ed_in:
        move(book, here.who, "ED", "Emergency Department", here.ed_in, here.ed_out)
    time, end = _seconds(rng, here.ed_out or here.begin), _seconds(rng, here.end)
    units, icu = [reason["careunit"]], rng.choice(book.words.hospital["icu_by_service"][reason["service"]])
    if here.icu:
        units = [icu] if here.died or here.days < 1.5 else [icu, *units]
    elif here.days > 3 and rng.random() < 0.25:
        units.append(rng.choice(("Med/Surg", "Medicine", "Discharge Lounge")))
    for number, unit in enumerate(units):
        until = end if number == len(units) - 1 else _seconds(rng, time + (end - time) * rng.uniform(0.25, 0.7))
        transfer_id = move(book, here.who, "transfer" if number else "admit", unit, time, until)
        if here.icu and number == 0:
            here.stay_id, here.icu_in, here.icu_out = transfer_id, time, until
            days = repr((until - time).total_seconds() / 86400)
            book.add(
                "icustays", **here.who, stay_id=transfer_id, first_careunit=unit, last_careunit=unit, intime=time,
                outtime=until, los=days,
            )  # fmt: skip
        time = until
    move(book, here.who, "discharge", None, end, None)
    first = rng.choice(("MED", "SURG", reason["service"])) if rng.random() < 0.15 else reason["service"]
    book.add("services", **here.who, transfertime=_seconds(rng, here.begin), curr_service=first)
    if first != reason["service"]:
        later = here.begin + (here.end - here.begin) * rng.uniform(0.1, 0.5)
        book.add(
            "services", **here.who, transfertime=_seconds(rng, later), prev_service=first,
            curr_service=reason["service"],
        )  # fmt: skip


def move(book: Book, who: dict, event: str, careunit: str | None, intime: datetime, outtime: datetime | None) -> int:
    transfer_id = book.next_id("transfer_id", 30_000_000, 9_999_991)
    book.add(
        "transfers", **who, transfer_id=transfer_id, eventtype=event, careunit=careunit, intime=intime, outtime=outtime,
    )  # fmt: skip
    return transfer_id


def billing(book: Book, patient: Patient, here: SimpleNamespace) -> None:
    """diagnoses_icd, procedures_icd, drgcodes and hcpcsevents."""
    rng, reason, which, icd = patient.rng, here.reason, here.version - 9, f"icd{here.version}"
    some = lambda rows: [row[which] for row in rows if rng.random() < row[-1]]  # noqa: E731
    chronic = [code for both in patient.conditions.values() if rng.random() < 0.88 for code in both[here.version]]
    home = set(patient.drugs)
    chronic += [one[icd][0] for one in book.words.status_codes if home & set(one["drugs"]) and rng.random() < one["p"]]
    chronic += some(book.words.hospital["incidental"]) + [pair[which] for pair in reason.get("status", ())]
    rng.shuffle(chronic)
    listed = [rng.choice(reason[icd]), *some(reason.get("extra", ())), *chronic]
    for number, code in enumerate(list(dict.fromkeys(listed))[:39], 1):
        book.add("diagnoses_icd", **here.who, seq_num=number, icd_code=code, icd_version=here.version)
    done = some(reason.get("procedures", ()))
    done += [("3995", "5A1D70Z")[which]] * ("end_stage_renal_disease" in patient.conditions)
    done = [code for code in dict.fromkeys(done) if here.icu or code not in book.words.hospital["icu_procedures"]]
    for number, code in enumerate(done, 1):
        day = (here.begin + timedelta(days=rng.random() ** 2 * here.days)).date()
        book.add("procedures_icd", **here.who, seq_num=number, chartdate=day, icd_code=code, icd_version=here.version)
    if here.kind != "observation" and rng.random() < 0.9:
        severity = min(4, 1 + len(patient.conditions) // 4 + here.icu)
        mortality = min(4, max(1, severity + here.died * 2 - (patient.age < 60)))
        book.add("drgcodes", **here.who, drg_type="HCFA", drg_code=reason["hcfa"][0], description=reason["hcfa"][1])
        book.add(
            "drgcodes", **here.who, drg_type="APR", drg_code=reason["apr"][0], description=reason["apr"][1],
            drg_severity=severity, drg_mortality=mortality,
        )  # fmt: skip
    for number, code in enumerate((code for code in reason.get("hcpcs", ()) if rng.random() < 0.6), 1):
        row = {"hcpcs_cd": code, "seq_num": number, "short_description": book.words.hcpcs[code]}
        book.add("hcpcsevents", **here.who, chartdate=here.begin.date(), **row)


# ---- orders, and drugs given


def orders(book: Book, patient: Patient, here: SimpleNamespace) -> None:
    """poe and poe_detail, and for each drug pharmacy, prescriptions, emar and emar_detail."""
    rng, hospital = patient.rng, book.words.hospital
    time = _seconds(rng, here.begin + _minutes(rng, 5, 60))
    category = "Place in observation" if "OBSERVATION" in here.type else "Admit to inpatient"
    ward = "ICU" if here.icu else hospital["admit_to"][here.reason["service"]]
    order(book, patient, here, time, "ADT orders", "Admit", {"Admit category": category, "Admit to": ward})
    for kind, subtype in hospital["routine_orders"]:
        if rng.random() < 0.6:
            order(book, patient, here, time, kind, subtype)
    if rng.random() < 0.5:
        status = rng.choices(hospital["code_status"], (70, max(1, patient.age - 60), 15))[0]
        order(book, patient, here, time, "General Care", "Code status", {"Code status": status})
    if here.icu:
        tube = {"Tubes & Drains type": "Indwelling urinary catheter (IUC) - Foley"}
        order(book, patient, here, time, "General Care", "Tubes/Drains", tube)
    for key in here.drugs:
        late = timedelta(hours=rng.expovariate(1 / 20)) if rng.random() < 0.35 else timedelta()
        prescribe(
            book, book.words.drugs[key], patient, here, min(_seconds(rng, time + late), here.end - timedelta(hours=2)),
        )  # fmt: skip
    leave = {"Discharge Planning": "Finalized", "Discharge When": "Discharge Now"}
    order(book, patient, here, here.end - _minutes(rng, 20, 240), "ADT orders", "Discharge", leave)


def order(book, patient, here, time, kind, subtype=None, details=None, seq=None, stops=None, stopped_by=None) -> int:
    """One provider order; `stops` and `stopped_by` are the sequence numbers of the orders it ends or is ended by."""
    seq = seq or patient.next_poe()
    poe_id = lambda number: number and f"{patient.subject_id}-{number}"  # noqa: E731
    change = patient.rng.choice(("D/C", "Change")) if stops else "New"
    book.add(
        "poe", **here.who, poe_id=poe_id(seq), poe_seq=seq, ordertime=time, order_type=kind, order_subtype=subtype,
        transaction_type=change, discontinue_of_poe_id=poe_id(stops), discontinued_by_poe_id=poe_id(stopped_by),
        order_status="Inactive",
    )  # fmt: skip
    for name, value in (details or {}).items():
        book.add(
            "poe_detail", poe_id=poe_id(seq), poe_seq=seq, subject_id=patient.subject_id, field_name=name,
            field_value=value,
        )  # fmt: skip
    return seq


def prescribe(book: Book, drug: dict, patient: Patient, here: SimpleNamespace, time: datetime) -> None:
    rng, fluid, once = patient.rng, drug["proc_type"] == "IV Large Volume", drug["frequency"] in ("ONCE", "NOW X1")
    start, stop = _hour(time + timedelta(hours=1)), _hour(here.end + timedelta(hours=1))
    stopped = not once and rng.random() < 0.25
    if once:
        stop = min(stop, start + timedelta(hours=rng.choice((1, 6, 23))))
    elif stopped:
        stop = _hour(start + (stop - start) * rng.random())
    kind = ("IV therapy", "IV fluids") if fluid else ("Medications", None)
    seq, ender = patient.next_poe(), patient.next_poe() if stopped else None
    order(book, patient, here, time, *kind, seq=seq, stopped_by=ender)
    if stopped:
        order(book, patient, here, stop, *kind, seq=ender, stops=seq)
    given_until = max(stop, start + timedelta(hours=1))
    if rng.random() < 0.035:  # as in the real tables: an order stopped before it began
        stop = start - timedelta(hours=rng.randrange(1, 5))
    ids = {
        **here.who,
        "pharmacy_id": book.next_id("pharmacy_id", 1_000_000, 98_999_987),
        "poe_id": f"{patient.subject_id}-{seq}",
    }
    common = {
        **ids, "starttime": start, "stoptime": stop, "doses_per_24_hrs": drug["doses_per_24_hrs"],
        "route": drug["route"],
    }  # fmt: skip
    entered = time + timedelta(seconds=rng.randrange(900))
    book.add(
        "pharmacy", **common, medication=None if fluid else drug["drug"], proc_type=drug["proc_type"],
        entertime=entered, verifiedtime=entered, frequency=drug["frequency"],
        duration_interval="Doses" if once else "Ongoing",
        status="Discontinued" if stopped else "Expired" if once else "Discontinued via patient discharge",
        disp_sched={"1": "10", "2": "08, 20", "3": "08, 14, 20", "4": "0, 6, 12, 18"}.get(drug["doses_per_24_hrs"]),
        infusion_type="C" if drug["route"] == "IV DRIP" else None,
        sliding_scale="Y" if drug["key"] == "Insulin" else None,
    )  # fmt: skip
    amounts = ("prod_strength", "dose_val_rx", "dose_unit_rx", "form_val_disp", "form_unit_disp")
    dose = {key: drug[key] for key in amounts}
    tablet = drug["form_unit_disp"] in ("TAB", "CAP") and drug["frequency"] in ("DAILY", "BID", "QHS")
    if tablet and rng.random() < 0.25 and drug["dose_val_rx"].isdigit() and drug["form_val_disp"].isdigit():
        dose |= {key: str(2 * int(dose[key])) for key in ("dose_val_rx", "form_val_disp")}
    book.add(
        "prescriptions", **common, **dose, poe_seq=seq, formulary_drug_cd=drug["formulary_drug_cd"], gsn=drug["gsn"],
        ndc=drug["ndc"], drug_type="BASE" if fluid else "MAIN", drug="" if rng.random() < 0.001 else drug["drug"],
        form_rx="" if rng.random() < 0.15 else "TAB" if rng.random() < 0.01 else None,
    )  # fmt: skip
    if drug["base"]:
        bag = dict(zip(amounts, ("100 mL Bag", "100", "mL", "1", "BAG"), strict=True))
        book.add(
            "prescriptions", **common, **bag, poe_seq=seq, formulary_drug_cd="BASE", ndc="0", drug_type="BASE",
            drug=drug["base"],
        )  # fmt: skip
    if here.has_emar and not fluid:
        administer(book, drug, dose, patient, ids, start, given_until)


def administer(
    book: Book, drug: dict, dose: dict, patient: Patient, ids: dict, start: datetime, stop: datetime
) -> None:
    """emar and emar_detail: the doses due between start and stop, at most 14 of an order."""
    rng, flush = patient.rng, "Flush" in drug["drug"]
    every = 24 / float(drug["doses_per_24_hrs"]) if drug["doses_per_24_hrs"] else rng.choice((6, 9, 14))
    kind = {"IV DRIP": "IV Infusion", "TD": "Transdermal Patch"}.get(drug["route"], "Standard Maintenance Medication")
    kind = "IV Flush" if flush else "Insulin SC Sliding Scale" if drug["key"] == "Insulin" else kind
    events = [["Administered", 80], ["Not Given", 9], ["Confirmed", 7], ["Hold Dose", 2], ["Delayed Administered", 2]]
    events = [["Flushed", 75], ["Not Flushed", 25]] if flush else events
    for number in range(min(math.ceil((stop - start).total_seconds() / 3600 / every), 14)):
        patient.last_emar += 1
        due = start + timedelta(hours=every * number)
        time, event = due + _minutes(rng, -20, 60), _pick(rng, events)[0]
        given = event in ("Administered", "Flushed", "Delayed Administered")
        emar = {"emar_id": f"{patient.subject_id}-{patient.last_emar}", "emar_seq": patient.last_emar}
        gaps = {column: None for column, share in (("hadm_id", 0.03), ("pharmacy_id", 0.18)) if rng.random() < share}
        book.add(
            "emar", **ids | emar | gaps, charttime=time, medication=drug["drug"] if rng.random() < 0.96 else None,
            event_txt=event if rng.random() < 0.99 else None, scheduletime=due, storetime=_stored(rng, time, 0.03, 15),
        )  # fmt: skip
        emar["subject_id"] = patient.subject_id
        complete = "No" if event == "Administered" else None
        book.add(
            "emar_detail", **emar, administration_type=kind, complete_dose_not_given=complete,
            dose_due=dose["dose_val_rx"], dose_due_unit=dose["dose_unit_rx"], will_remainder_of_dose_be_given=complete,
        )  # fmt: skip
        if given:
            by_mouth = drug["route"].startswith("PO") and rng.random() < 0.3
            book.add(
                "emar_detail", **emar, parent_field_ordinal="1.1", pharmacy_id=ids["pharmacy_id"],
                dose_given_unit=dose["dose_unit_rx"], dose_given="___" if rng.random() < 0.02 else dose["dose_val_rx"],
                product_amount_given=dose["form_val_disp"], product_unit=dose["form_unit_disp"],
                product_code=drug["formulary_drug_cd"], route="PO" if by_mouth else None,
                product_description=f"{drug['drug']} {drug['prod_strength']}",
            )  # fmt: skip


# ---- laboratory


def stay_labs(book: Book, patient: Patient, here: SimpleNamespace) -> None:
    """A large draw on arrival, a smaller one every morning, and one more in the afternoons of intensive care."""
    rng, held, drugs = patient.rng, patient.conditions, set(here.drugs)
    panels = ["chemistry", "count", "egfr", "differential", *here.reason.get("panels", ())]
    panels += ["coagulation"] * bool(drugs & {"Warfarin", "Heparin Sodium"}) + ["gas"] * here.icu
    for panel, condition, share in book.words.hospital["panels_for"]:
        panels += [panel] * (rng.random() < (share if condition in held else 0.08))
    draw(
        book, patient, here, here.ed_in + timedelta(minutes=40) if here.ed_in else here.begin + timedelta(hours=1),
        panels, 0.6,
    )  # fmt: skip
    daily = ["chemistry", "count"] + [panel for panel in ("coagulation", "gas", "liver") if panel in panels]
    for day in range(1, min(math.ceil(here.days), 15)):
        morning = _midnight(here.begin) + timedelta(days=day) + _minutes(rng, 300, 480)
        for time in (morning, morning + timedelta(hours=11))[: 1 + (here.icu and day < 4)]:
            if time < here.end:
                draw(
                    book,
                    patient,
                    here,
                    time,
                    [panel for panel in daily if panel in ("chemistry", "count") or rng.random() < 0.6],
                )


def draw(
    book: Book, patient: Patient, here: SimpleNamespace, time: datetime, panels: list, special: float = 0.0
) -> None:
    """One blood draw, each panel a specimen. special: chance of each test that only the illness calls for."""
    rng, words, time = patient.rng, book.words, _whole(time)
    acute, hours = here.reason.get("labs", {}), max((time - here.begin).total_seconds() / 3600, 0)
    fade = 1.3 if here.died else math.exp(-hours / 60)
    linked = [words.labs[key] for key in {**acute, **patient.lab_shift} if words.labs[key].panel in ("special", "iron")]
    tests = [one for panel in dict.fromkeys(panels) for one in words.panels[panel]]
    tests += [one for one in linked if one not in tests and rng.random() < special]
    values = {one.key: result(patient, one, acute.get(one.key, 0) * fade) for one in tests if one.scale}
    agree(patient, values)
    hadm_id = here.hadm_id if rng.random() < 0.94 else None
    if here.hadm_id:
        order(book, patient, here, time - timedelta(minutes=30), "Lab")
    specimens = {}
    for one in tests:
        if one.panel not in specimens:
            delay = timedelta(hours=rng.uniform(100, 666) if rng.random() < 0.003 else rng.lognormvariate(0.2, 0.5))
            stored = _whole(time + delay) if rng.random() < 0.99 else None
            specimens[one.panel] = {
                "specimen_id": book.next_id("specimen_id", 100, 99_999_989),
                "charttime": time,
                "storetime": stored,
            }
        book.add(
            "labevents", **specimens[one.panel], labevent_id=book.next_id("labevent_id", 1, 158_000_003),
            hadm_id=hadm_id, subject_id=patient.subject_id, itemid=one.itemid, **report(patient, one, values),
        )  # fmt: skip


def result(patient: Patient, one: SimpleNamespace, acute: float) -> float:
    """A test's value: the patient's habit, chronic shifts, the acute shift and chance, in standard deviations."""
    habit = patient.lab_habit.setdefault(one.key, patient.rng.gauss(0, 0.6))
    z = habit + patient.lab_shift.get(one.key, 0) + acute + patient.rng.gauss(0, 0.45)
    return one.center * math.exp(one.spread * z) if one.scale == "log" else one.center + one.spread * z


def agree(patient: Patient, values: dict) -> None:
    """Make the values that arithmetic ties together agree."""
    male = patient.sex == "M"
    if "Hemoglobin" in values:
        values["Hemoglobin"] = max(values["Hemoglobin"] + male, 4.5)
        values["Hematocrit"] = values["Hemoglobin"] * 3 + patient.rng.gauss(0, 0.4)
        values["Red Blood Cells"] = values["Hematocrit"] / values["MCV"] * 10
        values["MCH"] = values["Hemoglobin"] / values["Red Blood Cells"] * 10
        values["MCHC"] = values["Hemoglobin"] / values["Hematocrit"] * 100
    if "Creatinine" in values:
        values["Creatinine"] = min(values["Creatinine"] * (1.12 if male else 1), 14)
        values["Bicarbonate"] = max(values["Bicarbonate"], 6)
        values["Anion Gap"] = values["Sodium"] + values["Potassium"] - values["Chloride"] - values["Bicarbonate"]
        filtered = 175 * values["Creatinine"] ** -1.154 * patient.age**-0.203 * (1 if male else 0.742)
        values["Estimated GFR (MDRD equation)"] = filtered
    if "Neutrophils" in values:
        values["Neutrophils"] = min(values["Neutrophils"], 88)
        others = sum(values[key] for key in ("Neutrophils", "Monocytes", "Eosinophils", "Basophils"))
        values["Lymphocytes"] = max(100 - others, 1)
    if "PT" in values:
        values["PT"] = values["INR(PT)"] * 11.1
    if "pH" in values:
        bicarbonate = 0.0307 * values["pCO2"] * 10 ** (values["pH"] - 6.1)
        values["Calculated Total CO2"] = bicarbonate + 0.0307 * values["pCO2"]
        values["Base Excess"] = 0.93 * (bicarbonate - 24.4 + 14.8 * (values["pH"] - 7.4))
    if "Triglycerides" in values:
        fats = values["Cholesterol, HDL"] + values["Cholesterol, LDL, Calculated"] + values["Triglycerides"] / 5
        values["Cholesterol, Total"] = fats


def report(patient: Patient, one: SimpleNamespace, values: dict) -> dict:
    """value, valuenum, flag and the rest, as the laboratory prints them."""
    rng, (low, high) = patient.rng, one.ranges[patient.sex]
    short = lambda number: None if number is None else f"{number:g}"  # noqa: E731
    cells = {
        "valueuom": one.unit, "ref_range_lower": short(low), "ref_range_upper": short(high), "comments": one.comment,
    }  # fmt: skip
    if one.panel == "egfr":
        return {"comments": f"Estimated GFR = {values[one.key]:.0f} mL/min/1.73 m2, from age, sex and creatinine."}
    if one.scale is None:
        infected = values.get("WBC (urine)", 0) > 15
        texts = {
            "Specimen Type": ("ART.", "VEN."),
            "Nitrite": ("POS",) if infected else ("NEG",),
            "Yeast": ("NONE", "None"),
        }
        texts |= {"Urine Color": ("Yellow", "Straw", "DKYELLOW"), "Epithelial Cells": ("0-2", "<1", "3-5", "N/A")}
        return {
            "value": rng.choice(texts[one.key]),
            "valueuom": one.unit,
            "comments": "___" if rng.random() < 0.02 else None,
        }
    number = round(values[one.key] if one.key == "Base Excess" else max(values[one.key], 0), one.decimals)
    cells |= {"value": f"{number:.{one.decimals}f}", "valuenum": short(number)}
    if one.key in ("Glucose (urine)", "Protein (urine)") and number < 50:
        return cells | {"value": None, "valuenum": None, "comments": "NEG."}
    if low is not None and not low <= number <= high:
        cells["flag"] = "abnormal"
    if one.key == "Troponin T" and number < 0.01:
        cells |= {"value": "<0.01", "valuenum": None, "flag": None}
    elif one.key in ("WBC (urine)", "RBC (urine)") and not 2 < number <= 50:
        cells |= {"value": ">50" if number > 50 else "0-2", "valuenum": None}
    elif one.key == "Glucose" and rng.random() < 0.7 or rng.random() < 0.01:
        cells |= {"value": "___", "comments": one.comment or "New reference range as of ___."}
    return cells


def culture(book: Book, patient: Patient, here: SimpleNamespace, time: datetime, specimen: str) -> None:
    """microbiologyevents: one row when nothing grew, else one for each antibiotic tried on the organism."""
    rng, hospital = patient.rng, book.words.hospital
    spec_itemid, test_itemid, test_name, positive = hospital["cultures"][specimen]
    stored = _whole(time + timedelta(days=rng.uniform(1, 4)))
    row = {
        "subject_id": patient.subject_id, "hadm_id": here.hadm_id if rng.random() < 0.8 else None,
        "spec_itemid": spec_itemid, "micro_specimen_id": book.next_id("micro_specimen_id", 100, 9_999_973),
        "chartdate": _midnight(time), "test_seq": 1, "charttime": time if rng.random() < 0.94 else None,
        "spec_type_desc": "" if rng.random() < 0.02 else specimen, "storedate": _midnight(stored), "storetime": stored,
        "test_itemid": test_itemid, "test_name": test_name,
    }  # fmt: skip
    nothing = ("No MRSA isolated.  ",) if specimen == "MRSA SCREEN" else ("NO GROWTH.  ", "NO GROWTH.  ", "___")
    findings = [{"comments": rng.choice(nothing)}]
    if rng.random() < positive:
        found = hospital["organisms"].get(specimen, hospital["organisms"]["other"])
        row["org_itemid"], row["org_name"], _ = _pick(rng, found)
        row["isolate_num"], findings = 1, [{"comments": "SPARSE GROWTH.  "}]
        if specimen != "MRSA SCREEN" and row["org_name"] != "YEAST":
            findings = []
            for ab_itemid, ab_name in rng.sample(hospital["antibiotics"], 5):
                text, comparison, value, reading, _ = _pick(rng, hospital["dilutions"])
                dilution = {
                    "dilution_text": text,
                    "dilution_comparison": comparison,
                    "dilution_value": value,
                    "interpretation": reading,
                }
                findings.append({"ab_itemid": ab_itemid, "ab_name": ab_name, **dilution})
    for finding in findings:
        book.add("microbiologyevents", microevent_id=book.next_id("microevent_id", 1, 3_999_971), **row, **finding)


# ---- clinics, emergency visits, intensive care


def clinic(book: Book, patient: Patient, visits: int) -> None:
    """omr, and blood draws that belong to no stay."""
    rng, bmi, inches = patient.rng, patient.bmi, patient.inches
    for time in sorted(patient.start + patient.shift + timedelta(days=rng.uniform(-60, 1200)) for _ in range(visits)):
        time = _whole(time).replace(hour=rng.randrange(8, 17))
        if patient.dod and time.date() >= patient.dod:
            continue
        bmi, sbp = max(15, bmi + rng.gauss(0, 0.4)), rng.gauss(patient.sbp, 8)
        pounds = f"{bmi * inches**2 / 703:.2f}".rstrip("0").rstrip(".")
        seen = [
            ("Blood Pressure", f"{sbp:.0f}/{sbp * 0.45 + rng.gauss(20, 5):.0f}", 0.95),
            ("Weight (Lbs)", pounds, 0.85),
        ]
        seen += [("BMI (kg/m2)", f"{bmi:.1f}", 0.75), ("Height (Inches)", f"{inches:g}", 0.4)]
        for name, value, share in seen:
            if rng.random() < share:
                for number in range(1, 3 if rng.random() < 0.03 else 2):
                    row = {"seq_num": number, "result_name": name, "result_value": value}
                    book.add("omr", subject_id=patient.subject_id, chartdate=time.date(), **row)
        if rng.random() < 0.5:
            panels = ["chemistry", "count"] + [
                panel for panel in ("lipids", "thyroid", "liver", "iron") if rng.random() < 0.25
            ]
            panels += ["a1c"] * ("type_2_diabetes" in patient.conditions)
            panels += ["coagulation"] * ("Warfarin" in patient.drugs)
            draw(book, patient, _outside(patient, time), time, panels, special=0.5)


def emergency_visit(book: Book, patient: Patient) -> None:
    """Seen and sent home: a transfer without hadm_id, and a blood draw."""
    rng = patient.rng
    time = _whole(patient.start + patient.shift + timedelta(days=rng.uniform(-30, 1000)))
    if not patient.dod or time.date() < patient.dod:
        move(
            book, {"subject_id": patient.subject_id}, "ED", "Emergency Department", time, time + _minutes(rng, 90, 700),
        )  # fmt: skip
        panels = ["chemistry", "count"] + ["urine"] * (rng.random() < 0.4)
        draw(book, patient, _outside(patient, time), time + timedelta(minutes=50), panels)


def _outside(patient: Patient, time: datetime) -> SimpleNamespace:
    """A visit that is no hospital stay."""
    return SimpleNamespace(hadm_id=None, reason={}, begin=time, died=False, who={"subject_id": patient.subject_id})


def intensive_care(book: Book, patient: Patient, here: SimpleNamespace) -> None:
    """The six event tables of intensive care, for its first three days."""
    rng, icu = patient.rng, book.words.icu
    who = {**here.who, "stay_id": here.stay_id}
    hours = max(min(int((here.icu_out - here.icu_in).total_seconds() / 3600), 72), 1)
    weight = round(patient.bmi * (patient.inches * 0.0254) ** 2, 1)
    at = lambda: _whole(here.icu_in) + _minutes(rng, 1, hours * 60)  # noqa: E731
    vitals(book, patient, here, who, hours, weight)
    for one in icu["inputs"]:
        drug = one["drug"] in here.drugs if "drug" in one else rng.random() < one["share"]
        for _ in range(max(1, round(one["daily"] * hours / 24)) if drug else 0):
            infuse(book, patient, who, at(), one, weight)
    for itemid, share, volume in icu["outputs"]:
        for _ in range(hours // 3 if rng.random() < share else 0):
            time, value = at(), round(volume * rng.lognormvariate(0, 0.5) / 5) * 5
            book.add(
                "outputevents", **who, charttime=time, storetime=_stored(rng, time, 0.15, 90), itemid=itemid,
                value=value, valueuom="ml",
            )  # fmt: skip
    for itemid, share, unit, location, location_category, category in icu["processes"]:
        if rng.random() < share:
            time, order_id, runs = at(), book.next_id("orderid", 1, 9_999_973), int(bool(unit))
            runs_until = time + (_minutes(rng, 30, hours * 60 + 31) if unit else timedelta(minutes=1))
            end = min(runs_until, _whole(here.icu_out))
            minutes, stored = max(int((end - time).total_seconds() / 60), 1), _seconds(rng, end + _minutes(rng, 0, 40))
            book.add(
                "procedureevents", **who, starttime=time, endtime=end, itemid=itemid, value=minutes, valueuom=unit,
                location=location, storetime=f"{stored}.{rng.randrange(1, 1000):03d}" if rng.random() < 0.2 else stored,
                locationcategory=location_category, orderid=order_id, linkorderid=order_id, ordercategoryname=category,
                patientweight=weight, isopenbag=runs, ordercategorydescription="ContinuousProcess" if unit else "Task",
                continueinnextdept=0, statusdescription="FinishedRunning", ORIGINALAMOUNT=minutes, ORIGINALRATE=runs,
            )  # fmt: skip
    for itemid, share, unit in icu["dates"]:
        placed = _whole(here.icu_in) - _minutes(rng, 0, 4000)
        for _ in range(hours // 8 if rng.random() < share else 0):
            time, value = at(), placed if unit == "Date and Time" else _midnight(placed)
            book.add(
                "datetimeevents", **who, charttime=time, storetime=_stored(rng, time, 0, 60), itemid=itemid,
                value=value, valueuom=unit,
            )  # fmt: skip


def vitals(book: Book, patient: Patient, here: SimpleNamespace, who: dict, hours: int, weight: float) -> None:
    """chartevents: signs every hour, temperature and nursing scores every four."""
    rng, icu, acute = patient.rng, book.words.icu, here.reason.get("vitals", {})
    usual = {"hr": patient.hr - 80, "sbp": patient.sbp - 122, "dbp": (patient.sbp - 122) / 2}
    acute = {"dbp": acute.get("sbp", 0) / 2} | acute

    def chart(time, itemid, value, number, unit):
        stored = _stored(rng, time, 0.05, 60)
        book.add(
            "chartevents", **who, charttime=time, storetime=stored, itemid=itemid, value=value, valuenum=number,
            valueuom=unit,
        )  # fmt: skip

    start = _hour(here.icu_in) + timedelta(hours=1)
    for itemid, value, unit in ((226512, f"{weight:g}", "kg"), (226730, f"{patient.inches * 2.54:.0f}", "cm")):
        chart(start, itemid, value, value, unit)
    for hour in range(hours):
        time, fade = start + timedelta(hours=hour), 1.0 if here.died else math.exp(-hour / 40)
        for itemid, center, spread, key, unit in icu["vitals"]:
            value = round(center + usual.get(key, 0) + acute.get(key, 0) * fade + rng.gauss(0, spread))
            value = min(value, 100) if key == "spo2" else max(value, 6)
            chart(time, itemid, value, value, unit)
        if hour % 4 == 0:
            celsius = 36.8 + acute.get("temp", 0) * fade + rng.gauss(0, 0.3)
            itemid, degrees, unit = rng.choice(((223761, celsius * 1.8 + 32, "°F"), (223762, celsius, "°C")))
            chart(time, itemid, f"{degrees:.1f}", f"{degrees:.1f}", unit)
            for itemid, levels in icu["texts"]:
                value, number = levels[min(int(rng.expovariate(1.2)), len(levels) - 1)]
                chart(time, itemid, value, number, None)


def infuse(book: Book, patient: Patient, who: dict, time: datetime, one: dict, weight: float) -> None:
    """One line of inputevents, with its water and class in ingredientevents."""
    rng, order_id, unit, rate_unit = patient.rng, book.next_id("orderid", 1, 9_999_973), one["unit"], one.get("rate")
    amount, minutes = one["amount"] * rng.choice((0.5, 1, 1, 1.5)), rng.randrange(30, 360) if rate_unit else 1
    status = _pick(
        rng, [["FinishedRunning", 70], ["ChangeDose/Rate", 20 if rate_unit else 0], ["Stopped", 6], ["Paused", 4]]
    )[0]
    common = {
        **who, "starttime": time, "endtime": time + timedelta(minutes=minutes),
        "storetime": _stored(rng, time, 0.05, minutes // 2 + 5), "orderid": order_id, "linkorderid": order_id,
        "statusdescription": status,
    }  # fmt: skip
    per_hour = lambda quantity: repr(quantity * 60 / minutes) if rate_unit else None  # noqa: E731
    rate = repr(amount * 1000 / weight / minutes) if rate_unit == "mcg/kg/min" else per_hour(amount)
    total = 250 if one["description"].startswith("Continuous") else None
    book.add(
        "inputevents", **common, itemid=one["itemid"], amount=repr(float(amount)), amountuom=unit, rate=rate,
        rateuom=rate_unit, ordercategoryname=one["category"],
        secondaryordercategoryname="02-Fluids (Crystalloids)" if rate_unit else None,
        ordercomponenttypedescription="Main order parameter", ordercategorydescription=one["description"],
        patientweight=weight, totalamount=total, totalamountuom="ml" if total else None, continueinnextdept=0,
        originalamount=f"{amount:g}", originalrate=rate or f"{amount:g}",
    )  # fmt: skip
    volume = amount if unit == "ml" else 50
    ingredient = 227075 if "Oral" in one["category"] else 226509 if "Blood" in one["category"] else 227074
    for itemid in (220490, ingredient):
        row = {
            "itemid": itemid, "amount": repr(float(volume)), "amountuom": "ml", "rate": per_hour(volume),
            "originalamount": 0,
        }  # fmt: skip
        book.add("ingredientevents", **common, **row, rateuom="mL/hour" if rate_unit else None)


# ---- the truths that were planted


def signals(words: SimpleNamespace) -> list:
    """What tells of which condition or reason, read off the data that the generator itself uses."""
    found = []
    for one in words.conditions + words.reasons + words.status_codes:
        target = {"target": one["name"], "icd9": sorted(set(one["icd9"])), "icd10": sorted(set(one["icd10"]))}

        def tells(table, column, effect, target=target, **where):
            found.append({"table": table, "column": column, **where, **target, "effect": effect})

        for key, amount in one.get("labs", {}).items():
            tells("labevents", "valuenum", f"{key} {amount:+g} standard deviations", itemid=int(words.labs[key].itemid))
        groups = [[group] if isinstance(group, str) else group for group in one.get("drugs", ())]
        for drug in dict.fromkeys(words.drugs[key]["drug"] for group in groups for key in group):
            tells("prescriptions", "drug", "ordered more often", value=drug)
        for key, name in (("bmi", "BMI (kg/m2)"), ("sbp", "Blood Pressure")):
            if key in one:
                tells("omr", "result_value", f"{one[key]:+g}", value=name)
        for key, itemid in (("hr", 220045), ("sbp", 220179), ("rr", 220210), ("spo2", 220277), ("temp", 223761)):
            if key in one.get("vitals", {}):
                tells("chartevents", "valuenum", f"{one['vitals'][key]:+g} at admission", itemid=itemid)
    return found
