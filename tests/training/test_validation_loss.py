"""Bits a byte and their interval."""

import math

import pytest

from mimic_qlora.training import packing, validation_loss
from mimic_qlora.training.encoding import new_lines


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
        [*talks, packing.Sample([0], 1)],
        [validation_loss.Nats(math.log(2) * n, 0.0) for n in (5, 30, 10, 0)],
    )
    assert losses.keys() == {1, 2} and losses[1][1:3] == (4, 30)
    halved = {patient: row._replace(nats=row.nats / 2) for patient, row in losses.items()}
    found = validation_loss.bits_per_byte(losses, halved)
    assert found.base.value == pytest.approx(45 / 60)
    assert found.difference.value == pytest.approx(-22.5 / 60)


def test_lines_that_no_training_answer_has_are_counted_apart(tokenizer, tmp_path):
    def talk(answer, patient):
        turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": answer}]
        return packing.encode(tokenizer, turns, "a test", patient)

    marked = new_lines.mark(
        {
            "train": [talk("Call 911 now.\nRest.", 1)],
            "validation": [talk("Rest.\nSip water.\nCall 911 now.", 2), talk("Rest.", 3)],
        },
        tokenizer,
    )["validation"]
    answer = marked[0].ids[marked[0].n_prompt :]
    new = [token for token, is_new in zip(answer, marked[0].new, strict=True) if is_new]
    assert tokenizer.decode(new).strip() == "Sip water."
    assert [sample.n_new_bytes for sample in marked] == [10, 0] and not any(marked[1].new)
    nats = [validation_loss.Nats(math.log(2) * n, math.log(2) * k) for n, k in ((30, 20), (9, 0))]
    losses = validation_loss.by_patient(marked, nats)
    validation_loss.write(tmp_path, 0, losses)
    assert validation_loss.read(tmp_path, 0) == losses
    found = validation_loss.of_new_lines(losses, losses)
    assert found.bits_per_byte.base.value == pytest.approx(2.0)
    assert found.share == pytest.approx(10 / (len("Rest.\nSip water.\nCall 911 now.") + 5))
    assert (
        validation_loss.of_new_lines({2: validation_loss.NONE}, {2: validation_loss.NONE}) is None
    )
