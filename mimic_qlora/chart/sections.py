"""The sections of a patient's context: what a view of the chart says, in words, each item with the rows behind it."""

import re
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from mimic_qlora.chart import facts, vitals
from mimic_qlora.chart.wording import (
    ADMISSIONS,
    MEASURED,
    NONE,
    NOT_A_MEDICINE,
    NOT_SAID,
    PLACES,
    SEXES,
    ago,
    clean,
    lab_note,
    lab_value,
    route_words,
    since,
    word,
)
from mimic_qlora.clinical import codes, content


class Item(NamedTuple):
    """One entry of a section: its text, the name of what it tells of, and the (table, row) pairs that it rests on."""

    text: str
    name: str = ""
    rows: tuple = ()


def of(view: dict, as_of: datetime, known: dict, labels: dict, most_labs: int) -> dict:
    """The context's sections in order: name -> list of Items, the most telling first.

    `known` is what `facts.of` gives for the same view; `labels` maps itemid to the name of the lab. There are many
    labs: those after the first `most_labs` are there to be counted, without words. A stay that has not ended in this
    view is the current one, and is called so.
    """
    stay = facts.last_stay(view)
    others = [s for s in facts.stays(view) if s is not stay and "dischtime" in s]
    ended = not stay or "dischtime" in stay
    age = known["age"]
    person = (("patients", known["person"]),)
    return {
        "Age": [
            Item("unknown" if age is None else "over 89" if age > 89 else str(age), rows=person)
        ],
        "Sex": [Item(SEXES.get(known["sex"], "unknown"), rows=person)],
        "Background": _background(stay),
        "Last stay" if ended else "Current stay": _stay_items(view, stay, as_of),
        "Prior stays": _prior_items(view, others, as_of),
        "Known conditions": _conditions(view, as_of),
        "Medicines taken at home": _home_medicines(view),
        f"Medicines ordered during {'the last' if ended else 'this'} stay": _medicines(view, stay),
        "Recent labs": _labs(known, as_of, labels, most_labs),
        "Recent measurements": _measurements(view, as_of),
        "Past procedures": _procedures(view, as_of),
        "Allergies": _allergies(view),
    }


def _background(stay: dict) -> list:
    language, marital, insurance = (
        word(stay.get(c, "")) for c in ("language", "marital_status", "insurance")
    )
    row = (("admissions", stay),)
    return [
        *(
            [Item(f"speaks {language.title()}", "language", row)]
            if language not in ("", "?", "Other")
            else []
        ),
        *([Item(marital.lower(), "marital status", row)] if marital else []),
        *(
            [Item(f"{insurance} insurance", "insurance", row)]
            if insurance not in ("", "Other")
            else []
        ),
    ]


def _stay_items(view: dict, stay: dict, as_of: datetime) -> list:
    if not stay:
        return [Item(NONE)]
    row = (("admissions", stay),)
    if "dischtime" in stay:
        days = max(0, (stay["dischtime"].date() - stay["admittime"].date()).days)
        where = word(stay.get("discharge_location", ""))
        where = PLACES.get(where, where.lower())
        text = (
            f"{days} {'day' if days == 1 else 'days'}, discharged {since(stay, 'dischtime', as_of)}"
        )
        items = [Item(text + (f" to {where}" if where else ""), "end", row)]
    else:
        items = [
            Item(f"admitted {since(stay, 'admittime', as_of)}, still in hospital", "begin", row)
        ]
    if "admission_type" in stay:
        kind = word(ADMISSIONS.get(stay["admission_type"], stay["admission_type"])).lower()
        items.append(Item(kind, "admission", row))
    if services := [
        s for s in view["services"] if s.get("hadm_id") == stay["hadm_id"] and "curr_service" in s
    ]:
        newest = max(services, key=lambda s: s["transfertime"])
        items.append(
            Item(f"service {word(newest['curr_service'])}", "service", (("services", newest),))
        )
    if icu := [("icustays", s) for s in view["icustays"] if s.get("hadm_id") == stay["hadm_id"]]:
        stays = "stay" if len(icu) == 1 else "stays"
        items.append(Item(f"intensive care: {len(icu)} {stays}", "intensive care", tuple(icu)))
    return items


