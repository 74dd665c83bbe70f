"""The one split of patients: who is for training, who for validation, who for the test."""

from mimic_qlora import draws

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def assign(subject_ids, seed: int) -> dict:
    """subject_id -> "train", "validation" or "test".

    By rank in hash order, not by the hash's value, so that the shares hold for 100 patients as for 364,627.
    """
    ranked = draws.order(subject_ids, "split", seed)
    n_test = round(len(ranked) * SHARES["test"])
    n_validation = round(len(ranked) * SHARES["validation"])
    names = ["test"] * n_test + ["validation"] * n_validation
    names += ["train"] * (len(ranked) - len(names))
    return dict(sorted(zip(ranked, names, strict=True)))


def sample(subject_ids, share: float, seed: int) -> set:
    """A random share of the patients, at least one; apart from the split, so that both may use one seed."""
    ranked = draws.order(subject_ids, "sample", seed)
    return set(ranked[: max(1, round(len(ranked) * share))])
