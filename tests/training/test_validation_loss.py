"""Bits a byte and their interval."""

import math

import pytest

from mimic_qlora.training import (
    packing,
    validation_loss,
)


def test_the_interval_of_a_ratio_holds_the_truth_in_19_of_20_draws():
    import numpy

    draw, held = numpy.random.default_rng(0), 0
    for _ in range(400):
        sizes = draw.integers(50, 400, 12)
        value, low, high = validation_loss.ratio(
            list(sizes * (1.5 + 0.4 * draw.standard_normal(12))), list(sizes)
        )
        held += low <= 1.5 <= high
    assert 0.91 < held / 400 < 0.985
    assert all(map(math.isnan, validation_loss.ratio([3.0], [2.0])[1:]))


def test_bits_per_byte_of_a_patient_are_summed_before_they_are_divided():
    talks = [
        packing.Sample([0] * 4, 2, patient, n_bytes)
        for patient, n_bytes in ((1, 10), (2, 30), (1, 20))
    ]
    losses = validation_loss.by_patient(
        [*talks, packing.Sample([0], 1)], [math.log(2) * n for n in (5, 30, 10)] + [0]
    )
    assert losses.keys() == {1, 2} and losses[1][1:] == (4, 30)
    halved = {patient: row._replace(nats=row.nats / 2) for patient, row in losses.items()}
    found = validation_loss.bits_per_byte(losses, halved)
    assert found.base.value == pytest.approx(45 / 60)
    assert found.difference.value == pytest.approx(-22.5 / 60)
