"""A made-up hospital with the tables of MIMIC-IV v3.1: coherent patients, the real data's oddities, and planted truths.

Patients have chronic conditions (synthetic_data/conditions.yaml) and come for acute reasons (reasons.yaml); these drive codes, drugs,
labs and vitals. The columns of noise.yaml are drawn from streams of their own and tell nothing. No row of real data is in it.
"""

import csv
import gzip
import json
import math
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace

from mimic_qlora.tables import schema

DATA = Path(__file__).parent / "synthetic_data"
ICD10_SINCE = datetime(2015, 10, 1)
LAST_DAY = datetime(2022, 12, 1)
CHUNK = 7  # rows of one table that stay together when a table is scattered


def write(folder: Path, n_patients: int = 300, seed: int = 0, progress: bool = True, uncoded_share: float = 0.39) -> None:
    """Write hosp/*.csv.gz, icu/*.csv.gz and planted_truths.json into `folder`: the same bytes for the same arguments.

    uncoded_share: share of patients without any coded stay (seen in clinics or the emergency department only).
    """
    from tqdm import tqdm

    words = vocabulary()
    book = Book(words, seed)
    for number in tqdm(range(n_patients), desc="synthetic patients", unit="patient", disable=None if progress else True):
        patient = new_patient(words, seed, number)
        live_through(book, words, patient, coded=patient.rng.random() >= uncoded_share)
    for table in ("d_icd_diagnoses", "d_icd_procedures", "d_hcpcs", "d_items", "d_labitems"):
        for row in words.dictionaries[table]:
            book.add(table, **row)
    for table, column in (("provider", "provider_id"), ("caregiver", "caregiver_id")):
        for one in getattr(book, table + "s"):
            book.add(table, **{column: one})
    book.save(folder)
    truths = {"signal": signals(words), "noise": [{key: noise[key] for key in ("table", "column", "kind")} for noise in words.noise]}
    (folder / "planted_truths.json").write_text(json.dumps(truths, indent=1), encoding="utf-8")


# ---- vocabularies and the book of rows


