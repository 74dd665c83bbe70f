"""The settings of step 3, as its manifest holds them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureSettings:
    """The options of step 3 that its result depends on.

    targets: "phenotypes" (ICD-9 and ICD-10 joined) or "codes" (each over stays of its version).
    n_targets: number of targets, the most frequent first.
    landmark_hours: hours from admission to the prediction time.
    seeds: number of folds, and of models per target on the test patients.
    margin: loss of AUROC that an ablation must rule out before a column may go.
    """

    targets: str = "phenotypes"
    n_targets: int = 20
    landmark_hours: float = 24
    seeds: int = 5
    margin: float = 0.01
