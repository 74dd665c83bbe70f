"""Weights and body mass indexes that are slips of the pen are not shown."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mimic_qlora.chart import measurements, sections
from mimic_qlora.mimic import omr_bounds
from mimic_qlora.subjects import quality

FIRST = datetime(2150, 1, 1)


def rows(*found):
    """Rows of omr: (days after the first, "W" or "B" for weight and index, value as text)."""
    names = {"W": measurements.WEIGHT, "B": measurements.BMI, "P": "Blood Pressure"}
    return [
        {"chartdate": FIRST + timedelta(days), "result_name": names[kind], "result_value": value}
        for days, kind, value in found
    ]


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        # kilograms under the heading of pounds, with the index made from them
        (
            [(0, "W", "214.07"), (0, "B", "32.5"), (14, "W", "97.3"), (14, "B", "14.8")],
            ["214.07", "32.5"],
        ),
        ([(0, "W", "97.3"), (14, "W", "214.07"), (20, "W", "212")], ["214.07", "212"]),
        ([(0, "B", "4649"), (1, "B", "8.7"), (2, "B", "24")], ["24"]),
        # too much in pounds: the index of that day goes with it
        (
            [(0, "W", "150"), (9, "W", "152"), (20, "W", "333"), (20, "B", "49.3")],
            ["150", "152"],
        ),
        # an index of somebody eight feet tall, though most say so
        (
            [(0, "W", "195"), (0, "B", "14.6"), (9, "W", "196"), (9, "B", "14.7")]
            + [(40, "W", "190"), (40, "B", "27.7")],
            ["195", "196", "190", "27.7"],
        ),
        # nobody can say which of two is right
        ([(0, "W", "150"), (9, "W", "260")], []),
        # what changes over years, and what is no number
        ([(0, "W", "150"), (900, "W", "260")], ["150", "260"]),
        ([(0, "W", "150"), (0, "W", "150"), (9, "W", "___"), (9, "P", "120/80")], None),
    ],
)
def test_only_plausible_weights_and_indexes_are_shown(found, shown):
    kept = [row["result_value"] for row in measurements.plausible(rows(*found))]
    assert kept == ([value for *_, value in found] if shown is None else shown)


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("W", "150", "weight 150 pounds, 1 day ago"),
        ("W", "refused", None),
        ("B", "120/80", None),
        ("P", "120/80", "blood pressure 120/80, 1 day ago"),
        ("P", "120", None),
        ("P", "120/80/60", None),
        ("P", "___", None),
    ],
)
def test_what_is_no_number_is_no_measurement(kind, value, shown):
    view = {"omr": rows((0, kind, value)), "chartevents": [], "icustays": []}
    items = sections._measurements(view, FIRST + timedelta(days=1))
    assert [item.words for item in items] == ([shown] if shown else [])


def test_step_1_counts_and_contexts_leave_out_by_the_same_bounds():
    """They stand in omr_bounds.csv alone; each is used by a check of step 1."""
    text = (Path(quality.__file__).parent / "quality.sql").read_text(encoding="utf-8")
    bounds = omr_bounds.load()
    assert [name for name in bounds if f"{{{name}}}" not in text] == []
    assert measurements.BMI_RANGE == (bounds["bmi_low"], bounds["bmi_high"])
    assert measurements.MOST_CHANGE == bounds["most_change"]
    assert not any("{kilograms" in one.sql or "{bmi" in one.finds for one in quality.checks())
