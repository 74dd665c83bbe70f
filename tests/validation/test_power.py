"""The difference that a planned comparison can detect."""

import re

from mimic_qlora.validation import power


def test_the_detectable_difference_is_found_four_times_out_of_five():
    import numpy as np
    from scipy import stats

    rng, n, k, between, within = np.random.default_rng(0), 48, 8, 0.1, 0.25
    size = power.detectable(n, k, power.Spread(between, within))
    means = (
        size + rng.normal(0, between, (4000, k)) + rng.normal(0, within / np.sqrt(n / k), (4000, k))
    )
    assert 0.78 < np.mean(stats.ttest_1samp(means, 0, axis=1).pvalue < 0.05) < 0.82
    rows = [
        {"question_id": q, "x_base": "0.0", "x_qlora": str(b + rng.normal(0, within))}
        for q, b in enumerate(rng.normal(0, between, 400))
        for _ in range(6)
    ]
    rows[0]["x_base"] = "0"
    assert np.allclose(
        power.estimated([*rows, {"question_id": 1, "x_base": "", "x_qlora": ""}], "x"),
        (0.1, 0.25),
        atol=0.02,
    )
    assert (
        power.detectable(5, 1, power.Spread(0.1, 0.1)) is None
        and power.estimated(rows[:6], "x") is None
    )


def test_plan_says_what_n_trials_can_show_and_takes_the_spread_from_the_last_run(run_validate):
    _, out, _ = run_validate("50", "--plan")
    rows = [line.split() for line in out.splitlines() if re.match(r" +\d", line)]
    assert [row[0] for row in rows] == ["50", "100", "200", "1000"] and "assumed" in out
    assert all(float(a) > float(b) for a, b in zip(rows[0][1:], rows[0][2:], strict=False))
    assert all(float(a) >= float(b) for a, b in zip(rows[0][1:], rows[3][1:], strict=True))
    run_validate("64", "--no-knowledge")
    assert re.search(r"\(taken from 2\d{7}-", run_validate("--plan")[1])
