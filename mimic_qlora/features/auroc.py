"""How well scores tell patients with a target from those without, and how sure that is."""

BOOTSTRAPS = 500
CELLS = 20_000_000  # weights held as decimals at a time


def auroc(y, scores, weights=None):
    """Area under the ROC curve, ties counting half; nan where a class is missing.

    y: n booleans, scores: n, weights: k lines of n numbers (how often a patient counts). Returns k values, or one.
    """
    import numpy as np

    def area(positives, negatives):
        above = positives.cumsum(axis=1) - positives / 2
        return (above * negatives).sum(axis=1) / (positives.sum(axis=1) * negatives.sum(axis=1))

    with np.errstate(invalid="ignore", divide="ignore"):
        return _by_weights(area, y, scores, weights)


def average_precision(y, scores, weights=None):
    """Average precision, in the same terms as `auroc`; nan where no patient has the target."""
    import numpy as np

    def precision(positives, negatives):
        found, seen = positives.cumsum(axis=1), (positives + negatives).cumsum(axis=1)
        return (positives * np.where(seen > 0, found / seen, 0)).sum(axis=1) / found[:, -1]

    with np.errstate(invalid="ignore", divide="ignore"):
        return _by_weights(precision, y, scores, weights)


def _by_weights(measure, y, scores, weights):
    """measure(positives, negatives) of the weights of both classes at each score, highest score first."""
    import numpy as np

    y, lines = np.asarray(y, bool), np.ones((1, len(y)), np.uint8) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    values = []
    for part in np.array_split(lines, max(1, lines.size // CELLS)):
        sums = (
            np.add.reduceat(part[:, order] * mask.astype(float), starts, axis=1)
            for mask in (y[order], ~y[order])
        )
        values.append(measure(*sums))
    values = np.concatenate(values)
    return float(values[0]) if weights is None else values


def bootstrap_weights(n: int, seed: int):
    """BOOTSTRAPS lines of how often each of n patients is drawn."""
    import numpy as np

    rng = np.random.default_rng(seed)
    lines = np.empty((BOOTSTRAPS, n), np.uint8)
    for line in lines if n else ():
        line[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    return lines


def interval(values) -> tuple:
    """The 2.5% and 97.5% quantiles of what is defined; (None, None) where less than half is."""
    import numpy as np

    defined = values[np.isfinite(values)]
    if len(defined) < max(1, len(values) / 2):
        return None, None
    return tuple(float(q) for q in np.quantile(defined, (0.025, 0.975)))


def influence(y, scores) -> tuple:
    """AUROC, and how much each patient moves it: (area, n numbers of sum 0); (nan, zeros) if a class is missing.

    Drawing patient i w[i] times gives an area of about area + sum((w - 1) * moves), so that the variance over drawn
    patients is sum(moves**2): DeLong, DeLong and Clarke-Pearson (1988) by the infinitesimal jackknife of Efron (1982).
    The moves of two models, or of many targets, add up patient by patient; that makes paired intervals cheap.
    """
    import numpy as np

    y, moves = np.asarray(y, bool), np.zeros(len(y))
    if y.all() or not y.any():
        return np.nan, moves
    positives, negatives = np.sort(scores[y]), np.sort(scores[~y])
    won = _below(negatives, scores[y]) / len(negatives)
    lost = 1 - _below(positives, scores[~y]) / len(positives)
    area = won.mean()
    moves[y], moves[~y] = (won - area) / len(positives), (lost - area) / len(negatives)
    return float(area), moves


def _below(ordered, values):
    """How many of the ordered numbers lie below each value, ties counting half."""
    return (ordered.searchsorted(values, "left") + ordered.searchsorted(values, "right")) / 2


def within_folds(y, scores, fold) -> tuple:
    """`influence` of the mean AUROC over the folds (fold: n numbers, -1 is out) in which both classes are there."""
    import numpy as np

    areas, moves = [], np.zeros(len(y))
    for k in range(fold.max() + 1):
        here = np.flatnonzero(fold == k)
        area, moves[here] = influence(y[here], scores[here])
        if area == area:
            areas.append(area)
    return (float(np.mean(areas)), moves / len(areas)) if areas else (np.nan, moves)


def bounds(value: float, moves, z: float = 1.96) -> tuple:
    """The interval (by default 95%) of a value whose patients move it so."""
    import numpy as np

    half = z * float(np.sqrt((moves**2).sum()))
    return value - half, value + half


def calibration(y, scores) -> dict:
    """Brier score, mean predicted risk, and the slope of the outcome on the logit of the risk (1: neither too bold nor
    too timid; Cox 1958)."""
    import numpy as np
    from scipy.optimize import minimize

    y, risk = np.asarray(y, float), np.clip(scores, 1e-6, 1 - 1e-6)
    logit = np.log(risk / (1 - risk))
    result = {
        "brier": float(((risk - y) ** 2).mean()),
        "predicted_share": float(risk.mean()),
        "slope": None,
    }
    if (
        0 < auroc(y, scores) < 1
    ):  # where the classes lie apart, or one is missing, there is no slope

        def loss(line):
            at = line[0] + line[1] * logit
            return np.logaddexp(0, at).sum() - (y * at).sum()

        result["slope"] = float(minimize(loss, [0.0, 1.0], method="BFGS").x[1])
    return result
