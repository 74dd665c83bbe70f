"""Simple models of the same facts: logistic regression and XGBoost on what a prompt shows.

Their features are the items of the context that the model reads, with their values and how long ago
they were, and the words of the complaint. Nothing else of the record is there.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mimic_qlora.chart.context import Context
from mimic_qlora.chart.sections import Item
from mimic_qlora.features import boosting
from mimic_qlora.validation.urgency.endpoint import Bools, Floats

if TYPE_CHECKING:
    import xgboost
    from sklearn.pipeline import Pipeline

Facts = dict[str, float]  # name of a feature -> its value; 1 for what is there
LOGISTIC, XGBOOST = "logistic regression", "XGBoost"
FEWEST = 5  # training visits that have a feature, else it is left out
STRENGTHS = (0.01, 0.1, 1.0)  # of logistic regression, chosen by cross-validation in training
CLASS = 10  # training visits of each class below which nothing can be chosen
STOPPING = 5  # every fifth training visit tells XGBoost when to stop


def facts(shown: Context, complaint: str | None) -> Facts:
    """Return the features of a prompt: the context's items and the words of the complaint."""
    found: Facts = {}
    for section, items in shown.shown.items():
        for item in items:
            if item.rows:
                found |= _of_item(section, item, shown.as_of)
        if more := shown.cuts.get(section):
            found[f"{section}: more"] = float(more)
    words = re.findall(r"[a-z0-9]+", (complaint or "").casefold())
    pairs = [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]
    return found | {f"complaint: {word}": 1.0 for word in (*words, *pairs)}


def _of_item(section: str, item: Item, as_of: datetime) -> Facts:
    name = f"{section}: {item.name}" if item.name else section
    found = {name: 1.0}
    numbers = [_number(part) for part in item.value.split("/")]
    for place, number in enumerate(numbers):
        if number is None:
            found[f"{name} = {item.value}"] = 1.0
        else:
            found[f"{name} ({place})"] = number
    before = [row["valuenum"] for _, row in item.rows[1:] if "valuenum" in row]
    if before:
        found[f"{name} (before)"] = float(before[0])
    if item.when is not None:
        found[f"{name} (days)"] = math.log1p(max(0, (as_of - item.when).days))
    return found | {f"{name}, {detail}": 1.0 for detail in item.details}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


class Model(NamedTuple):
    """A fitted model: the features that it knows, and what predicts from them."""

    encode: "Pipeline"
    predict: Any

    def risks(self, visits: Sequence[Facts]) -> Floats:
        """Return the risk of each visit, 0 to 1."""
        found: Floats = np.asarray(self.predict(self.encode.transform(visits)), dtype=np.float64)
        return found


def fit(visits: Sequence[Facts], positive: Bools, seed: int) -> dict[str, Model]:
    """Fit both models to training visits; none where a class has fewer than CLASS of them."""
    if min(positive.sum(), (~positive).sum()) < CLASS:
        return {}
    return {
        LOGISTIC: _logistic(visits, positive),
        XGBOOST: _boosted(visits, positive, seed),
    }


def _encoder() -> "Pipeline":
    """Return what turns facts into a sparse matrix of those that enough visits have, scaled."""
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    return make_pipeline(DictVectorizer(), MaxAbsScaler())


def _known(visits: Sequence[Facts]) -> list[Facts]:
    """Return the visits with the features alone that FEWEST of them have."""
    counts: dict[str, int] = {}
    for visit in visits:
        for name in visit:
            counts[name] = counts.get(name, 0) + 1
    kept = {name for name, n in counts.items() if n >= FEWEST}
    return [{name: value for name, value in visit.items() if name in kept} for visit in visits]


def _logistic(visits: Sequence[Facts], positive: Bools) -> Model:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    encode = _encoder()
    matrix = encode.fit_transform(_known(visits))
    search = GridSearchCV(
        LogisticRegression(max_iter=1000), {"C": STRENGTHS}, scoring="neg_log_loss", cv=5
    )
    search.fit(matrix, positive)
    return Model(encode, lambda rows: search.predict_proba(rows)[:, 1])


def _boosted(visits: Sequence[Facts], positive: Bools, seed: int) -> Model:
    import xgboost

    encode = _encoder()
    matrix = encode.fit_transform(_known(visits)).tocsr()
    # of each class every fifth, in the order given, which is by subject_id
    rank = np.empty(len(positive), dtype=np.int64)
    for one in (positive, ~positive):
        rank[one] = np.arange(one.sum())
    stopping = rank % STOPPING == 0
    parts = [
        xgboost.DMatrix(matrix[part], label=positive[part].astype(float))
        for part in (~stopping, stopping)
    ]
    booster = xgboost.train(
        {**boosting.PARAMS, "seed": seed},
        parts[0],
        num_boost_round=boosting.ROUNDS,
        evals=[(parts[1], "stopping")],
        early_stopping_rounds=boosting.PATIENCE,
        verbose_eval=False,
    )
    return Model(encode, _predictor(booster[: booster.best_iteration + 1]))


def _predictor(booster: "xgboost.Booster") -> Any:
    import xgboost

    return lambda rows: booster.predict(xgboost.DMatrix(rows))


def better(areas: Mapping[str, float]) -> str:
    """Return the model with the larger AUROC on validation patients."""
    return max(areas, key=lambda name: areas[name])
