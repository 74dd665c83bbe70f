"""Times of the synthetic data: rounded, drawn, and when a row was filed."""

from datetime import datetime, timedelta
from random import Random


def whole(time: datetime) -> datetime:
    return time.replace(second=0, microsecond=0)


def hour(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


def midnight(time: datetime) -> datetime:
    return time.replace(hour=0, minute=0, second=0, microsecond=0)


def minutes(rng: Random, low: int, high: int) -> timedelta:
    return timedelta(minutes=rng.randrange(low, high))


def seconds(rng: Random, time: datetime) -> datetime:
    return time.replace(second=rng.randrange(60), microsecond=0)


def stored(rng: Random, time: datetime, early: float, most: int) -> datetime:
    """When a row was filed: after the event, but for the share `early` of rows filed ahead of it; `most` in minutes."""
    return time + (minutes(rng, -30, 0) if rng.random() < early else minutes(rng, 0, most))
