"""The knowledge task: a question without a patient, and the key points of a good answer."""

import re
from collections.abc import Sequence

from mimic_qlora.clinical import phrases


def score(patterns: Sequence[str], answer: str) -> float:
    """Return the share of the key points, given by their patterns, that an answer makes."""
    text = phrases.affirmed(answer)
    made = [re.search(pattern, text, re.IGNORECASE) is not None for pattern in patterns]
    return sum(made) / len(made)
