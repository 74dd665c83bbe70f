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