def vocabulary() -> SimpleNamespace:
    """All data files of synthetic_data."""
    import yaml

    words = SimpleNamespace()
    for path in DATA.glob("*.yaml"):
        setattr(words, path.stem, yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    words.drugs = {row["key"]: row for row in _rows("drugs")}
    words.labs = {row["key"]: lab(row) for row in _rows("labs")}
    words.panels = {}
    for one in words.labs.values():
        words.panels.setdefault(one.panel, []).append(one)
    words.dictionaries = {table: _rows(table) for table in ("d_icd_diagnoses", "d_icd_procedures", "d_hcpcs", "d_items")}
    labels = ("itemid", "label", "fluid", "category")
    words.dictionaries["d_labitems"] = [{key: row[key] for key in labels} for row in _rows("labs") + _rows("d_labitems_more")]
    return words


def _rows(name: str) -> list:
    with open(DATA / f"{name}.csv", encoding="utf-8", newline="") as file:
        return [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]


def lab(row: dict) -> SimpleNamespace:
    number = lambda key: float(row[key]) if row[key] else None  # noqa: E731
    ranges = {sex: (number(f"low_{sex.lower()}"), number(f"high_{sex.lower()}")) for sex in "FM"}
    return SimpleNamespace(**{key: row[key] for key in ("key", "itemid", "unit", "panel", "scale", "comment")}, ranges=ranges,
                           center=number("center"), spread=number("spread"), decimals=int(row["decimals"] or 0))


class Book:
    """Rows of all tables as CSV lines, with the hospital's id counters and the noise streams."""

    def __init__(self, words, seed: int):
        self.tables = {name: table for name, table in schema().items() if table.module in ("hosp", "icu")}
        self.position = {name: {column: i for i, column in enumerate(table.columns)} for name, table in self.tables.items()}
        self.lines = {name: [] for name in self.tables}
        self.seed = seed
        rng = Random(f"{seed}:staff")
        letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        self.providers = sorted({f"P{rng.randrange(100):02d}" + "".join(rng.choices(letters, k=3)) for _ in range(400)})
        self.caregivers = rng.sample(range(1000, 100000), 250)
        self.counters = {}
        self.noise = {name: [] for name in self.tables}
        for column in words.noise:
            self.noise[column["table"]].append(noise_stream(column, seed, self.position[column["table"]], self))

    def next_id(self, kind: str, first: int, size: int, step: int = 7_368_787) -> int:
        """Ids that look random and never repeat: a walk round `size` numbers in strides that share no factor with it."""
        self.counters[kind] = (self.counters.get(kind, self.seed * 131 + len(kind) * 977) + step) % size
        return first + self.counters[kind]

    def add(self, table: str, **row) -> None:
        position, cells = self.position[table], [None] * len(self.position[table])
        for column, value in row.items():
            cells[position[column]] = value
        for where, draw in self.noise[table]:
            cells[where] = draw(cells)
        self.lines[table].append(",".join([_cell(value) for value in cells]))

    def save(self, folder: Path) -> None:
        for name, table in self.tables.items():
            lines, rng = self.lines[name], Random(f"{self.seed}:{name}")
            chunks = [lines[i:i + CHUNK] for i in range(0, len(lines), CHUNK)]
            rng.shuffle(chunks)
            path = folder / table.module / f"{name}.csv.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            text = "\n".join([",".join(table.columns), *(line for chunk in chunks for line in chunk), ""])
            with open(path, "wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=4, mtime=0) as file:
                file.write(text.encode("utf-8"))


def _cell(value) -> str:
    """One CSV cell: null is nothing, the empty string is \"\"."""
    if value is None:
        return ""
    text = str(value)
    if text == "" or "," in text or '"' in text or "\n" in text:
        return '"' + text.replace('"', '""') + '"'
    return text


def noise_stream(column: dict, seed: int, position: dict, book: Book) -> tuple:
    """Position of the column, and the function that draws its next cell."""
    rng, share, known = Random(f"{seed}:noise:{column['table']}.{column['column']}"), column.get("share", 1.0), {}
    if column["kind"] == "uniform":
        value = lambda: round(rng.uniform(column["low"], column["high"]), 2)  # noqa: E731
    elif column["kind"] == "category":
        levels, weights = list(column["values"]), list(column["values"].values())
        value = lambda: rng.choices(levels, weights)[0]  # noqa: E731
    else:
        staff = getattr(book, column["kind"] + "s")
        value = lambda: staff[int(len(staff) * rng.random() ** 2)]  # noqa: E731
    where, subject = position.get(column.get("where")), position["subject_id"]

    def draw(cells):
        if column.get("per"):
            if cells[subject] not in known:
                known[cells[subject]] = value() if rng.random() < share else None
            return known[cells[subject]]
        drawn = value() if rng.random() < share else None
        return drawn if where is None or cells[where] is not None else None

    return position[column["column"]], draw


# ---- who the patient is


@dataclass
class Patient:
    """One made-up person. Times are shifted by `shift`, as MIMIC's are; `conditions` maps a name to its codes by ICD version."""

    rng: Random
    subject_id: int
    sex: str
    age: int
    anchor_year: int
    year_group: str
    start: datetime  # first contact, unshifted
    shift: timedelta
    conditions: dict
    drugs: list
    inches: float
    bmi: float
    lab_shift: dict
    avoid: set
    sbp: float = 122.0
    hr: float = 80.0
    poe: int = 0
    emar: int = 0
    dod: date | None = None
    lab_habit: dict = field(default_factory=dict)

    def next_poe(self) -> int:
        self.poe += self.rng.choice((1, 1, 1, 2, 5))
        return self.poe


def new_patient(words, seed: int, number: int) -> Patient:
    rng = Random(f"{seed}:{number}")
    subject_id = 10_000_000 + ((number + 1) * 7_368_787 + seed * 104_729) % 10_000_000
    sex = "F" if rng.random() < 0.53 else "M"
    age = int(min(max(rng.choice((rng.gauss(66, 14), rng.gauss(66, 14), rng.gauss(38, 14))), 18), 97))
    group = rng.choices(words.hospital["year_groups"], words.hospital["year_group_weights"])[0]
    start = datetime(int(group[:4]), 1, 1) + timedelta(days=rng.random() * 1090, seconds=rng.randrange(86400))
    start = min(start, LAST_DAY - timedelta(days=40))
    anchor_year = rng.randrange(2110, 2186)
    shift = timedelta(days=round((anchor_year - start.year) * 365.25))
    held, defs = chronic_conditions(words, rng, sex, age), {one["name"]: one for one in words.conditions}
    lab_shift = {}
    for name in held:
        for key, amount in defs[name].get("labs", {}).items():
            lab_shift[key] = lab_shift.get(key, 0) + amount
    avoid = {drug for name in held for drug in defs[name].get("avoid", ())}
    drugs = home_drugs(words, rng, held, defs, avoid)
    if "Warfarin" in drugs:
        lab_shift["INR(PT)"] = lab_shift.get("INR(PT)", 0) + 8.5
    total = lambda key: sum(defs[name].get(key, 0) for name in held)  # noqa: E731
    bmi = max(17, rng.gauss(25.5, 3.2) + total("bmi"))
    return Patient(rng, subject_id, sex, age, anchor_year, group, start, shift, held, drugs, rng.gauss(63.5 if sex == "F" else 69, 2.6),
                   bmi, lab_shift, avoid, sbp=rng.gauss(120, 9) + total("sbp"), hr=rng.gauss(78, 8) + total("hr"))


def chronic_conditions(words, rng: Random, sex: str, age: int) -> dict:
    """Names of the conditions held -> [ICD-9 codes, ICD-10 codes]."""
    held, defs = {}, []
    for one in words.conditions:
        chance = one["share"] / (1 + math.exp((one["mid"] - age) / one["width"])) * one.get("sex", {}).get(sex, 1.0)
        for other, times in one.get("with", {}).items():
            chance *= times if other in held else 1
        draw = rng.random()
        if draw < min(chance, 0.95) and not any(other in held for other in one.get("without", ())):
            held[one["name"]] = None
            defs.append(one)
    for one in defs:
        combined = [other for other in one.get("combined", ()) if other["with"] in held]
        codes = [next((other[icd] for other in combined if icd in other), rng.choice(one[icd])) for icd in ("icd9", "icd10")]
        held[one["name"]] = ([codes[0]], [codes[1]])
        for status in one.get("status", ()):
            if rng.random() < status["p"]:
                held[one["name"]][0].append(status["icd9"])
                held[one["name"]][1].append(status["icd10"])
    return held


def home_drugs(words, rng: Random, held: dict, defs: dict, avoid: set) -> list:
    family = {drug: set(members) for members in words.hospital["families"] for drug in members}
    drugs = []
    for name in held:
        for group in defs[name].get("drugs", ()):
            open_to = [drug for drug in group if drug not in avoid and not family.get(drug, {drug}) & set(drugs)]
            if open_to and rng.random() < 0.88:
                drugs.append(rng.choice(open_to))
    return list(dict.fromkeys(drugs))


# ---- what happens to the patient


def live_through(book: Book, words, patient: Patient, coded: bool) -> None:
    rng, now = patient.rng, patient.start
    illness = len(patient.conditions)
    if coded:
        stays = 1 + min(int(rng.expovariate(1 / (0.5 + 0.16 * illness))), 14)
        for number in range(stays):
            reason = why(words, patient, now)
            if reason is None or now > LAST_DAY:
                break
            discharge = stay(book, words, patient, now, reason)
            if patient.dod:
                break
            now = discharge + timedelta(days=min(rng.lognormvariate(5.0, 1.2), 1500), hours=rng.uniform(0, 24))
        if patient.dod is None and rng.random() < 0.012 * max(patient.age - 50, 0) * 0.6:
            patient.dod = (discharge + patient.shift + timedelta(days=rng.lognormvariate(4.5, 0.9))).date()
    elif rng.random() < 0.1:
        stay(book, words, patient, now, next(one for one in words.reasons if one["name"] == "chest_pain"), coded=False)
    clinic(book, words, patient, visits=int(rng.expovariate(1 / (2 + illness / 2))) + (not coded))
    for _ in range(int(rng.expovariate(1.4)) + (not coded and rng.random() < 0.5)):
        emergency_visit(book, words, patient)
    age = patient.age if patient.age <= 89 else 91
    book.add("patients", subject_id=patient.subject_id, gender=patient.sex, anchor_age=age, anchor_year=patient.anchor_year,
             anchor_year_group=patient.year_group, dod=patient.dod)


def why(words, patient: Patient, now: datetime) -> dict | None:
    weights = []
    for one in words.reasons:
        low, high = one.get("ages", (0, 120))
        first, last = one.get("years", (0, 9999))
        fits = low <= patient.age <= high and first <= now.year <= last
        fits = fits and (not one.get("needs") or any(name in patient.conditions for name in one["needs"]))
        weight = one["weight"] * one.get("sex", {}).get(patient.sex, 1.0) * fits
        for name, times in one.get("boost", {}).items():
            weight *= times if name in patient.conditions else 1
        weights.append(weight)
    return patient.rng.choices(words.reasons, weights)[0] if any(weights) else None


def stay(book: Book, words, patient: Patient, arrival: datetime, reason: dict, coded: bool = True) -> datetime:
    """One hospital stay, into every table that it touches. Returns the unshifted time of discharge."""
    rng = patient.rng
    days = min(max(rng.lognormvariate(math.log(reason["los"]), 0.45), 0.5), 30)
    chance = min(reason["death"] * (patient.age / 68) ** 2, 0.5)
    here = SimpleNamespace(
        reason=reason, version=10 if arrival >= ICD10_SINCE else 9, begin=(arrival + patient.shift).replace(second=0, microsecond=0),
        hadm_id=book.next_id("hadm_id", 20_000_000, 9_999_991), died=coded and rng.random() < chance, icu=rng.random() < reason["icu"], days=days)
    here.end = (here.begin + timedelta(days=days)).replace(second=0)
    here.has_emar = rng.random() < (0.98 if here.version == 10 else 0.4)
    here.drugs = stay_drugs(words, patient, here)
    admission(book, words, patient, here)
    movements(book, words, patient, here)
    orders(book, words, patient, here)
    stay_labs(book, words, patient, here)
    for specimen in reason.get("cultures", []) + ["MRSA SCREEN"] * here.icu:
        culture(book, words, patient, here.hadm_id, here.begin + timedelta(hours=rng.uniform(0, 20)), specimen)
    if coded:
        codes(book, words, patient, here)
    if here.icu:
        intensive_care(book, words, patient, here)
    return arrival + timedelta(days=days)


def stay_drugs(words, patient: Patient, here) -> list:
    rng, hospital, reason = patient.rng, words.hospital, here.reason
    avoid = patient.avoid | set(reason.get("avoid", ()))
    if reason.get("kind") == "obstetric":
        avoid |= set(hospital["not_in_pregnancy"])
    wanted = [drug for drug in patient.drugs if rng.random() < 0.93]
    wanted += [drug for drug in reason.get("drugs", ()) if rng.random() < 0.8]
    for drug, share in (hospital["ward_drugs"] | (hospital["icu_drugs"] if here.icu else {})).items():
        wanted += [drug] * (rng.random() < share)
    if "type_2_diabetes" in patient.conditions:
        wanted += ["Dextrose 50%"] * (rng.random() < 0.6)
    return [drug for drug in dict.fromkeys(wanted) if drug not in avoid]


def admission(book: Book, words, patient: Patient, here) -> None:
    rng, hospital, reason = patient.rng, words.hospital, here.reason
    ways = hospital["kinds"][reason.get("kind", "emergency")]
    here.type, here.location, _ = rng.choices(ways, [way[2] for way in ways])[0]
    here.ed_in = here.ed_out = None
    if here.location in ("EMERGENCY ROOM", "WALK-IN/SELF REFERRAL"):
        here.ed_in = here.begin - timedelta(minutes=rng.randrange(60, 600))
        here.ed_out = here.begin + timedelta(minutes=rng.randrange(20, 200))
    facility = reason.get("facility", 0.06) + max(patient.age - 65, 0) * 0.012
    places = hospital["facilities"] if rng.random() < facility else hospital["homes"]
    goes_to = rng.choices([place[0] for place in places], [place[1] for place in places])[0]
    if reason.get("kind") == "observation" and rng.random() < 0.7:
        goes_to = None
    payer = hospital["insurance"]["old" if patient.age >= 65 else "young"]
    book.add("admissions", subject_id=patient.subject_id, hadm_id=here.hadm_id, admittime=here.begin, dischtime=here.end,
             deathtime=here.end - timedelta(minutes=rng.randrange(1, 90)) if here.died else None, admission_type=here.type,
             admission_location=here.location, discharge_location="DIED" if here.died else goes_to,
             insurance=rng.choices(list(payer), payer.values())[0] if rng.random() < 0.98 else None,
             edregtime=here.ed_in, edouttime=here.ed_out, hospital_expire_flag=int(here.died))
    if here.died:
        patient.dod = here.end.date()


def movements(book: Book, words, patient: Patient, here) -> None:
    """transfers, services and icustays: an intensive care stay carries the id of its first transfer."""
    rng, reason = patient.rng, here.reason
    who = {"subject_id": patient.subject_id, "hadm_id": here.hadm_id}
    transfer_id = lambda: book.next_id("transfer_id", 30_000_000, 9_999_991)  # noqa: E731
    if here.ed_in:
        book.add("transfers", **who, transfer_id=transfer_id(), eventtype="ED", careunit="Emergency Department", intime=here.ed_in, outtime=here.ed_out)
    seconds = lambda time: time + timedelta(seconds=rng.randrange(60))  # noqa: E731
    time = seconds(max(here.begin, here.ed_out or here.begin))
    end = seconds(here.end)
    wards = [(reason["careunit"], None)]
    if here.icu:
        unit = rng.choice(words.hospital["icu_by_service"][reason["service"]])
        share = 1.0 if here.died or here.days < 1.2 else rng.uniform(0.25, 0.7)
        wards = [(unit, share)] + ([] if share == 1.0 else wards)
    elif here.days > 3 and rng.random() < 0.25:
        wards.append((rng.choice(("Med/Surg", "Medicine", "Discharge Lounge")), None))
    for number, (unit, share) in enumerate(wards):
        until = end if number == len(wards) - 1 else seconds(time + (end - time) * (share or rng.uniform(0.3, 0.7)))
        one = transfer_id()
        book.add("transfers", **who, transfer_id=one, eventtype="transfer" if number else "admit", careunit=unit, intime=time, outtime=until)
        if share:
            here.stay_id, here.icu_in, here.icu_out = one, time, until
            book.add("icustays", **who, stay_id=one, first_careunit=unit, last_careunit=unit, intime=time, outtime=until,
                     los=repr((until - time).total_seconds() / 86400))
        time = until
    book.add("transfers", **who, transfer_id=transfer_id(), eventtype="discharge", intime=end)
    first = rng.choice(("MED", "SURG")) if rng.random() < 0.1 else None
    changes = [(None, first), (first, reason["service"])] if first not in (None, reason["service"]) else [(None, reason["service"])]
    for number, (before, after) in enumerate(changes):
        book.add("services", **who, transfertime=seconds(here.begin + timedelta(hours=20 * number)), prev_service=before, curr_service=after)


def codes(book: Book, words, patient: Patient, here) -> None:
    """diagnoses_icd, procedures_icd, drgcodes and hcpcsevents."""
    rng, reason, which = patient.rng, here.reason, 0 if here.version == 9 else 1
    who = {"subject_id": patient.subject_id, "hadm_id": here.hadm_id}
    listed = [rng.choice(reason["icd9" if which == 0 else "icd10"])]
    listed += [extra[which] for extra in reason.get("extra", ()) if rng.random() < extra[2]]
    chronic = [code for name, both in patient.conditions.items() if rng.random() < 0.88 for code in both[which]]
    chronic += [one[f"icd{here.version}"] for one in words.status_codes if set(one["drugs"]) & set(patient.drugs) and rng.random() < one["p"]]
    rng.shuffle(chronic)
    listed += chronic + [status[which] for status in reason.get("status", ())]
    for number, code in enumerate(list(dict.fromkeys(listed))[:39], 1):
        book.add("diagnoses_icd", **who, seq_num=number, icd_code=code, icd_version=here.version)
    done = [procedure[which] for procedure in reason.get("procedures", ()) if rng.random() < procedure[2]]
    if "end_stage_renal_disease" in patient.conditions:
        done.append(("3995", "5A1D70Z")[which])
    for number, code in enumerate(dict.fromkeys(done), 1):
        day = here.begin + timedelta(days=rng.random() ** 2 * here.days)
        book.add("procedures_icd", **who, seq_num=number, chartdate=day.date(), icd_code=code, icd_version=here.version)
    if reason.get("kind") != "observation" and rng.random() < 0.9:
        severity = min(4, 1 + len(patient.conditions) // 4 + here.icu)
        book.add("drgcodes", **who, drg_type="HCFA", drg_code=reason["hcfa"][0], description=reason["hcfa"][1])
        book.add("drgcodes", **who, drg_type="APR", drg_code=reason["apr"][0], description=reason["apr"][1],
                 drg_severity=severity, drg_mortality=max(1, min(4, severity + here.died * 2 - (patient.age < 60))))
    titles = {row["code"]: row["short_description"] for row in words.dictionaries["d_hcpcs"]}
    for number, code in enumerate((code for code in reason.get("hcpcs", ()) if rng.random() < 0.6), 1):
        book.add("hcpcsevents", **who, chartdate=here.begin.date(), hcpcs_cd=code, seq_num=number, short_description=titles[code])


# ---- orders and drugs given


def orders(book: Book, words, patient: Patient, here) -> None:
    """poe and poe_detail, and for each drug pharmacy, prescriptions, emar and emar_detail."""
    rng = patient.rng
    time = here.begin + timedelta(minutes=rng.randrange(5, 60), seconds=rng.randrange(60))
    admit = order(book, patient, here, time, "ADT orders", "Admit")
    detail(book, patient, admit, "Admit category", "Place in observation" if "OBSERVATION" in here.type else "Admit to inpatient")
    detail(book, patient, admit, "Admit to", "ICU" if here.icu else words.hospital["admit_to"][here.reason["service"]])
    for kind, subtype in words.hospital["routine_orders"]:
        if rng.random() < 0.6:
            order(book, patient, here, time, kind, subtype)
    if rng.random() < 0.5:
        detail(book, patient, order(book, patient, here, time, "General Care", "Code status"), "Code status",
               rng.choices(words.hospital["code_status"], (70, max(1, patient.age - 60), 15))[0])
    if here.icu:
        detail(book, patient, order(book, patient, here, time, "General Care", "Tubes/Drains"), "Tubes & Drains type", "Indwelling urinary catheter (IUC) - Foley")
    for key in here.drugs:
        late = timedelta(hours=rng.expovariate(1 / 20)) if rng.random() < 0.35 else timedelta()
        prescribe(book, words.drugs[key], patient, here, min(time + late, here.end - timedelta(hours=2)))
    leave = order(book, patient, here, here.end - timedelta(minutes=rng.randrange(20, 240)), "ADT orders", "Discharge")
    detail(book, patient, leave, "Discharge Planning", "Finalized")
    detail(book, patient, leave, "Discharge When", "Discharge Now")


def order(book: Book, patient: Patient, here, time: datetime, kind: str, subtype=None, transaction="New", stops=None, stopped_by=None, seq=None) -> int:
    seq = seq or patient.next_poe()
    name = lambda number: number and f"{patient.subject_id}-{number}"  # noqa: E731
    book.add("poe", poe_id=name(seq), poe_seq=seq, subject_id=patient.subject_id, hadm_id=here.hadm_id, ordertime=time, order_type=kind, order_subtype=subtype,
             transaction_type=transaction, discontinue_of_poe_id=name(stops), discontinued_by_poe_id=name(stopped_by), order_status="Inactive")
    return seq


def detail(book: Book, patient: Patient, seq: int, field_name: str, value: str) -> None:
    book.add("poe_detail", poe_id=f"{patient.subject_id}-{seq}", poe_seq=seq, subject_id=patient.subject_id, field_name=field_name, field_value=value)


def prescribe(book: Book, drug: dict, patient: Patient, here, time: datetime) -> None:
    rng = patient.rng
    start = (time + timedelta(hours=1)).replace(minute=0, second=0)
    stop = here.end.replace(minute=0, second=0) + timedelta(hours=1)
    once = drug["frequency"] in ("ONCE", "NOW X1")
    stopped = not once and rng.random() < 0.25
    if once:
        stop = min(stop, start + timedelta(hours=rng.choice((1, 6, 23))))
    elif stopped:
        stop = start + (stop - start) * rng.random()
        stop = stop.replace(minute=0, second=0)
    seq, ender = patient.next_poe(), patient.next_poe() if stopped else None
    order(book, patient, here, time, "IV therapy" if drug["proc_type"] == "IV Large Volume" else "Medications",
          "IV fluids" if drug["proc_type"] == "IV Large Volume" else None, seq=seq, stopped_by=ender)
    if stopped:
        order(book, patient, here, stop, "Medications", transaction=rng.choice(("D/C", "Change")), stops=seq, seq=ender)
    if rng.random() < 0.035:  # as in the real tables: an order stopped before it began
        stop = start - timedelta(hours=rng.randrange(1, 5))
    pharmacy_id = book.next_id("pharmacy_id", 1_000_000, 98_999_987)
    who = {"subject_id": patient.subject_id, "hadm_id": here.hadm_id, "pharmacy_id": pharmacy_id, "poe_id": f"{patient.subject_id}-{seq}"}
    entered = time + timedelta(seconds=rng.randrange(900))
    status = "Discontinued" if stopped else "Expired" if once else "Discontinued via patient discharge"
    book.add("pharmacy", **who, starttime=start, stoptime=stop if rng.random() < 0.99 else None, medication=drug["drug"] if drug["proc_type"] != "IV Large Volume" else None,
             proc_type=drug["proc_type"], status=status, entertime=entered, verifiedtime=entered, route=drug["route"], frequency=drug["frequency"],
             disp_sched={"1": "10", "2": "08, 20", "3": "08, 14, 20", "4": "0, 6, 12, 18"}.get(drug["doses_per_24_hrs"]),
             infusion_type="C" if drug["route"] == "IV DRIP" else None, sliding_scale="Y" if drug["key"] == "Insulin" else None,
             doses_per_24_hrs=drug["doses_per_24_hrs"], duration_interval="Doses" if once else "Ongoing")
    dose = {key: drug[key] for key in ("formulary_drug_cd", "gsn", "ndc", "prod_strength", "dose_val_rx", "dose_unit_rx", "form_val_disp", "form_unit_disp", "route")}
    if rng.random() < 0.2 and drug["dose_val_rx"].isdigit() and drug["form_val_disp"].isdigit():
        dose |= {key: str(2 * int(dose[key])) for key in ("dose_val_rx", "form_val_disp")}
    form = "" if rng.random() < 0.15 else "TAB" if rng.random() < 0.01 else None
    common = {**who, "poe_seq": seq, "starttime": start, "stoptime": stop, "doses_per_24_hrs": drug["doses_per_24_hrs"]}
    book.add("prescriptions", **common, **dose, form_rx=form, drug_type="BASE" if drug["proc_type"] == "IV Large Volume" else "MAIN",
             drug="" if rng.random() < 0.0005 else drug["drug"])
    if drug["base"]:
        book.add("prescriptions", **common, drug_type="BASE", drug=drug["base"], formulary_drug_cd="BASE", ndc="0", prod_strength="100 mL Bag",
                 dose_val_rx="100", dose_unit_rx="mL", form_val_disp="1", form_unit_disp="BAG", route=drug["route"])
    if here.has_emar and drug["proc_type"] != "IV Large Volume":
        administer(book, drug, dose, patient, here, seq, pharmacy_id, start, max(stop, start + timedelta(hours=1)))


def administer(book: Book, drug: dict, dose: dict, patient: Patient, here, poe_seq: int, pharmacy_id: int, start: datetime, stop: datetime) -> None:
    rng = patient.rng
    every = 24 / float(drug["doses_per_24_hrs"]) if drug["doses_per_24_hrs"] else rng.choice((6, 9, 14))
    flush = "Flush" in drug["drug"]
    events = ("Flushed", "Not Flushed") if flush else ("Administered", "Not Given", "Hold Dose", "Delayed Administered", "Confirmed")
    due, given = start, 0
    while due < stop and given < 14:
        given += 1
        patient.emar += 1
        time = due + timedelta(minutes=rng.randrange(-20, 60))
        event = rng.choices(events, (75, 25) if flush else (80, 9, 2, 2, 7))[0] if rng.random() < 0.99 else None
        emar_id = f"{patient.subject_id}-{patient.emar}"
        book.add("emar", subject_id=patient.subject_id, hadm_id=here.hadm_id if rng.random() < 0.97 else None, emar_id=emar_id, emar_seq=patient.emar,
                 poe_id=f"{patient.subject_id}-{poe_seq}", pharmacy_id=pharmacy_id if rng.random() < 0.82 else None, charttime=time,
                 medication=drug["drug"] if rng.random() < 0.96 else None, event_txt=event, scheduletime=due,
                 storetime=time + timedelta(minutes=rng.randrange(-15, 0) if rng.random() < 0.03 else rng.choice((0, 0, 1, 3, 12))))
        kind = "IV Flush" if flush else "Insulin SC Sliding Scale" if drug["key"] == "Insulin" else "IV Infusion" if drug["route"] == "IV DRIP" else "Standard Maintenance Medication"
        one = {"subject_id": patient.subject_id, "emar_id": emar_id, "emar_seq": patient.emar}
        book.add("emar_detail", **one, administration_type=kind, complete_dose_not_given="No" if event == "Administered" else None,
                 dose_due=dose["dose_val_rx"], dose_due_unit=dose["dose_unit_rx"], will_remainder_of_dose_be_given="No" if event == "Administered" else None)
        if event in ("Administered", "Flushed", "Delayed Administered"):
            book.add("emar_detail", **one, parent_field_ordinal="1.1", pharmacy_id=pharmacy_id, dose_given="___" if rng.random() < 0.02 else dose["dose_val_rx"],
                     dose_given_unit=dose["dose_unit_rx"], product_amount_given=dose["form_val_disp"], product_unit=dose["form_unit_disp"],
                     product_code=dose["formulary_drug_cd"], product_description=f"{drug['drug']} {drug['prod_strength']}", route="PO" if drug["route"].startswith("PO") and rng.random() < 0.3 else None)
        due += timedelta(hours=every)


# ---- laboratory


def stay_labs(book: Book, words, patient: Patient, here) -> None:
    rng, reason = patient.rng, here.reason
    special = [words.labs[key] for key in (reason.get("labs", {}) | patient.lab_shift) if words.labs[key].panel in ("special", "iron") and rng.random() < 0.6]
    panels = ["chemistry", "count", "egfr", "differential", *reason.get("panels", ())]
    panels += ["coagulation"] * bool({"Warfarin", "Heparin Sodium"} & set(here.drugs)) + ["a1c"] * ("type_2_diabetes" in patient.conditions and rng.random() < 0.5)
    panels += ["liver"] * ("cirrhosis" in patient.conditions or rng.random() < 0.3) + ["thyroid"] * ("hypothyroidism" in patient.conditions and rng.random() < 0.5)
    panels += ["cardiac"] * ("heart_failure" in patient.conditions and rng.random() < 0.5) + [panel for panel in ("lipids", "iron", "a1c", "thyroid", "urine", "cardiac") if rng.random() < 0.08]
    first = here.ed_in + timedelta(minutes=40) if here.ed_in else here.begin + timedelta(hours=2)
    draw(book, words, patient, here, first, panels, special)
    day = here.begin.replace(hour=5, minute=0) + timedelta(days=1, minutes=rng.randrange(30, 150))
    while day < here.end and (day - here.begin).days < 15:
        again = ["chemistry", "count"] + ["coagulation"] * ("coagulation" in panels) + [panel for panel in ("liver", "gas") if panel in panels and rng.random() < 0.5]
        draw(book, words, patient, here, day, again + ["gas"] * (here.icu and "gas" not in again), ())
        if here.icu and day < here.begin + timedelta(days=3):
            draw(book, words, patient, here, min(day + timedelta(hours=11), here.end), ["chemistry", "gas"], ())
        day += timedelta(days=1, minutes=rng.randrange(-25, 25))


def draw(book: Book, words, patient: Patient, here, time: datetime, panels, special) -> None:
    """One blood draw: results of the panels, each panel its own specimen. `here` is None for a clinic visit."""
    rng = patient.rng
    hours = max((time - here.begin).total_seconds() / 3600, 0) if here else 0
    acute = here.reason.get("labs", {}) if here else {}
    hadm_id = here.hadm_id if here and time >= here.begin - timedelta(hours=12) and rng.random() < 0.94 else None
    if here:
        order(book, patient, here, time - timedelta(minutes=30), "Lab")
    tests = [one for panel in dict.fromkeys(panels) for one in words.panels[panel]] + [one for one in special if one.panel not in panels]
    values = {one.key: result(patient, one, acute.get(one.key, 0), hours) for one in tests if one.scale}
    agree(patient, values)
    specimens, stored = {}, {}
    for one in tests:
        if one.panel not in specimens:
            specimens[one.panel] = book.next_id("specimen_id", 100, 99_999_989)
            delay = rng.uniform(100, 666) if rng.random() < 0.003 else rng.lognormvariate(0.2, 0.5)
            stored[one.panel] = (time + timedelta(hours=delay)).replace(second=0) if rng.random() < 0.99 else None
        book.add("labevents", labevent_id=book.next_id("labevent_id", 1, 158_000_003), subject_id=patient.subject_id, hadm_id=hadm_id, specimen_id=specimens[one.panel],
                 itemid=one.itemid, charttime=time.replace(second=0), storetime=stored[one.panel], **report(patient, one, values))


def result(patient: Patient, one, acute: float, hours: float) -> float:
    """A test's value: the patient's habit, chronic shifts, the acute shift fading over days, and chance."""
    rng = patient.rng
    if one.key not in patient.lab_habit:
        patient.lab_habit[one.key] = rng.gauss(0, 0.6)
    z = patient.lab_habit[one.key] + patient.lab_shift.get(one.key, 0) + acute * math.exp(-hours / 60) + rng.gauss(0, 0.45)
    return one.center * math.exp(one.spread * z) if one.scale == "log" else one.center + one.spread * z


def agree(patient: Patient, values: dict) -> None:
    """Make values that hang together by arithmetic do so."""
    if "Hemoglobin" in values:
        values["Hemoglobin"] = max(values["Hemoglobin"] + (1.0 if patient.sex == "M" else 0), 4.5)
        values["Hematocrit"] = values["Hemoglobin"] * 3 + patient.rng.gauss(0, 0.4)
        values["Red Blood Cells"] = values["Hematocrit"] / values["MCV"] * 10
        values["MCH"] = values["Hemoglobin"] / values["Red Blood Cells"] * 10
        values["MCHC"] = values["Hemoglobin"] / values["Hematocrit"] * 100
    if "Creatinine" in values:
        values["Creatinine"] = min(values["Creatinine"] * (1.12 if patient.sex == "M" else 1), 14)
        values["Bicarbonate"] = max(values["Bicarbonate"], 6)
        values["Anion Gap"] = values["Sodium"] + values["Potassium"] - values["Chloride"] - values["Bicarbonate"]
        values["Estimated GFR (MDRD equation)"] = 175 * values["Creatinine"] ** -1.154 * patient.age ** -0.203 * (0.742 if patient.sex == "F" else 1)
    if "Neutrophils" in values:
        values["Neutrophils"] = min(values["Neutrophils"], 88)
        values["Lymphocytes"] = max(100 - sum(values[key] for key in ("Neutrophils", "Monocytes", "Eosinophils", "Basophils")), 1)
    if "PT" in values:
        values["PT"] = values["INR(PT)"] * 11.1
    if "pH" in values:
        bicarbonate = 0.0307 * values["pCO2"] * 10 ** (values["pH"] - 6.1)
        values["Calculated Total CO2"] = bicarbonate + 0.0307 * values["pCO2"]
        values["Base Excess"] = 0.93 * (bicarbonate - 24.4 + 14.8 * (values["pH"] - 7.4))
    if "Triglycerides" in values:
        values["Cholesterol, Total"] = values["Cholesterol, HDL"] + values["Cholesterol, LDL, Calculated"] + values["Triglycerides"] / 5


def report(patient: Patient, one, values: dict) -> dict:
    """value, valuenum, flag and the rest, as the laboratory prints them."""
    rng, (low, high) = patient.rng, one.ranges[patient.sex]
    cells = {"valueuom": one.unit, "ref_range_lower": _short(low), "ref_range_upper": _short(high), "comments": one.comment}
    if one.key == "Estimated GFR (MDRD equation)":
        return {"comments": f"Estimated GFR = {values[one.key]:.0f} mL/min/1.73 m2, from age, sex and creatinine." if one.key in values else "___"}
    if one.scale is None:
        infected = values.get("WBC (urine)", 0) > 15
        words = {"Specimen Type": ("ART.", "VEN."), "Nitrite": ("POS" if infected else "NEG",), "Urine Color": ("Yellow", "Straw", "DKYELLOW"),
                 "Yeast": ("NONE", "None"), "Epithelial Cells": ("0-2", "<1", "3-5", "N/A")}
        return {"value": rng.choice(words[one.key]), "valueuom": one.unit, "comments": "___" if rng.random() < 0.02 else None}
    number = max(round(values[one.key], one.decimals), 0 if one.key != "Base Excess" else -40)
    cells |= {"value": f"{number:.{one.decimals}f}", "valuenum": _short(number)}
    if low is not None and not low <= number <= high:
        cells["flag"] = "abnormal"
    if one.key == "Troponin T" and number < 0.01:
        cells |= {"value": "<0.01", "valuenum": None, "flag": None}
    if one.key in ("WBC (urine)", "RBC (urine)") and number > 50:
        cells |= {"value": ">50", "valuenum": None}
    elif one.key == "RBC (urine)" and number <= 2:
        cells |= {"value": "0-2", "valuenum": None}
    if one.key == "Glucose" and rng.random() < 0.7 or rng.random() < 0.01:
        cells |= {"value": "___", "comments": one.comment or "New reference range as of ___."}
    return cells


def _short(number) -> str | None:
    return None if number is None else f"{number:g}"


def culture(book: Book, words, patient: Patient, hadm_id, time: datetime, specimen: str) -> None:
    rng, hospital = patient.rng, words.hospital
    spec, test, name, positive = hospital["cultures"][specimen]
    stored = (time + timedelta(days=rng.uniform(1, 4))).replace(second=0)
    timed = rng.random() < 0.94
    common = {"subject_id": patient.subject_id, "hadm_id": hadm_id if rng.random() < 0.9 else None, "micro_specimen_id": book.next_id("micro_specimen_id", 100, 9_999_973),
              "chartdate": datetime.combine(time, datetime.min.time()), "charttime": time.replace(second=0) if timed else None, "spec_itemid": spec,
              "spec_type_desc": "" if rng.random() < 0.02 else specimen, "test_seq": 1, "storedate": datetime.combine(stored, datetime.min.time()), "storetime": stored,
              "test_itemid": test, "test_name": name}
    micro_id = lambda: book.next_id("microevent_id", 1, 3_999_971)  # noqa: E731
    if rng.random() > positive:
        book.add("microbiologyevents", microevent_id=micro_id(), **common, comments="No MRSA isolated.  " if specimen == "MRSA SCREEN" else rng.choice(("NO GROWTH.  ", "NO GROWTH.  ", "___")))
        return
    found = hospital["organisms"].get(specimen, hospital["organisms"]["other"])
    org_itemid, org_name, _ = rng.choices(found, [organism[2] for organism in found])[0]
    common |= {"org_itemid": org_itemid, "org_name": org_name, "isolate_num": 1}
    if specimen == "MRSA SCREEN" or org_name == "YEAST":
        book.add("microbiologyevents", microevent_id=micro_id(), **common, comments="SPARSE GROWTH.  ")
        return
    for ab_itemid, ab_name in rng.sample(hospital["antibiotics"], 5):
        comparison, value = rng.choice((("<=        ", "1"), ("<=        ", "0.25"), ("=         ", "2"), ("=>        ", "16")))
        book.add("microbiologyevents", microevent_id=micro_id(), **common, ab_itemid=ab_itemid, ab_name=ab_name, dilution_text=comparison.strip().lstrip("=") + value if comparison.startswith("= ") else comparison.strip() + value,
                 dilution_comparison=comparison, dilution_value=value, interpretation={"16": "R", "2": "I"}.get(value, "S"))


# ---- clinics, emergency visits, intensive care


def clinic(book: Book, words, patient: Patient, visits: int) -> None:
    rng = patient.rng
    bmi = patient.bmi
    for _ in range(visits):
        day = (patient.start + patient.shift + timedelta(days=rng.uniform(-60, 1200))).replace(hour=rng.randrange(8, 17), minute=rng.randrange(60), second=0, microsecond=0)
        if patient.dod and day.date() > patient.dod:
            continue
        bmi = max(15, bmi + rng.gauss(0, 0.4))
        sbp, inches = rng.gauss(patient.sbp, 8), round(patient.inches * 4) / 4
        seen = {"Blood Pressure": f"{sbp:.0f}/{sbp * 0.45 + rng.gauss(20, 5):.0f}", "Weight (Lbs)": f"{bmi * inches ** 2 / 703:.2f}".rstrip("0").rstrip("."),
                "BMI (kg/m2)": f"{bmi:.1f}", "Height (Inches)": f"{inches:g}"}
        for name, share in zip(seen, (0.95, 0.85, 0.75, 0.4)):
            if rng.random() < share:
                for number in range(1, 3 if rng.random() < 0.03 else 2):
                    book.add("omr", subject_id=patient.subject_id, chartdate=day.date(), seq_num=number, result_name=name, result_value=seen[name])
        if rng.random() < 0.5:
            panels = ["chemistry", "count"] + [panel for panel in ("lipids", "thyroid", "liver", "iron") if rng.random() < 0.25]
            panels += ["a1c"] * ("type_2_diabetes" in patient.conditions) + ["coagulation"] * ("Warfarin" in patient.drugs)
            special = [words.labs[key] for key in patient.lab_shift if words.labs[key].panel == "special" and rng.random() < 0.5]
            draw(book, words, patient, None, day, panels, special)


def emergency_visit(book: Book, words, patient: Patient) -> None:
    """Seen and sent home: a transfer without hadm_id, and a blood draw."""
    rng = patient.rng
    begin = (patient.start + patient.shift + timedelta(days=rng.uniform(-30, 1000), minutes=rng.randrange(1440))).replace(second=0, microsecond=0)
    if patient.dod and begin.date() >= patient.dod:
        return
    book.add("transfers", subject_id=patient.subject_id, transfer_id=book.next_id("transfer_id", 30_000_000, 9_999_991), eventtype="ED",
             careunit="Emergency Department", intime=begin, outtime=begin + timedelta(minutes=rng.randrange(90, 700)))
    draw(book, words, patient, None, begin + timedelta(minutes=50), ["chemistry", "count"] + ["urine"] * (rng.random() < 0.4), ())


def intensive_care(book: Book, words, patient: Patient, here) -> None:
    """chartevents, inputevents, ingredientevents, outputevents, procedureevents and datetimeevents of the first three days."""
    rng, icu = patient.rng, words.icu
    who = {"subject_id": patient.subject_id, "hadm_id": here.hadm_id, "stay_id": here.stay_id}
    until = min(here.icu_out, here.icu_in + timedelta(hours=72))
    hours = max(int((until - here.icu_in).total_seconds() / 3600), 1)
    weight = round(patient.bmi * (patient.inches * 0.0254) ** 2, 1)
    at = lambda: here.icu_in.replace(second=0) + timedelta(minutes=rng.randrange(hours * 60))  # noqa: E731
    vitals(book, icu, patient, here, who, hours, weight)
    for item, when, amount, unit, rate_unit, category, description, per_day in icu["inputs"]:
        given = rng.random() < when if isinstance(when, float) else when in here.drugs
        for _ in range(max(1, round(per_day * hours / 24)) if given else 0):
            infuse(book, patient, who, at(), item, amount * rng.choice((0.5, 1, 1, 1.5)), unit, rate_unit, category, description, weight)
    for item, share, volume in icu["outputs"]:
        for _ in range(hours // 3 if rng.random() < share else 0):
            time = at()
            stored = time + timedelta(minutes=rng.randrange(-60, 0) if rng.random() < 0.15 else rng.randrange(90))
            book.add("outputevents", **who, charttime=time, storetime=stored, itemid=item, value=round(volume * rng.lognormvariate(0, 0.5) / 5) * 5, valueuom="ml")
    for item, share, unit, location, location_category, category in icu["processes"]:
        if rng.random() < share:
            time, order_id = at(), book.next_id("orderid", 1, 9_999_973)
            minutes = rng.randrange(30, max(hours * 60, 60)) if unit else 1
            end = min(time + timedelta(minutes=minutes), here.icu_out.replace(second=0))
            value = max(int((end - time).total_seconds() / 60), 1) if unit else 1
            stored = end + timedelta(minutes=rng.randrange(40), seconds=rng.randrange(60))
            stored = f"{stored}.{rng.randrange(1, 1000):03d}" if rng.random() < 0.2 else stored
            book.add("procedureevents", **who, starttime=time, endtime=end, storetime=stored, itemid=item, value=value, valueuom=unit, location=location, locationcategory=location_category,
                     orderid=order_id, linkorderid=order_id, ordercategoryname=category, ordercategorydescription="ContinuousProcess" if unit else "Task", patientweight=weight,
                     isopenbag=int(bool(unit)), continueinnextdept=0, statusdescription="FinishedRunning", ORIGINALAMOUNT=value, ORIGINALRATE=int(bool(unit)))
    for item, share, unit in icu["dates"]:
        placed = here.icu_in - timedelta(hours=rng.randrange(72))
        for _ in range(hours // 8 if rng.random() < share else 0):
            time = at()
            value = placed.replace(second=0) if unit == "Date and Time" else datetime.combine(placed, datetime.min.time())
            book.add("datetimeevents", **who, charttime=time, storetime=time + timedelta(minutes=rng.randrange(60)), itemid=item, value=value, valueuom=unit)


def vitals(book: Book, icu: dict, patient: Patient, here, who: dict, hours: int, weight: float) -> None:
    rng, acute = patient.rng, here.reason.get("vitals", {})
    usual = {"hr": patient.hr - 80, "sbp": patient.sbp - 122, "dbp": (patient.sbp - 122) / 2}

    def chart(time, item, value, number, unit):
        book.add("chartevents", **who, charttime=time, storetime=time + timedelta(minutes=rng.randrange(-10, 0) if rng.random() < 0.05 else rng.randrange(60)),
                 itemid=item, value=value, valuenum=number, valueuom=unit)

    start = here.icu_in.replace(minute=0, second=0) + timedelta(hours=1)
    chart(start, 226512, f"{weight:g}", f"{weight:g}", "kg")
    chart(start, 226730, f"{patient.inches * 2.54:.0f}", f"{patient.inches * 2.54:.0f}", "cm")
    for hour in range(hours):
        time, fade = start + timedelta(hours=hour), math.exp(-hour / 40)
        for item, center, spread, key, unit in icu["vitals"]:
            shift = acute.get(key, acute.get("sbp", 0) / 2 if key == "dbp" else 0)
            number = round(center + usual.get(key, 0) + shift * fade + rng.gauss(0, spread))
            number = str(min(number, 100) if key == "spo2" else max(number, 6))
            chart(time, item, number, number, unit)
        if hour % 4 == 0:
            celsius = 36.8 + acute.get("temp", 0) * fade + rng.gauss(0, 0.3)
            item, degrees, unit = rng.choice(((223761, celsius * 1.8 + 32, "°F"), (223761, celsius * 1.8 + 32, "°F"), (223762, celsius, "°C")))
            chart(time, item, f"{degrees:.1f}", f"{degrees:.1f}", unit)
            for item, levels in icu["texts"]:
                value, number = levels[min(int(rng.expovariate(1.2)), len(levels) - 1)]
                chart(time, item, str(value), number, None)


def infuse(book: Book, patient: Patient, who: dict, time: datetime, item: int, amount: float, unit: str, rate_unit, category: str, description: str, weight: float) -> None:
    rng, order_id = patient.rng, book.next_id("orderid", 1, 9_999_973)
    minutes = rng.randrange(30, 360) if rate_unit else 1
    end = time + timedelta(minutes=minutes)
    rate = None
    if rate_unit:
        rate = repr(amount * 1000 / weight / minutes if rate_unit == "mcg/kg/min" else amount * 60 / minutes)
    stored = time + timedelta(minutes=rng.randrange(-25, 0)) if rng.random() < 0.05 else time + timedelta(minutes=rng.randrange(max(minutes // 2, 5)))
    status = rng.choices(("FinishedRunning", "ChangeDose/Rate", "Stopped", "Paused"), (70, 20, 6, 4) if rate_unit else (97, 0, 2, 1))[0]
    common = {**who, "starttime": time, "endtime": end, "storetime": stored, "orderid": order_id, "linkorderid": order_id, "statusdescription": status, "rate": rate, "rateuom": rate_unit}
    total = 250 if description.startswith("Continuous") else None
    book.add("inputevents", **common, itemid=item, amount=repr(float(amount)), amountuom=unit, ordercategoryname=category,
             secondaryordercategoryname="02-Fluids (Crystalloids)" if rate_unit else None, ordercomponenttypedescription="Main order parameter", ordercategorydescription=description,
             patientweight=weight, totalamount=total, totalamountuom="ml" if total else None, continueinnextdept=0, originalamount=f"{amount:g}", originalrate=rate or f"{amount:g}")
    volume = amount if unit == "ml" else 50
    for ingredient in (220490, 227075 if "Oral" in category else 226509 if "Blood" in category else 227074):
        book.add("ingredientevents", **common | {"rate": repr(volume * 60 / minutes) if rate_unit else None, "rateuom": "mL/hour" if rate_unit else None},
                 itemid=ingredient, amount=repr(float(volume)), amountuom="ml", originalamount=0)


# ---- the truths that were planted


def signals(words) -> list:
    """What tells of which condition or reason, read off the same data that the generator uses."""
    itemids = {one.key: int(one.itemid) for one in words.labs.values()}
    found = []
    for one in words.conditions + words.reasons:
        target = {"target": one["name"], "icd9": sorted(set(one["icd9"])), "icd10": sorted(set(one["icd10"]))}
        for key, amount in one.get("labs", {}).items():
            if amount:
                found.append({"table": "labevents", "column": "valuenum", "itemid": itemids[key], **target, "effect": f"{key} {amount:+g} standard deviations"})
        groups = one.get("drugs", ())
        for key in dict.fromkeys(drug for group in groups for drug in ([group] if isinstance(group, str) else group)):
            found.append({"table": "prescriptions", "column": "drug", "value": words.drugs[key]["drug"], **target, "effect": "ordered more often"})
        for key, name in (("bmi", "BMI (kg/m2)"), ("sbp", "Blood Pressure")):
            if one.get(key):
                found.append({"table": "omr", "column": "result_value", "value": name, **target, "effect": f"{one[key]:+g}"})
        for key, item in (("hr", 220045), ("sbp", 220179), ("rr", 220210), ("spo2", 220277), ("temp", 223761)):
            if one.get("vitals", {}).get(key):
                found.append({"table": "chartevents", "column": "valuenum", "itemid": item, **target, "effect": f"{one['vitals'][key]:+g} at admission"})
    return found
