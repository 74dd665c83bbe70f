"""The comparison of two arms: against hand-worked values, under the null, and in words."""

import math

import numpy as np
import pytest
from scipy import stats

from mimic_qlora.validation import arms, findings, statistics, trials
from mimic_qlora.validation.scoring import rubric


def difference(mean=0.0, base=0.5, half=0.05, p=0.01, questions=8, patients=40):
    return statistics.Difference(
        base, base + mean, mean, mean - half, mean + half, 1.0, p, 40, questions, patients
    )


def test_a_difference_is_that_of_hand_worked_question_means():
    # question means of the differences: 0.2, 0.4, 0.0 -> mean 0.2, sd 0.2, t(0.975, 2) = 4.302653
    base = [0.1, 0.3, 0.2, 0.5, 0.5]
    adapter = [0.3, 0.5, 0.6, 0.5, 0.5]
    found = statistics.paired(base, adapter, ["a", "a", "b", "c", "c"])
    half = 4.302653 * 0.2 / math.sqrt(3)
    assert found.mean == pytest.approx(0.2) and found.effect == pytest.approx(1)
    assert (found.low, found.high) == (
        pytest.approx(0.2 - half, abs=1e-6),
        pytest.approx(0.2 + half, abs=1e-6),
    )
    assert (found.trials, found.questions) == (5, 3)
    assert found.base == pytest.approx(
        (0.2 + 0.2 + 0.5) / 3
    ) and found.adapter - found.base == pytest.approx(found.mean)
    assert found.p == pytest.approx(
        0.225403, abs=1e-6
    )  # t = 0.2 / (0.2 / sqrt(3)) with 2 degrees of freedom


def test_questions_without_a_spread_are_judged_by_signs():
    one_sided = statistics.paired([0] * 8, [1] * 8, "abcdefgh")
    assert one_sided.p == 2 / 256 and (one_sided.low, one_sided.high, one_sided.effect) == (
        None,
        None,
        None,
    )
    assert statistics.paired([0] * 3, [0] * 3, "abc").p == 1
    said = findings.statement({"a": one_sided}, {"a": one_sided.p}, {"a": ("red flags", True)})
    assert said == ["The adapter is better at red flags by 1.00, p = 0.008."]


def test_the_variance_of_crossed_clusters_is_that_worked_out_by_hand():
    # differences of patients 1 and 2 on questions a and b: 1 2 / 4 9; their mean is 4
    found = statistics.paired([0] * 4, [1, 2, 4, 9], "abab", [1, 1, 2, 2])
    # sums of errors / 4 by question: -+0.75, by patient: -+1.25, by trial: -0.75, -0.5, 0, 1.25
    by_question, by_patient, by_trial = (
        2 * 2 * 0.75**2,
        2 * 2 * 1.25**2,
        4 / 3 * (0.75**2 + 0.5**2 + 1.25**2),
    )
    variance = (
        by_question + by_patient - by_trial
    )  # its degrees of freedom come out as 0.6, which is raised to 1
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 1) * math.sqrt(variance))


def test_patients_who_are_the_questions_count_once():
    alone = statistics.paired([0] * 4, [1, 2, 4, 9], "aabb")
    assert statistics.paired([0] * 4, [1, 2, 4, 9], "aabb", [1, 1, 2, 2]).low == alone.low


def test_missing_values_and_single_questions_are_left_open():
    assert statistics.paired([None, 0.5], [0.1, None], ["a", "b"]) is None
    alone = statistics.paired([0.1, 0.2, None], [0.4, 0.5, 0.9], ["a", "a", "b"])
    assert alone.mean == pytest.approx(0.3) and alone.trials == 2 and alone.questions == 1
    assert (alone.low, alone.high, alone.effect, alone.p) == (None, None, None, None)
    assert (
        statistics.paired([0, 0], [1, 1], "ab").effect is None
    )  # no spread: no standardised effect


def test_holm_steps_down_and_never_falls():
    assert statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None}) == pytest.approx(
        {"a": 0.03, "c": 0.06, "b": 0.06, "d": None}, nan_ok=True
    )


def test_without_repeats_the_p_value_is_that_of_scipys_paired_t_test():
    base, adapter = np.random.default_rng(0).uniform(0, 1, (2, 12))
    found = statistics.paired(list(base), list(adapter), range(12))
    expected = stats.ttest_rel(adapter, base)
    interval = expected.confidence_interval()
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def studies(k, n, people, by_patient, runs=300):
    """Studies under the null: questions, and patients, suit one arm or the other by chance."""
    rng = np.random.default_rng(k)
    drawn = list(trials.pairs(n, range(people), range(k)))
    patient, question = ([trial[place] for trial in drawn] for place in (1, 2))
    for _ in range(runs):
        effect = rng.normal(0, 0.5, k)[question] + rng.normal(0, by_patient, people)[patient]
        yield statistics.paired([0.0] * n, effect + rng.normal(0, 1, n), question, patient)


