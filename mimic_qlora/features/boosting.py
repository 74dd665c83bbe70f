"""XGBoost models of many targets over one binned matrix, and the scores that they give to patients held out."""

from typing import NamedTuple

from mimic_qlora.step.errors import UserError

PARAMS = {
    "objective": "binary:logistic",
    "eval_metric": "logloss",
    "tree_method": "hist",
    "max_depth": 3,
    "eta": 0.15,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "min_child_weight": 2,
    "max_bin": 64,
}
ROUNDS = 120
PATIENCE = 10  # rounds without a better validation loss
BAG = 2  # models whose scores are averaged, when there are fewer patients than MANY
MANY = 2000
MIN_HELD = 5  # patients held out in each turn


class Bins(NamedTuple):
    """Train and validation patients as xgboost bins them, once for all targets."""

    train: object
    validation: object  # None when there are no such patients


def device(wanted: str = "auto") -> str:
    """ "cuda" or "cpu"; "auto" is a GPU where xgboost can use one. Raises UserError when a GPU is wanted in vain."""
    import shutil
    import subprocess

    import xgboost

    lists_one = ["nvidia-smi", "--list-gpus"]
    there = (
        shutil.which(lists_one[0]) and subprocess.run(lists_one, capture_output=True).stdout.strip()
    )
    usable = bool(xgboost.build_info().get("USE_CUDA") and there)
    if wanted == "cuda" and not usable:
        why = "this xgboost is built without CUDA" if there else "nvidia-smi finds none"
        raise UserError(
            f"--device cuda: there is no GPU to use ({why}); leave --device out to use the CPU"
        )
    return "cuda" if usable and wanted != "cpu" else "cpu"


def bins(matrix, is_train, is_validation) -> Bins:
    import xgboost

    limit = PARAMS["max_bin"]
    train = xgboost.QuantileDMatrix(matrix[is_train], max_bin=limit)
    some = is_validation.any()
    return Bins(
        train,
        xgboost.QuantileDMatrix(matrix[is_validation], ref=train, max_bin=limit) if some else None,
    )


def fit(binned: Bins, target, is_train, is_validation, seed: int, on: str):
    """One target's model over the binned patients, stopped where the validation loss was least.

    Patients outside `target.who` have no weight, so that all targets share the bins. None where the patients fitted on
    are all with or all without the target.
    """
    import xgboost

    if not 0 < target.y[is_train & target.who].sum() < (is_train & target.who).sum():
        return None
    for part, mask in zip(binned, (is_train, is_validation), strict=True):
        if part is not None:
            part.set_label(target.y[mask].astype(float))
            part.set_weight(target.who[mask].astype(float))
    stops = bool(
        target.who[is_validation].any()
    )  # without patients to stop on: a quarter of the rounds
    booster = xgboost.train(
        {**PARAMS, "seed": seed, "device": on},
        binned.train,
        num_boost_round=ROUNDS if stops else ROUNDS // 4,
        evals=[(binned.validation, "validation")] if stops else [],
        early_stopping_rounds=PATIENCE if stops else None,
        verbose_eval=False,
    )
    return booster[: booster.best_iteration + 1] if stops else booster


def gains(booster, n_features: int):
    """Total gain of each feature; a feature that no tree used has 0, not no entry."""
    import numpy as np

    result = np.zeros(n_features)
    for name, gain in booster.get_score(importance_type="total_gain").items():
        result[int(name[1:])] = gain
    return result


def folds(people, n: int):
    """Which of n turns holds a patient out, over the train and validation patients; -1 for test patients: never.

    The few validation patients alone would drown small drops in noise. With n = 1: the project's train and validation.
    """
    import numpy as np

    from mimic_qlora.step import seeded

    develop = (people.split != "test").to_numpy()
    if n == 1:
        return np.where((people.split == "validation").to_numpy(), 0, -1)
    place = {
        s: i for i, s in enumerate(seeded.order(people.subject_id[develop].tolist(), "rotation", 0))
    }
    return np.array([place[s] % n if s in place else -1 for s in people.subject_id.tolist()])


def check_folds(people, n: int) -> None:
    """Raise UserError when n turns would hold fewer than MIN_HELD patients out each."""
    develop = int((people.split != "test").sum())
    if n > 1 and n * MIN_HELD > develop:
        raise UserError(
            f"--seeds {n} needs {n * MIN_HELD:,} train and validation patients with a coded stay, there are "
            f"{develop:,}: give fewer seeds or convert more patients with step 1"
        )


def turns(people, fold) -> list:
    """(fitted on, stopped on, held out) of each turn; test patients are in none.

    A tenth of those not held out tells when to stop: stopped on the patients held out, a model would flatter itself.
    """
    import numpy as np

    from mimic_qlora.step import seeded

    develop = (people.split != "test").to_numpy()
    stops = np.array([seeded.pick(f"stop:{s}", 10) == 0 for s in people.subject_id.tolist()])
    others = [develop & (fold != k) for k in range(fold.max() + 1)]
    return [(part & ~stops, part & stops, fold == k) for k, part in enumerate(others)]


def out_of_fold(matrix, people, targets: list, fold, on: str, what: str):
    """The score of each patient by models that were fitted without them, targets x patients; nan where there are none.

    With few patients it is the mean of BAG models: chance in one fit would outweigh what a column is worth.
    """
    import numpy as np
    from tqdm import tqdm

    scores = np.full((len(targets), len(people)), np.nan)
    if not matrix.shape[1]:
        return np.where(fold >= 0, 0.0, scores)
    bag = BAG if len(people) < MANY else 1
    bar = tqdm(total=len(targets) * (fold.max() + 1), desc=what, unit="target", disable=None)
    for turn, (fitted, stops, held) in enumerate(turns(people, fold)):
        binned, unseen = bins(matrix, fitted, stops), matrix[held]
        for t, target in enumerate(targets):
            bar.update()
            boosters = [
                fit(binned, target, fitted, stops, turn + 1000 * extra, on) for extra in range(bag)
            ]
            if boosters[0]:
                scores[t, held] = np.mean(
                    [booster.inplace_predict(unseen) for booster in boosters], axis=0
                )
    bar.close()
    return scores


def test_scores(matrix, people, targets: list, seeds: int, on: str, what: str):
    """Scores of the test patients, targets x patients: fitted on train, stopped on validation, averaged over seeds."""
    import numpy as np
    from tqdm import tqdm

    fitted, held, test = (
        people.split.to_numpy() == name for name in ("train", "validation", "test")
    )
    unseen = matrix[test]
    scores = np.zeros((len(targets), len(unseen)))
    if not matrix.shape[1] or not len(unseen):
        return scores
    binned = bins(matrix, fitted, held)
    for t, target in enumerate(tqdm(targets, desc=what, unit="target", disable=None)):
        for seed in range(seeds):
            scores[t] += fit(binned, target, fitted, held, seed, on).inplace_predict(unseen) / seeds
    return scores
