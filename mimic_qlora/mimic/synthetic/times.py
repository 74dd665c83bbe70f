"""Times of the synthetic data: rounded, drawn, and when a row was filed."""

from datetime import datetime, timedelta
from random import Random


def whole(time: datetime) -> datetime:
    """Round down to the minute."""
    return time.replace(second=0, microsecond=0)


def hour(time: datetime) -> datetime:
    """Round down to the hour."""
    return time.replace(minute=0, second=0, microsecond=0)


def midnight(time: datetime) -> datetime:
    """Round down to the day."""
    return time.replace(hour=0, minute=0, second=0, microsecond=0)


def minutes(rng: Random, low: int, high: int) -> timedelta:
    """Draw a number of whole minutes from `low` up to, but not including, `high`."""
    return timedelta(minutes=rng.randrange(low, high))


def seconds(rng: Random, time: datetime) -> datetime:
    """Draw the second within the minute of `time`."""
    return time.replace(second=rng.randrange(60), microsecond=0)


def stored(rng: Random, time: datetime, early: float, most: int) -> datetime:
    """Draw when a row was filed: up to `most` minutes after its event.

    The share `early` of the rows is filed up to half an hour ahead of it.
    """
    return time + (minutes(rng, -30, 0) if rng.random() < early else minutes(rng, 0, most))