@pytest.mark.parametrize("k", [8, 32])
def test_under_the_null_five_percent_are_called_different_although_trials_of_a_question_are_alike(
    k,
):
    found = list(studies(k, 64, 64, 0.0))
    assert 0.02 <= sum(d.p <= 0.05 for d in found) / len(found) <= 0.08
    assert 0.92 <= sum(d.low <= 0 <= d.high for d in found) / len(found) <= 0.98


def test_patients_who_are_asked_often_do_not_count_as_many():
    """Over question means alone, 20 patients asked all 8 questions give 20% false positives."""
    found = list(studies(8, 160, 20, 1.0))
    assert sum(d.p <= 0.05 for d in found) / len(found) <= 0.08
    assert all(d.patients == 20 and d.questions == 8 for d in found)


def test_with_a_patient_for_each_trial_the_interval_is_that_of_question_means():
    base, adapter = [0, 0, 0, 0], [1, 2, 4, 5]
    alone = statistics.paired(base, adapter, "aabb")
    assert alone == statistics.paired(base, adapter, "aabb", [1, 2, 3, 4])
    assert alone.low == pytest.approx(3 - 12.7062 * 3 / math.sqrt(2) / math.sqrt(2), abs=1e-3)


def test_the_statement_says_better_worse_and_open():
    metrics = {"a": ("red flags", True), "b": ("harmful advice", False), "c": ("cautions", True)}
    found = {"a": difference(0.2), "b": difference(0.3), "c": difference(0.1)}
    text = " ".join(findings.statement(found, {"a": 0.02, "b": 0.02, "c": 0.2}, metrics))
    assert "better at red flags by 0.20 [0.15, 0.25]" in text
    assert "worse at harmful advice (less is better) by 0.30 [0.25, 0.35]" in text
    assert "No difference could be shown in cautions" in text
    found["b"] = difference(-0.3)
    assert (
        "harmful advice (less is better) by 0.30 [0.25, 0.35]"
        in findings.statement(found, {"b": 0.02}, metrics)[0]
    )


def test_the_statement_says_when_nothing_could_have_been_shown():
    found = {"a": statistics.paired([0, 0, 0], [1, 1, 1], "abc")}
    text = " ".join(
        findings.statement(found, statistics.holm({"a": found["a"].p}), {"a": ("the rubric", True)})
    )
    assert "No difference could be shown" in text and "With 3 questions" in text


def test_the_table_fits_a_hundred_columns():
    found = {
        name: statistics.paired([0.1] * 4, [0.2, 0.9, 0.3, 0.4], "abcd") for name in rubric.METRICS
    }
    del found["cut"]
    lines = findings.table(found, {"rubric": 0.5}, rubric.METRICS).splitlines()
    assert len(lines) == 2 + len(rubric.METRICS) and max(map(len, lines)) <= 100


def test_a_mean_that_rounds_to_zero_has_no_sign():
    """The rubric below 0 of a base that loses half a point in a hundred answers."""
    rows = [{"question_id": i, "x_base": -0.004, "x_qlora": 0.5} for i in range(6)]
    found = statistics.compare(rows, ["x"], arms.PAIR)
    told = findings.table(found, {}, {"x": rubric.Metric("x", True)})
    assert " 0.00 " in told and "-0.00" not in told


# ---------------------------------------------------------------- groups, correction


def test_small_groups_are_named_and_not_shown():
    rows = [
        {
            "subject_id": i,
            "question_id": f"q{i % 4}",
            "sex": "F" if i < 8 else "M",
            "rubric_base": 0.2,
            "rubric_qlora": 0.4,
        }
        for i in range(12)
    ]
    shown = statistics.groups(
        rows, {"sex": lambda row: row["sex"]}, ["rubric"], arms.PAIR, rubric.METRICS
    )
    women, men = shown
    assert women["difference"] == pytest.approx(0.2) and women["trials"] == 8
    assert men["trials"] == "of fewer than 5 patients" and men["difference"] is None


