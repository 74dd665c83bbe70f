"""Models, folds and out-of-fold scores."""

import numpy as np
import pytest

from helpers.feature_tables import built, hospital, made_up
from mimic_qlora.features import auroc, boosting, skill
from mimic_qlora.step import errors, limits


def test_each_patient_is_held_out_once_and_test_patients_never(tmp_path):
    people, _ = built(tmp_path, hospital())
    is_test = (people.split == "test").to_numpy()
    turns = boosting.turns(people, boosting.folds(people, 3))
    times = sum(held.astype(int) for _, _, held in turns)
    assert (times[is_test] == 0).all() and (times[~is_test] == 1).all()
    for fitted, stops, held in turns:  # nobody is two of these
        assert (
            fitted.astype(int) + stops + held + is_test == 1
        ).all() and 0 < stops.sum() < fitted.sum() / 4
    ((fitted, stops, held),) = boosting.turns(people, boosting.folds(people, 1))
    assert (held == (people.split == "validation")).all() and (
        fitted | stops == (people.split == "train")
    ).all()


def test_what_cannot_be_predicted_is_not_predicted_on_patients_held_out():
    """A model that stops on the patients whom it is judged by finds something in noise."""
    rng, areas = np.random.default_rng(0), []
    for _ in range(8):
        study, target = made_up(200, n_folds=2)
        noise = rng.normal(size=(200, 60)).astype(np.float32)
        (scores,) = boosting.out_of_fold(study, noise, [target], "all")
        own = skill.folds_of(target, scores, study.fold)
        areas.append(auroc.within_folds(target.y, scores, own).value)
    assert abs(np.mean(areas) - 0.5) < 0.04


def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert boosting.device("auto") == "cpu"
    with pytest.raises(errors.UserError, match="no GPU to use"):
        boosting.device("cuda")


def test_a_gpu_that_is_hidden_or_not_listed_is_not_used(monkeypatch):
    """The GPU and the build of XGBoost with CUDA are made up."""
    monkeypatch.setattr(boosting.xgboost, "build_info", lambda: {"USE_CUDA": True})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for count, expected in ((0, "cpu"), (1, "cuda")):
        monkeypatch.setattr(limits, "gpus", lambda n=count: limits.Gpus(n, False, "..."))
        assert boosting.device("auto") == expected and boosting.device("cpu") == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert boosting.device("auto") == "cpu"
    with pytest.raises(errors.UserError, match="CUDA_VISIBLE_DEVICES hides all"):
        boosting.device("cuda")


def test_scores_are_the_same_on_any_number_of_cores(monkeypatch):
    study, target = made_up(200, n_folds=2)
    matrix = np.random.default_rng(1).normal(size=(200, 20)).astype(np.float32)
    matrix[:, 0] += target.y
    alone = target._replace(who=np.arange(200) % 3 > 0)
    never = target._replace(y=np.zeros(200, bool))
    targets = [target, never, alone, *[target._replace(y=np.roll(target.y, n)) for n in (1, 2)]]
    scores = []
    for cores, small in ((1, boosting.SMALL), (4, boosting.SMALL), (4, 0)):
        monkeypatch.setattr(limits, "cores", lambda n=cores: n)
        monkeypatch.setattr(boosting, "SMALL", small)  # 0: each model on all cores
        scores.append(boosting.out_of_fold(study, matrix, targets, "all"))
    assert np.array_equal(scores[0], scores[1], equal_nan=True)
    assert np.allclose(scores[0], scores[2], equal_nan=True)
    assert np.isnan(scores[0][1]).all() and np.nanstd(scores[0][0]) > 0.1