def _prior_items(view: dict, others: list, as_of: datetime) -> list:
    if not others:
        return [Item(NONE)]
    text = f"{len(others)}, the last one {since(others[-1], 'dischtime', as_of)}"
    items = [Item(text, "prior stays", tuple(("admissions", s) for s in others))]
    prior = {s["hadm_id"] for s in others}
    if icu := [("icustays", s) for s in view["icustays"] if s.get("hadm_id") in prior]:
        text = f"{len(icu)} ICU {'stay' if len(icu) == 1 else 'stays'} in them"
        items.append(Item(text, "prior intensive care", tuple(icu)))
    return items


def _conditions(view: dict, as_of: datetime) -> list:
    """Conditions by their plain names, once each; other codes by their titles.

    Those that a caution rule reads come first, since no answer can name a reason that was cut; then the newest.
    """
    catalogue = content.load().phenotypes
    stays = {a["hadm_id"]: a for a in view["admissions"]}
    named, titled = {}, {}
    for row in facts.newest_first(view["diagnoses_icd_labeled"], stays):
        names = codes.phenotypes_of_code(row["icd_code"], row["icd_version"])
        for name in names:
            entry = catalogue[name]
            suffix = (
                f" ({since(stays[row['hadm_id']], 'dischtime', as_of)})"
                if entry.kind == "acute"
                else ""
            )
            rows = (("diagnoses_icd", row),)
            named.setdefault(name, Item(clean(entry.name) + suffix, clean(entry.name), rows))
        # external causes and administrative codes tell a reader little; the phenotypes name those that matter
        if (
            not names
            and "long_title" in row
            and not facts.is_administrative(row["icd_code"], row["icd_version"])
        ):
            title = clean(row["long_title"])
            titled.setdefault(title, Item(title, title, (("diagnoses_icd", row),)))
    first = sorted(named, key=lambda name: name not in content.read_by_rules().phenotypes)
    return [*(named[name] for name in first), *titled.values()] or [Item("none coded")]


def _home_medicines(view: dict) -> list:
    """What was told in the newest emergency visit, where MIMIC-IV-ED is there: orders say nothing of it."""
    rows = [row for row in view.get("medrecon", ()) if row.get("name")]
    newest = max((row["charttime"] for row in rows), default=None)
    told = {clean(row["name"]): row for row in rows if row["charttime"] == newest}
    return [Item(name, name, (("medrecon", row),)) for name, row in told.items()] or [
        Item(NOT_SAID)
    ]


def _medicines(view: dict, stay: dict) -> list:
    """The medicines ordered in the stay with their routes: one of each class that a rule reads, then the newest."""
    orders, classes = {}, {}
    rows = [
        r
        for r in view["prescriptions"]
        if r.get("hadm_id") == stay.get("hadm_id") and r.get("drug")
    ]
    for row in sorted(rows, key=lambda r: (r["starttime"], r["drug"]), reverse=True):
        if row.get("drug_type", "MAIN") == "MAIN" and (drug := _medicine(row["drug"])):
            orders.setdefault(drug, []).append(row)
            classes.setdefault(drug, set()).update(
                codes.drug_classes_of(row["drug"], row.get("route"))
            )
    told, rank = set(), {}
    for drug, found in classes.items():
        found &= content.read_by_rules().drug_classes
        rank[drug] = 0 if found - told else 1 if found else 2
        told |= found
    return [_order(drug, orders[drug]) for drug in sorted(orders, key=rank.get)] or [Item(NONE)]


@lru_cache(maxsize=50_000)
def _medicine(drug: str) -> str:
    """The name of an ordered drug, empty where it is none that a patient would ask about."""
    name = clean(drug)
    return "" if NOT_A_MEDICINE.search(name) else name


def _order(drug: str, rows: list) -> Item:
    by_route = {}  # the newest order of each route
    for row in rows:
        by_route.setdefault(route_words(row), row)
    routes = list(filter(None, by_route))
    text = f"{drug} ({', '.join(routes)})" if routes else drug
    return Item(
        text, drug, tuple(("prescriptions", by_route[route]) for route in routes or by_route)
    )


