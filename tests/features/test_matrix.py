"""The feature matrix: what was known at the prediction time, chosen on train patients."""

import numpy as np
import pytest

from helpers.feature_tables import built, changed, hospital, hours
from mimic_qlora.features import matrix
from mimic_qlora.features.matrix import Feature
from mimic_qlora.mimic import tables
from mimic_qlora.subjects import patients


def same(one, other) -> bool:
    return one.features == other.features and np.array_equal(one.matrix, other.matrix)


def test_what_was_not_known_at_the_landmark_makes_no_feature(tmp_path):
    made = hospital()
    _, before = built(tmp_path / "a", made)
    late = {
        "subject_id": 5,
        "charttime": hours(23),
        "storetime": hours(25),
        "itemid": 50931,
        "valuenum": 9999.0,
        "priority": "STAT",
    }
    unstored = {**late, "charttime": hours(1), "storetime": None}
    later = {**made, "labevents": [*made["labevents"], late, unstored]}
    later = changed(later, "prescriptions", lambda row: True, stoptime=hours(400))
    owners = range(1, 21)
    order = {"pharmacy_id": 9999, "starttime": hours(20), "drug": "Insulin Glargine"}
    orders = [made["prescriptions"][i - 1] | order for i in owners]
    later["prescriptions"] = [*later["prescriptions"], *orders * 9]
    # as in a chart the last entry counts, and none of another patient
    later["pharmacy"] = [*later["pharmacy"]] + [
        {"subject_id": i, "pharmacy_id": 9999, "entertime": hours(n)}
        for i in (*owners, 230)
        for n in ((1,) if i == 230 else (1, 25))
    ]
    later = changed(
        later, "admissions", lambda row: True, discharge_location="DIED", hospital_expire_flag=1
    )
    _, after = built(tmp_path / "b", later)
    assert same(before, after)
    _, seen = built(
        tmp_path / "c",
        {**made, "labevents": [*made["labevents"], {**late, "storetime": hours(24)}]},
    )
    assert not same(before, seen)


def test_a_code_is_known_at_the_end_of_the_stay_of_its_own_patient(tmp_path):
    made = hospital()
    coded = {"chartdate": hours(-48), "seq_num": 1, "icd_code": "0210093", "icd_version": 10}
    made["procedures_icd"] = [
        {**coded, "subject_id": i, "hadm_id": 1000 + i} for i in range(1, 200)
    ]
    _, before = built(tmp_path / "a", made)
    # a stay of another patient with its number, and one that ends before it begins
    ended = {**made["admissions"][0], "subject_id": 230, "dischtime": hours(-40)}
    other = changed(made, "admissions", lambda row: row["subject_id"] > 230, dischtime=hours(-40))
    ends = [{**ended, "hadm_id": 1000 + i, "admittime": hours(-44)} for i in range(1, 200)]
    _, after = built(tmp_path / "b", {**other, "admissions": [*other["admissions"], *ends]})
    assert same(before, after)


def test_an_emergency_visit_that_stands_twice_counts_once(tmp_path):
    made = hospital()
    visits = [
        {"subject_id": i, "stay_id": 10 * i + n, "intime": hours(-n)}
        for i in range(1, 200)
        for n in range(1, 2 + i % 3)
    ]
    people, once = built(tmp_path / "a", {**made, "edstays": visits})
    _, twice = built(tmp_path / "b", {**made, "edstays": [*visits, *visits]})
    assert once.rows["edstays", ""].sum() > len(people) and same(once, twice)
    assert np.array_equal(once.rows["edstays", ""], twice.rows["edstays", ""])


def test_what_is_chosen_is_chosen_on_train_patients(tmp_path):
    made = hospital()
    split = patients.assign([row["subject_id"] for row in made["patients"]], 42)
    people, before = built(tmp_path / "a", made)
    other = changed(
        made,
        "prescriptions",
        lambda row: split[row["subject_id"]] != "train",
        drug="Unheard of",
        dose_val_rx="x",
    )
    _, after = built(tmp_path / "b", other)
    is_train = (people.split == "train").to_numpy()
    assert before.features == after.features
    assert np.array_equal(before.matrix[is_train], after.matrix[is_train])


