"""Several adapters side by side: each against the base, and against the first, corrected together.

Training seeds of one recipe are pooled, since a mean stands for them. Recipes are not: the headline
is then of the first run alone.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mimic_qlora.display import text_tables
from mimic_qlora.qa import session
from mimic_qlora.step import files, manifests
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import findings, statistics, trial_results
from mimic_qlora.validation.arms import ADAPTER, BASE, Arm
from mimic_qlora.validation.findings import Metrics
from mimic_qlora.validation.statistics import Difference
from mimic_qlora.validation.trial_results import Row

FILE = "runs.csv"
# columns of runs.csv by the fields of Difference, whose arms are here a run and another
NAMES = {"base": "of_against", "adapter": "of_run"}
CHOSEN = (
    "Who chooses a run here chooses it on these patients: only the one that a frozen plan names "
    "goes to the test patients."
)


class Versus(NamedTuple):
    """One run against the base or the first run, on one metric; `p` is Holm's over all of them."""

    run: str
    against: str
    metric: str
    difference: Difference  # its `base` is what the run is held against
    p: float | None


def differ_in(store: Path, runs: Sequence[str]) -> list[str]:
    """Return the settings beside the seed in which runs of step 5 differ; none: one recipe."""
    read = [manifests.read(store / "adapters" / run) for run in runs]
    found = [_recipe(manifest) for manifest in read if manifest]
    names = dict.fromkeys(name for recipe in found for name in recipe)
    return [n for n in names if len({files.digest(recipe.get(n)) for recipe in found}) > 1]


def _recipe(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an adapter was trained by and on, without its seed."""
    settings = {k: v for k, v in manifest["settings"].items() if k not in ("seed", "base_model")}
    # each process takes rows of its own to a step
    more = {"prompts": manifest["inputs"].get("prompts"), "processes": manifest.get("processes", 1)}
    return {**settings, **more}


def check_different(store: Path, runs: Sequence[str]) -> None:
    """Raise UserError where two runs are of one training seed, which would count as two.

    One may be a copy of the other, or trained once more by the same settings.
    """
    seen: dict[str, str] = {}
    for run in runs:
        for digest, how in _told_by(store, run).items():
            if (same := seen.setdefault(digest, run)) != run:
                raise UserError(
                    f"the adapters {same} and {run} are {how}, which is no second training seed: "
                    "name one of them"
                )


def _told_by(store: Path, run: str) -> dict[str, str]:
    """Return the hashes by which a run is known from others, and what two of one hash are."""
    found = {}
    with suppress(OSError):  # not there or not readable; who loads it says so
        found[session.weights_sha256(store, run)] = "the same, weight by weight"
    if manifest := manifests.read(store / "adapters" / run):
        seed = manifest["settings"].get("seed")
        found[files.digest({**_recipe(manifest), "seed": seed})] = "of one recipe and one seed"
    return found


def check_one_recipe(store: Path, runs: Sequence[str]) -> None:
    """Raise UserError unless the runs that go to the test patients are seeds of one recipe."""
    if differ := differ_in(store, runs):
        raise UserError(
            f"the runs {', '.join(runs)} differ in {', '.join(differ)}, and the test patients are "
            "for one recipe: compare recipes on validation patients, and freeze a plan that names "
            "the seeds of one"
        )


def compare(
    rows: Sequence[Row], runs: Sequence[str], arms: Sequence[Arm], metrics: Sequence[str]
) -> list[Versus]:
    """Return each run against the base, then each further one against the first.

    `rows` are those of output.csv, not pooled; `runs` names the adapters in their order.
    """
    adapters = [ADAPTER, *(arm for arm in arms if arm.is_further_run)]
    named = dict(zip(adapters, runs, strict=True))
    pairs = [(BASE, arm) for arm in adapters] + [(ADAPTER, arm) for arm in adapters[1:]]
    found: dict[tuple[str, str, str], Difference] = {}
    for before, arm in pairs:
        against = "base" if before == BASE else named[before]
        for name, d in trial_results.compare(rows, metrics, (before, arm)).items():
            found[named[arm], against, name] = d
    adjusted = statistics.holm({"\n".join(key): d.p for key, d in found.items()})
    return [Versus(*key, d, adjusted["\n".join(key)]) for key, d in found.items()]


def rows_of(found: Sequence[Versus]) -> list[dict[str, Any]]:
    """Return the rows of runs.csv."""
    return [
        {
            "run": one.run,
            "against": one.against,
            "metric": one.metric,
            **{NAMES.get(k, k): v for k, v in one.difference._asdict().items()},
            "p_holm": one.p,
        }
        for one in found
    ]


def shown(found: Sequence[Versus], metrics: Metrics) -> list[dict[str, str]]:
    """Return the rows of the table that people read."""
    table = []
    for one in found:
        d, (label, up) = one.difference, metrics[one.metric]
        table.append(
            {
                "run": one.run,
                "against": one.against,
                "mean over questions": label.strip() if up else f"{label.strip()} (less is better)",
                "there": findings.mean(d.base),
                "here": findings.mean(d.adapter),
                "difference": findings.signed(d.mean),
                "95% interval": findings.interval(d),
                "p (Holm)": findings.p_value(one.p),
                "trials": str(d.trials),
            }
        )
    return table


def statement(found: Sequence[Versus], runs: Sequence[str], differ: Sequence[str]) -> list[str]:
    """Return how the runs differ, and how many comparisons the p values are corrected for."""
    if not found:
        return []
    what = f"they differ in {', '.join(differ)}" if differ else "seeds of one recipe"
    return [
        f"Runs side by side ({', '.join(runs)}: {what}): {len(found)} comparisons, each p by Holm "
        f"over all of them; as read, and nothing claimed. {CHOSEN}"
    ]


def table(found: Sequence[Versus], metrics: Metrics, width: int | None = None) -> str:
    """Return the comparison of runs as a table for a terminal."""
    return text_tables.text_table(shown(found, metrics), "Runs side by side", width=width)