def _labs(known: dict, as_of: datetime, labels: dict, most: int) -> list:
    """The newest value of each lab with unit and the one before it: those that a rule reads and out of range first."""
    read_by_rules = content.read_by_rules().labs
    ranked = sorted(
        (itemid not in read_by_rules, not lab_note(rows[0]), as_of - rows[0]["charttime"], itemid)
        for itemid, rows in known["lab_history"].items()
        if "valuenum" in rows[0]
    )
    told = [
        _lab(known["lab_history"][i], labels.get(i) or f"item {i}", as_of)
        for *_, i in ranked[:most]
    ]
    return [*told, *[Item("")] * (len(ranked) - most)] or [Item(NONE)]


def _lab(rows: list, label: str, as_of: datetime) -> Item:
    row, *before = rows
    name, note = clean(label), lab_note(row)
    details, cited = [note] if note else [], [("labevents", row)]
    low, high = row.get("ref_range_lower"), row.get("ref_range_upper")
    if note and None not in (low, high) and low < high:  # 0 to 0 tells nobody anything
        details.append(f"range {low:g}-{high:g}")
    if earlier := next(
        (b for b in before if "valuenum" in b and b["charttime"] < row["charttime"]), None
    ):
        details.append(f"was {earlier['valuenum']:g}")
        cited.append(("labevents", earlier))
    text = f"{name} {lab_value(row)}" + f" ({', '.join(details)})" * bool(details)
    return Item(f"{text}, {since(row, 'charttime', as_of)}", name, tuple(cited))


def _measurements(view: dict, as_of: datetime) -> list:
    """The newest measurement of each kind, from the bedside or the clinic, and for the bedside the one before it."""
    found = [
        (MEASURED[row["result_name"]], row["chartdate"], word(row["result_value"]), ("omr", row))
        for row in sorted(view["omr"], key=lambda r: r["chartdate"], reverse=True)
        if row.get("result_name") in MEASURED and facts.is_value(row.get("result_value"))
    ] + vitals.vitals(view)
    newest = {}
    for kind, when, text, *rows in sorted(found, key=lambda one: one[1], reverse=True):
        newest.setdefault(kind, []).append((when, text, rows))
    items = []
    for kind, ((when, text, rows), *before) in sorted(newest.items()):
        was = before[0] if before and rows[0][0] == before[0][2][0][0] != "omr" else None
        text = f"{kind} {text}" + (f" (was {was[1]})" if was else "")
        items.append(Item(f"{text}, {ago(when, as_of)}", kind, (*rows, *(was[2] if was else ()))))
    return items


def _procedures(view: dict, as_of: datetime) -> list:
    """The newest of each title: those that a caution rule reads first, then by date."""
    prefixes = content.read_by_rules().procedures

    def is_read(row):
        return any(
            row["icd_version"] == version and row["icd_code"].startswith(code)
            for version, code in prefixes
        )

    newest = {}
    for row in sorted(
        view["procedures_icd_labeled"], key=lambda r: (r["chartdate"], r["icd_code"]), reverse=True
    ):
        if "long_title" in row:
            newest.setdefault(row["long_title"], row)
    newest = dict(sorted(newest.items(), key=lambda item: not is_read(item[1])))
    return [
        Item(
            f"{clean(title)} ({since(row, 'chartdate', as_of)})",
            clean(title),
            (("procedures_icd", row),),
        )
        for title, row in newest.items()
    ] or [Item(NONE)]


def _allergies(view: dict) -> list:
    """MIMIC-IV has no allergy table: only the codes for an allergy status tell of one."""
    found = {
        clean(row["long_title"]): row
        for row in view["diagnoses_icd_labeled"]
        if re.match(
            "allergy status|personal history of allergy", row.get("long_title", ""), re.IGNORECASE
        )
    }
    return [Item(title, title, (("diagnoses_icd", row),)) for title, row in found.items()] or [
        Item(NOT_SAID)
    ]
