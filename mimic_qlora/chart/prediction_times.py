"""Prediction times: when a patient may ask for guidance, and early in a stay."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from mimic_qlora.chart import facts
from mimic_qlora.chart.rows import Record, Row
from mimic_qlora.step import seeded
from mimic_qlora.step.errors import UserError

HOME = ("HOME", "HOME HEALTH CARE")
LEFT = "discharge_location"
DAY = timedelta(days=1)


class Moment(NamedTuple):
    """A prediction time, and the stay that came before it or that is on; None for no such stay."""

    hadm_id: int | None
    as_of: datetime


def after_discharge(record: Record, seed: int) -> list[Moment]:
    """Return the times, newest last, at which this patient may ask for guidance.

    Each is 1 to 14 days after a live discharge to home. The day is drawn by hash from those before
    the next stay and before death; a stay without such a day has none, nor has one that ended
    within another: the patient was not at home.
    """
    stays = facts.stays(record)
    dod = _day_of_death(record)
    found = []
    for stay, following in zip(stays, [*stays[1:], None], strict=False):
        if stay.get(LEFT) not in HOME or "deathtime" in stay or not _has_ended(stay):
            continue
        end = min(dod, _arrival(following) if following else datetime.max)
        days = min(14, (end - stay["dischtime"]).days)
        if days >= 1:
            drawn = 1 + seeded.pick(f"{seed}:{stay['hadm_id']}:as_of", days)
            as_of = stay["dischtime"] + timedelta(days=drawn)
            if not _is_in_hospital(stays, as_of):
                found.append(Moment(stay["hadm_id"], as_of))
    return found


def _day_of_death(record: Record) -> datetime:
    return min((p["dod"] for p in record["patients"] if "dod" in p), default=datetime.max)


def _arrival(stay: Row) -> datetime:
    """Return when a patient came, to the emergency department where that was first."""
    return min(stay.get("edregtime", datetime.max), stay["admittime"])


def _is_in_hospital(stays: Iterable[Row], time: datetime) -> bool:
    return any(s["admittime"] < time < s.get("dischtime", datetime.min) for s in stays)


def _has_ended(stay: Row) -> bool:
    """Return whether a stay has an end, and not one before its beginning."""
    return "dischtime" in stay and bool(stay["admittime"] <= stay["dischtime"])


def landmarks(record: Record, hours: float) -> list[Moment]:
    """Return the landmark of each coded stay, newest last: `hours` after arrival.

    Arrival is the earlier of `edregtime` and `admittime`. A stay that has ended by then has none,
    since its codes could be known; nor has one whose patient had died on an earlier day, that had
    not yet begun, or within which another one had: a context tells of the stay that began last.
    """
    coded = {row["hadm_id"] for row in record["diagnoses_icd_labeled"]}
    stays, dod = facts.stays(record), _day_of_death(record)
    found = []
    for stay, following in zip(stays, [*stays[1:], None], strict=False):
        as_of = _arrival(stay) + timedelta(hours=hours)
        end = min(stay.get(c, datetime.max) for c in ("dischtime", "deathtime"))
        if as_of - DAY >= dod or following and following["admittime"] <= as_of:
            continue
        if stay["hadm_id"] in coded and stay["admittime"] <= as_of < end:
            found.append(Moment(stay["hadm_id"], as_of))
    return found


def latest(record: Record, seed: int) -> Moment:
    """Return the usual time to ask at: the newest for guidance, else a day after discharge.

    A patient who never left hospital alive has the day before the end, within the last stay. Raises
    UserError for a patient without a stay that has ended.
    """
    if found := after_discharge(record, seed):
        return found[-1]
    stays = facts.stays(record)
    ended = [stay for stay in stays if _has_ended(stay)]
    if not ended:
        raise UserError(
            f"subject_id {record['subject_id']} has no hospital stay: "
            "choose another or give a time with --as-of"
        )
    days_after = [Moment(stay["hadm_id"], stay["dischtime"] + DAY) for stay in ended]
    dod = _day_of_death(record)
    alive = [
        moment
        for moment, stay in zip(days_after, ended, strict=True)
        if moment.as_of <= dod
        and "deathtime" not in stay
        and stay.get(LEFT) != "DIED"
        and not _is_in_hospital(stays, moment.as_of)
    ]
    if alive:
        return alive[-1]
    last = ended[-1]
    return Moment(last["hadm_id"], max(last["admittime"], last["dischtime"] - DAY))
