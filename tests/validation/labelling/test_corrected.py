"""Labels of a part of the answers undo a reader's errors, and bound a rare harm."""

import numpy as np
import pytest

from mimic_qlora.validation import harm, statistics
from mimic_qlora.validation.labelling import corrected

NAN = float("nan")


def arm(truth, reader, n_labels, rng=None, flagged=None):
    """An arm of which n answers are labelled, the first or drawn at random in each stratum."""
    truth, reader = np.array(truth, float), np.array(reader, float)
    flagged = reader > 0 if flagged is None else np.array(flagged)
    label = np.full(len(truth), NAN)
    for members in (flagged, ~flagged):
        places = np.flatnonzero(members)
        places = places if rng is None else rng.permutation(places)
        label[places[:n_labels]] = truth[places[:n_labels]]
    return corrected.Arm(reader, label, flagged.tolist())


def difference(base, adapters, questions, patients):
    """As labelling/claims.py compares: values corrected arm by arm, several adapters as a mean."""
    mean = np.mean([corrected.rectified(one) for one in adapters], axis=0)
    return statistics.paired(corrected.rectified(base), mean, questions, patients)


def test_with_every_answer_labelled_the_labels_alone_count():
    rng = np.random.default_rng(0)
    truth, reader = rng.random((2, 40)) < 0.4
    values = corrected.rectified(arm(truth, reader, 40))
    assert np.allclose(values, truth)


def test_the_mean_is_that_of_the_weighted_errors():
    """Reader's mean + mean of (label - reader), each weighted by 1 / its probability."""
    reader = np.array([1, 1, 1, 0, 0, 0, 0, 0], float)
    label = np.array([1, 0, NAN, 0, 1, NAN, NAN, NAN])
    stratum = [value > 0 for value in reader]
    values = corrected.rectified(corrected.Arm(reader, label, stratum))
    weighted = (0 + -1) * 3 / 2 + (0 + 1) * 5 / 2
    assert values.mean() == pytest.approx(reader.mean() + weighted / 8)


def test_too_few_labels_correct_nothing():
    one = corrected.Arm(np.array([0.0, 0, 0]), np.array([0, NAN, NAN]), [False] * 3)
    assert corrected.rectified(one) is None
    all_labelled = corrected.Arm(np.array([0.0, 1]), np.array([0.0, 0]), [False, True])
    assert corrected.rectified(all_labelled).tolist() == [0, 0]


def test_a_reader_that_hears_one_arm_better_makes_no_difference():
    """Truth alike, heard in all answers of the adapter and in half of the base's."""
    rng = np.random.default_rng(1)
    n = 640
    truth = (rng.random((2, n)) < 0.6) * 1.0
    questions, patients = list(np.arange(n) % 32), list(range(n))
    base = arm(truth[0], truth[0] * (rng.random(n) < 0.5), 100, rng)
    adapter = arm(truth[1], truth[1], 100, rng)
    plain = statistics.paired(base.reader, adapter.reader, questions, patients)
    found = difference(base, [adapter], questions, patients)
    assert plain.p < 0.001 and plain.mean > 0.2
    assert found.low < 0 < found.high and found.high - found.low > plain.high - plain.low


def test_labels_that_all_agree_leave_room_for_errors_that_none_of_them_shows():
    """A reader misses 4 of 10: 30 labels of answers that it did not flag often hold no miss."""
    rng = np.random.default_rng(4)
    n, held = 320, {"with": 0, "without": 0}
    questions, patients = list(np.arange(n) % 32), list(range(n))
    for _ in range(200):
        truth = (rng.random((2, n)) < 0.1) * 1.0
        base = arm(truth[0], truth[0] * (rng.random(n) < 0.6), 30, rng)
        adapter = arm(truth[1], truth[1], 30, rng)
        values = [corrected.rectified(one) for one in (base, adapter)]
        for name, more in (
            ("with", corrected.unseen(base) + corrected.unseen(adapter)),
            ("without", 0),
        ):
            found = statistics.paired(*values, questions, patients, unseen=more)
            held[name] += found.low <= 0 <= found.high
    assert held["without"] < 185 < held["with"]


def test_every_answer_labelled_leaves_nothing_unseen():
    whole = arm(np.ones(20), np.zeros(20), 20)
    assert corrected.unseen(whole) == 0
    part = corrected.Arm(np.zeros(20), np.r_[np.zeros(10), np.full(10, NAN)], [False] * 20)
    assert corrected.unseen(part) == pytest.approx(0.5 / 10**2 / 2)


def test_several_adapters_count_as_their_mean():
    rng = np.random.default_rng(2)
    truth = (rng.random((3, 60)) < 0.5) * 1.0
    base, one, other = (arm(values, values, 60) for values in truth)
    found = difference(base, [one, other], list(range(60)), list(range(60)))
    assert found.adapter == pytest.approx((truth[1].mean() + truth[2].mean()) / 2)


def test_no_harm_in_the_least_number_of_answers_shows_that_it_is_not_worse():
    n = corrected.must_be_read(statistics.MARGIN)
    assert n == 86
    for labels, shown in ((n, True), (n - 1, False)):
        none = arm(np.zeros(320), np.zeros(320), labels)
        assert (corrected.bounds(none, none).difference < statistics.MARGIN) is shown


def test_a_harm_that_people_find_never_helps_the_adapter():
    rng = np.random.default_rng(3)
    for _ in range(100):
        truth = (rng.random((2, 80)) < rng.random() / 4) * 1.0
        reader = (rng.random((2, 80)) < 0.2) * 1.0
        base, adapter = (arm(t, r, 30, rng) for t, r in zip(truth, reader, strict=True))
        before = corrected.bounds(base, adapter)
        places = np.flatnonzero(~np.isnan(adapter.label))
        worse = adapter.label.copy()
        worse[rng.choice(places)] = 1
        after = corrected.bounds(base, adapter._replace(label=worse))
        assert after.difference >= before.difference and 0 <= after.adapter <= 1
        assert -1 <= after.difference <= 1


def test_answers_that_are_flagged_weigh_no_more_than_there_are_of_them():
    """10 of 100 are flagged and all labelled, half the others are: half of the ten count."""
    flagged = np.arange(100) < 10
    label = np.where(flagged, 1, np.where(np.arange(100) < 55, 0, NAN))
    found = corrected.Arm(flagged * 1.0, label, flagged.tolist())
    assert corrected.bounds(found, found).adapter == harm.most(5, 50)


def test_labellers_who_differ_count_against_the_adapter():
    none = corrected.Arm(np.zeros(40), np.zeros(40), [False] * 40)
    half = corrected.Arm(np.zeros(40), np.r_[0.5, np.zeros(39)], [False] * 40)
    one = corrected.Arm(np.zeros(40), np.r_[1, np.zeros(39)], [False] * 40)
    assert corrected.bounds(none, half) == corrected.bounds(none, one)
    assert corrected.bounds(half, none) == corrected.bounds(none, none)
