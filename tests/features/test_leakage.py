"""Single features that predict a target implausibly well."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from helpers.feature_tables import made_up
from mimic_qlora.features import cohort, leakage
from mimic_qlora.features.matrix import Feature


def test_a_column_that_gives_the_target_away_is_told_and_a_known_one_explained():
    study, _ = made_up(600)
    built, people = study.built, study.people
    rng = np.random.default_rng(1)
    leak = built.matrix[:, 0] > 0
    insulin = Feature("prescriptions.drug", "Insulin Glargine", "rows")
    built = built._replace(features=[*built.features[:2], insulin])
    chosen = [
        cohort.Target("diabetes", "diabetes", leak ^ (rng.random(600) < 0.03), np.ones(600, bool))
    ]
    found = leakage.find(built, people, chosen)
    assert [(row.column, bool(row.plausible)) for row in found] == [
        ("admissions.x", False),
        ("prescriptions.drug", True),
    ]
    assert "implausibly well" in leakage.sentence(found) and "known reason" in leakage.sentence(
        found[1:]
    )
    assert (
        leakage.find(
            built, people.iloc[:20], [t._replace(y=t.y[:20], who=t.who[:20]) for t in chosen]
        )
        == []
    )


def test_the_area_under_the_curve_of_each_feature_is_that_of_scikit_learn():
    study, _ = made_up(600)
    rng = np.random.default_rng(1)
    values, is_train = study.built.matrix.round(1), (study.people.split == "train").to_numpy()
    study = study._replace(built=study.built._replace(matrix=values))
    y = (values[:, 0] < 0) ^ (rng.random(600) < 0.03)
    target = cohort.Target("t", "t", y, np.ones(600, bool))
    found = leakage.find(study.built, study.people, [target])
    expected = {
        feature.column: roc_auc_score(y[is_train], values[is_train, i])
        for i, feature in enumerate(study.built.features)
    }
    assert {row.column for row in found} == {"admissions.x", "admissions.z"}
    for row in found:
        assert row.auroc == pytest.approx(expected[row.column], abs=1e-12) and row.auroc < 0.1
