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
    primary, rubric = out.split("The smallest true difference")
    rows = [line.split() for line in rubric.splitlines() if re.match(r" +\d", line)]
    assert [row[0] for row in rows] == ["50", "100", "200", "1000"] and "assumed" in rubric
    powers = [int(found) for found in re.findall(r"^ *\d+ .* (\d+)%", primary, re.M)]
    assert powers == sorted(powers) and len(powers) == 4
    assert "answers of each arm read" in " ".join(primary.split())
    assert all(float(a) > float(b) for a, b in zip(rows[0][1:], rows[0][2:], strict=False))
    assert all(float(a) >= float(b) for a, b in zip(rows[0][1:], rows[3][1:], strict=True))
    run_validate("64", "--no-knowledge")
    assert re.search(r"\(taken from 2\d{7}-", run_validate("--plan")[1])


def test_the_power_of_the_primary_endpoint_is_that_of_simulated_studies():
    """Questions and rules as clusters, a reader that errs, people who read some of the answers."""
    import numpy as np
    from scipy import stats

    rng = np.random.default_rng(0)
    design = power.Design(240, 12, 24, 3, 150, 0.8, 0.1, 0.35)
    question, rule = np.arange(240) % 12, np.arange(240) % 24
    claimed, runs = 0, 300
    critical = stats.t.ppf(1 - 0.05 / design.claims / 2, 11)
    for _ in range(runs):
        shift = rng.normal(0, power.BETWEEN, 12)[question] + rng.normal(0, power.BETWEEN, 24)[rule]
        shift += rng.normal(0, power.BETWEEN_RUNS) / np.sqrt(3)
        shares = np.clip([np.full(240, power.BASE), power.BASE + design.useful + shift], 0, 1)
        said = rng.random((2, 240)) < shares
        heard = np.where(said, rng.random((2, 240)) < 0.8, rng.random((2, 240)) < 0.1)
        read = rng.permuted(np.arange(240) < 150)
        corrected = heard.mean(axis=1) + (said[:, read].astype(float) - heard[:, read]).mean(axis=1)
        claimed += (corrected[1] - corrected[0]) / design.error > critical
    assert abs(claimed / runs - design.power) < 0.1
    assert design.power < 0.99 and power.Design(240, 12, 2).power == 0