def test_a_difference_that_the_scorer_made_by_itself_is_taken_back():
    """True shares 0.5 and 0.5; the scorer finds 90% in one arm, 50% in the other, nothing else."""

    def corrected(base, adapter, of_base, of_adapter):
        accuracy = statistics.Accuracy
        return statistics.corrected(base, adapter, accuracy(*of_base), accuracy(*of_adapter))

    assert corrected(0.45, 0.25, (0.9, 1), (0.5, 1)) == pytest.approx(0)
    assert corrected(0.4, 0.6, (1, 1), (1, 1)) == pytest.approx(0.2)
    assert corrected(0.4, 0.6, (0.5, 0.5), (1, 1)) is None


def test_the_primary_endpoint_comes_first_in_words():
    metrics = {"a": ("unseen cautions", True), "b": ("flags", True)}
    said = findings.statement(
        {"a": difference(0.2), "b": difference(0.1)}, {"a": 0.2, "b": 0.3}, metrics, "a"
    )
    assert said[0].startswith(
        "Primary endpoint, unseen cautions: base 0.50, adapter 0.70, difference +0.20"
    )
    assert (
        "nothing can be said"
        in findings.statement({"b": difference(0.1)}, {"b": 0.3}, metrics, "a")[0]
    )


def test_the_spread_between_training_runs_enters_the_interval():
    """Under the null with adapters that differ, 5% are called different; without it, many more."""
    rng, called, without = np.random.default_rng(0), 0, 0
    question = np.repeat(np.arange(12), 4)
    for _ in range(300):
        effect = rng.normal(0, 0.3, 4)[:, None] + rng.normal(0, 0.2, (4, 12))[:, question]
        each = effect + rng.normal(0, 0.3, (4, 48))
        base, mean, runs = [0.0] * 48, list(each.mean(axis=0)), [list(one) for one in each.T]
        called += statistics.paired(base, mean, question, runs=runs).p <= 0.05
        without += statistics.paired(base, mean, question).p <= 0.05
    assert called / 300 <= 0.08 < 0.3 < without / 300


def test_runs_that_agree_change_nothing_and_two_are_too_few():
    base, adapter = [0.0] * 6, [0.1, 0.4, 0.2, 0.5, 0.3, 0.2]
    alone = statistics.paired(base, adapter, "abcdef")
    for n in (2, 3):
        assert statistics.paired(base, adapter, "abcdef", runs=[[a] * n for a in adapter]) == alone


def test_intervals_of_shares_stay_within_what_is_possible():
    found = statistics.paired([0, 0, 0], [1, 1, 0], "abc")
    assert (found.low, found.high) == (pytest.approx(2 / 3 - 1.434, abs=1e-2), 1)
    cosines = statistics.paired([-1, 0.5, 0.9], [1, 1, 0], "abc")
    assert cosines.high > 1


def test_the_score_interval_is_the_published_one():
    """Airway hyper-responsiveness before and after a transplant (Fagerland and others, 2014)."""
    low, high = statistics.score_interval(1, 7, 21)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)
    assert statistics.score_interval(7, 1, 21) == pytest.approx((-high, -low))


def test_the_score_interval_ends_where_its_statistic_is_critical_and_is_never_empty():
    from scipy import optimize

    gained, lost, n = 12, 30, 400

    def statistic(true: float) -> float:
        """By a likelihood that is maximised over the share that was lost, numerically."""

        def unlikely(share: float) -> float:
            both = 1 - 2 * share - true
            parts = ((gained, share + true), (lost, share), (n - gained - lost, both))
            return -sum(k * np.log(max(p, 1e-300)) for k, p in parts)

        bounds = (max(0.0, -true) + 1e-12, (1 - true) / 2 - 1e-12)
        best = optimize.minimize_scalar(unlikely, bounds=bounds, method="bounded").x
        return (gained - lost - n * true) / np.sqrt(n * (2 * best + true - true**2))

    low, high = statistics.score_interval(gained, lost, n)
    assert statistic(low) == pytest.approx(1.96, abs=1e-3)
    assert statistic(high) == pytest.approx(-1.96, abs=1e-3)
    assert statistics.score_interval(0, 0, 100) == pytest.approx((-0.037, 0.037), abs=1e-3)
    assert statistics.score_interval(0, 5, 5)[0] == -1


def test_right_or_wrong_documents_are_compared_by_those_that_differ():
    base, adapter = [1, 1, 1, 0, 0, 1, 1, 1], [0, 0, 0, 1, 0, 1, 1, 1]
    d = statistics.of_right_or_wrong(base, adapter)
    assert (d.base, d.adapter, d.mean, d.trials) == (0.75, 0.5, -0.25, 8)
    assert d.p == pytest.approx(0.625)  # 1 of 4, two-sided
    assert statistics.of_right_or_wrong([1, 0], [1, 0]).p == 1
