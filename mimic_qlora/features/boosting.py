"""XGBoost models of many targets over one binned matrix, and their out-of-fold scores."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import xgboost
from sklearn.model_selection import PredefinedSplit
from tqdm import tqdm

from mimic_qlora.features.cohort import Target
from mimic_qlora.features.matrix import Features, in_split
from mimic_qlora.step import limits, seeded
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
PATIENCE = 10  # rounds without a lower validation loss
BAG = 2  # models whose scores are averaged, with fewer patients than MANY
MANY = 2000
MIN_HELD = 5  # patients per fold
# numbers in a matrix: in a smaller one a model's threads wait for each other more than they work
SMALL = 20_000_000

T = TypeVar("T")


class Study(NamedTuple):
    """The data that all models of one run share.

    people: the cohort, one row per patient, in the order of the rows of `built.matrix`.
    fold: int [patients], the fold that holds a patient out, -1 for never.
    device: "cpu" or "cuda".
    """

    built: Features
    people: pd.DataFrame
    fold: np.ndarray
    device: str


class Turn(NamedTuple):
    """The patients of one fold's model, each bool [patients]; test patients are in none.

    fitted: trained on. stopping: tell when to stop. held: held out.
    """

    fitted: np.ndarray
    stopping: np.ndarray
    held: np.ndarray


class Bins(NamedTuple):
    """Train and validation patients as XGBoost bins them, for one target after the other.

    `validation` is None where there are no such patients. `threads` is 0 for all cores.
    """

    train: xgboost.QuantileDMatrix
    validation: xgboost.QuantileDMatrix | None
    threads: int


def device(wanted: str = "auto") -> str:
    """Return "cuda" or "cpu"; "auto" takes a GPU where XGBoost can use one.

    Raises UserError when `wanted` is "cuda" and there is no usable GPU.
    """
    listed = None if wanted == "cpu" or limits.gpus_hidden() else limits.gpus()
    has_gpu = bool(listed and listed.listed)
    usable = bool(has_gpu and xgboost.build_info().get("USE_CUDA"))
    if wanted == "cuda" and not usable:
        why = "this xgboost is built without CUDA" if has_gpu else "nvidia-smi finds none"
        why = "CUDA_VISIBLE_DEVICES hides all" if limits.gpus_hidden() else why
        raise UserError(
            f"--device cuda: there is no GPU to use ({why}); leave --device out to use the CPU"
        )
    return "cuda" if usable else "cpu"


def bins(
    matrix: np.ndarray, is_train: np.ndarray, is_validation: np.ndarray, threads: int = 0
) -> Bins:
    """Bin the patients of a float32 matrix [patients, features]; both masks are bool [patients]."""
    options = {"max_bin": PARAMS["max_bin"], "nthread": threads}
    train = xgboost.QuantileDMatrix(matrix[is_train], **options)
    if not is_validation.any():
        return Bins(train, None, threads)
    validation = xgboost.QuantileDMatrix(matrix[is_validation], ref=train, **options)
    return Bins(train, validation, threads)


def each_target(
    matrix: np.ndarray,
    turn: Turn,
    targets: list[Target],
    device: str,
    work: Callable[[Bins, Target], T],
) -> Iterator[T]:
    """Yield what `work` makes of a turn's bins and each target, in the order of the targets.

    On a CPU a small matrix is binned once a core, and each core works on one target.
    """
    several = device == "cpu" and matrix.size < SMALL
    at_once = min(limits.cores(), len(targets)) if several else 1
    spare: SimpleQueue[Bins] = SimpleQueue()
    for _ in range(at_once):
        spare.put(bins(matrix, turn.fitted, turn.stopping, int(several)))

    def one(target: Target) -> T:
        binned = spare.get()
        try:
            return work(binned, target)
        finally:
            spare.put(binned)

    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(one, targets)


def fit(
    binned: Bins,
    target: Target,
    is_train: np.ndarray,
    is_validation: np.ndarray,
    seed: int,
    device: str,
) -> xgboost.Booster | None:
    """Return one target's model over the binned patients, cut at its least validation loss.

    Patients outside `target.who` have weight 0, so that all targets share the bins. Without
    validation patients the model has a quarter of ROUNDS. None where the train patients are all
    with or all without the target.
    """
    if not 0 < target.y[is_train & target.who].sum() < (is_train & target.who).sum():
        return None
    for part, mask in ((binned.train, is_train), (binned.validation, is_validation)):
        if part is not None:
            part.set_label(target.y[mask].astype(float))
            part.set_weight(target.who[mask].astype(float))
    stops = bool(target.who[is_validation].any())
    booster = xgboost.train(
        {**PARAMS, "seed": seed, "device": device, "nthread": binned.threads},
        binned.train,
        num_boost_round=ROUNDS if stops else ROUNDS // 4,
        evals=[(binned.validation, "validation")] if stops else [],
        early_stopping_rounds=PATIENCE if stops else None,
        verbose_eval=False,
    )
    return booster[: booster.best_iteration + 1] if stops else booster


def predictions(
    turn: Turn,
    seeds: Sequence[int],
    device: str,
    unseen: np.ndarray,
    binned: Bins,
    target: Target,
) -> list[np.ndarray]:
    """Return the scores that one model a seed gives to `unseen`, each float [patients].

    The list is empty where there is no model.
    """
    models = (fit(binned, target, turn.fitted, turn.stopping, seed, device) for seed in seeds)
    return [model.inplace_predict(unseen) for model in models if model is not None]


def gains(booster: xgboost.Booster, n_features: int) -> np.ndarray:
    """Return the total gain of each feature: float [n_features], 0 where no tree uses it."""
    result = np.zeros(n_features)
    for name, gain in booster.get_score(importance_type="total_gain").items():
        result[int(name[1:])] = gain
    return result


def folds(people: pd.DataFrame, n: int) -> np.ndarray:
    """Return the fold that holds each patient out: int [patients], -1 for test patients.

    Folds cover train and validation patients, since small drops drown in the noise of the few
    validation patients alone. With n = 1 the only fold is the validation split. Membership comes
    from hashes of subject_id, in constant sizes: the shuffles of scikit-learn's KFold depend on
    the order of the rows, and its StratifiedKFold on one target, while all targets share the folds.
    """
    if n == 1:
        return np.where(in_split(people, "validation"), 0, -1)
    ids = people["subject_id"][~in_split(people, "test")].tolist()
    place = {s: i for i, s in enumerate(seeded.order(ids, "rotation", 0))}
    everybody = people["subject_id"].tolist()
    return np.array([place[s] % n if s in place else -1 for s in everybody])


def check_folds(people: pd.DataFrame, n: int) -> None:
    """Raise UserError when n folds would hold out fewer than MIN_HELD patients each."""
    develop = int((~in_split(people, "test")).sum())
    if n > 1 and n * MIN_HELD > develop:
        raise UserError(
            f"--seeds {n} needs {n * MIN_HELD:,} train and validation patients with a coded stay, "
            f"there are {develop:,}: give fewer seeds or convert more patients with step 1"
        )


def turns(people: pd.DataFrame, fold: np.ndarray) -> list[Turn]:
    """Return the patients of each fold's model, by scikit-learn's PredefinedSplit.

    A tenth of the patients not held out decides when to stop. Stopping on the patients held out
    would make their scores too good.
    """
    develop = np.flatnonzero(~in_split(people, "test"))
    picks = [seeded.pick(f"stop:{s}", 10) == 0 for s in people["subject_id"].tolist()]
    may_stop = np.array(picks)
    result = []
    for others, held in PredefinedSplit(fold[develop]).split():
        is_other, is_held = np.zeros(len(people), bool), np.zeros(len(people), bool)
        is_other[develop[others]] = is_held[develop[held]] = True
        result.append(Turn(is_other & ~may_stop, is_other & may_stop, is_held))
    return result


def out_of_fold(study: Study, matrix: np.ndarray, targets: list[Target], what: str) -> np.ndarray:
    """Return each patient's score by the model that did not see them: float [targets, patients].

    matrix: the features to use, float32 [patients, features]. what: name of the progress bar.
    Scores are nan where there is no model, 0 where the matrix has no features. With fewer than
    MANY patients they are the mean of BAG models: chance in one fit would outweigh a column.
    """
    people, fold = study.people, study.fold
    scores = np.full((len(targets), len(people)), np.nan)
    if not matrix.shape[1]:
        return np.where(fold >= 0, 0.0, scores)
    bag = BAG if len(people) < MANY else 1
    bar = tqdm(total=len(targets) * (fold.max() + 1), desc=what, unit="target", disable=None)
    for number, turn in enumerate(turns(people, fold)):
        seeds = [number + 1000 * extra for extra in range(bag)]
        predict = partial(predictions, turn, seeds, study.device, matrix[turn.held])
        of_targets = each_target(matrix, turn, targets, study.device, predict)
        for t, predicted in enumerate(of_targets):
            bar.update()
            if predicted:
                scores[t, turn.held] = np.mean(predicted, axis=0)
    bar.close()
    return scores


def test_scores(
    study: Study, matrix: np.ndarray, targets: list[Target], seeds: int, what: str
) -> np.ndarray:
    """Return the scores of the test patients: float [targets, test patients].

    Models are fitted on train, stopped on validation and averaged over seeds. Arguments as in
    `out_of_fold`.
    """
    turn = Turn(*(in_split(study.people, split) for split in ("train", "validation", "test")))
    unseen = matrix[turn.held]
    scores = np.zeros((len(targets), len(unseen)))
    if not matrix.shape[1] or not len(unseen):
        return scores
    predict = partial(predictions, turn, range(seeds), study.device, unseen)
    of_targets = each_target(matrix, turn, targets, study.device, predict)
    bar = tqdm(of_targets, desc=what, unit="target", total=len(targets), disable=None)
    for t, predicted in enumerate(bar):
        for one in predicted:
            scores[t] += one / seeds
    return scores