def test_numbers_are_aggregated_per_item(tmp_path):
    made = hospital()
    people, result = built(tmp_path, made)
    place = {f: i for i, f in enumerate(result.features)}
    row = people.subject_id.tolist().index(7)
    values = [
        r["valuenum"] for r in made["labevents"] if r["subject_id"] == 7 and r["itemid"] == 50931
    ]
    for statistic, expected in {
        "mean": np.mean(values),
        "std": np.std(values, ddof=1),
        "last": values[-1],
        "max": max(values),
    }.items():
        found = result.matrix[row, place[Feature("labevents.valuenum", "50931", statistic)]]
        assert found == pytest.approx(expected, rel=1e-5)


def test_texts_that_are_numbers_are_numbers_and_codes_are_not(tmp_path):
    people, result = built(tmp_path, hospital())
    doses = {f.statistic for f in result.features if f.column == "prescriptions.dose_val_rx"}
    assert "mean" in doses and "share" not in doses
    values = {
        v
        for i, f in enumerate(result.features)
        if f.column == "prescriptions.dose_val_rx"
        for v in result.matrix[:, i]
    }
    assert 500_000 in values
    assert result.silent["prescriptions.ndc"] == matrix.ALIKE  # "00045" stays a code


def test_a_column_of_countless_values_makes_no_feature_and_says_so(tmp_path):
    made = hospital()
    for n, row in enumerate(made["labevents"]):
        row["order_provider_id"] = f"P{n}"
    _, result = built(tmp_path, made)
    assert result.silent["labevents.order_provider_id"] == matrix.COUNTLESS
    assert result.silent["labevents.comments"] == matrix.EMPTY
    _, without = built(tmp_path / "without", hospital())
    values = {feature: result.matrix[:, n] for n, feature in enumerate(result.features)}
    for n, feature in enumerate(without.features):
        if feature.column != "labevents.order_provider_id":  # it touches no other feature
            np.testing.assert_array_equal(without.matrix[:, n], values[feature], str(feature))


def test_every_column_is_a_feature_or_has_a_reason(tmp_path):
    _, result = built(tmp_path, hospital())
    heard = {f.column for f in result.features}
    for table in ("patients", "admissions", "labevents", "prescriptions", "emar"):
        for column in tables.schema()[table].columns:
            name = f"{table}.{column}"
            assert (name in heard) + (name in result.silent) + (name in result.excluded) == 1, name
    for name in (
        "admissions.hadm_id",
        "admissions.hospital_expire_flag",
        "patients.anchor_year_group",
        "emar.medication",
    ):
        assert result.excluded[name]


def test_a_column_that_mimic_does_not_have_makes_no_feature(tmp_path):
    """A study's own may tell the outcome: nobody says when it is known."""
    made = hospital()
    own = [{**row, "died_within_30_days": int(row["subject_id"]) % 2} for row in made["admissions"]]
    _, result = built(tmp_path / "own", {**made, "admissions": own})
    assert result.excluded["admissions.died_within_30_days"] == matrix.NO_RULE
    assert same(result, built(tmp_path / "without", made)[1])


def test_absent_rows_speak_through_their_number_alone(tmp_path):
    """A column of noise in a drug's orders must not tell that the drug was ordered."""
    people, result = built(tmp_path, hospital())
    for i, feature in enumerate(result.features):
        if feature.item == "Lisinopril" and feature.column == "prescriptions.dose_val_rx":
            ordered = (
                result.matrix[
                    :,
                    result.features.index(Feature("prescriptions.drug", "Lisinopril", "rows")),
                ]
                > 0
            )
            train = (people.split == "train").to_numpy()
            fill = np.unique(result.matrix[~ordered, i])
            assert len(fill) == 1 and fill[0] == pytest.approx(
                np.median(result.matrix[ordered & train, i])
            )


def test_the_median_of_the_greatest_values_is_a_number():
    block = matrix.Block(
        [matrix.Cells(np.array([0, 1]), np.array([0, 0]), np.array([1.7e308, np.inf]))],
        [matrix.Feature("labevents.valuenum", "", "max")],
        float("nan"),
    )
    dense = matrix._dense(3, block)
    matrix._fill(dense, np.array([True, True, False]))
    assert np.isfinite(dense).all()
