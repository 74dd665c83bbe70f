"""The arms of step 7: who answers a trial, and which prompt they get.

An adapter that beats the bare base may show little: two examples in the prompt, or the caution
rules written into it, may do as much. And it uses the chart only if it does worse with the chart of
another patient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from mimic_qlora.llm.loading import adapter_name
from mimic_qlora.step.errors import UserError


class Prompt(Enum):
    """The prompt that an arm gets for a trial (see asking.py)."""

    AS_ASKED = "the trial's own"
    WITH_EXAMPLES = "after answered training records"
    WITH_RULES = "with the caution rules that the chart calls for"
    OTHER_CHART = "with the chart of another patient"


@dataclass(frozen=True)
class Arm:
    """One way of answering a trial.

    `name` is that of --arms and results.jsonl, `who` the model that answers (as for
    generation.adapter_names: "base", "adapter", or the name of a further adapter).
    """

    name: str
    who: str
    prompt: Prompt = Prompt.AS_ASKED

    @property
    def column(self) -> str:
        """Return the ending of its columns in output.csv, whose readers know it as qlora."""
        return self.name.replace("adapter", "qlora", 1)

    @property
    def label(self) -> str:
        """Return its heading in reports."""
        return self.name.capitalize()

    @property
    def is_further_run(self) -> bool:
        """Return whether it is a further adapter of step 5, of another training seed."""
        return "@" in self.name


BASE = Arm("base", "base")
ADAPTER = Arm("adapter", "adapter")
# The two that the headline compares, that the preview shows and that are always asked.
PAIR = (BASE, ADAPTER)
ARMS = {
    arm.name: arm
    for arm in (
        *PAIR,
        Arm("base-examples", "base", Prompt.WITH_EXAMPLES),
        Arm("base-rules", "base", Prompt.WITH_RULES),
        Arm("adapter-other-chart", "adapter", Prompt.OTHER_CHART),
    )
}


def chosen(names: str, runs: Sequence[str]) -> list[Arm]:
    """Return the arms that `names` lists ("base-rules,base-examples", "all"), after the pair.

    Further runs of step 5 follow as arms adapter@<run>. Raises UserError for an unknown name.
    """
    wanted = [*ARMS] if names == "all" else [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in ARMS]:
        raise UserError(
            f"--arms '{unknown[0]}' is unknown: choose from {', '.join(ARMS)}, or give all"
        )
    arms = [arm for name, arm in ARMS.items() if arm in PAIR or name in wanted]
    further = [Arm(f"adapter@{run}", adapter_name(i)) for i, run in enumerate(runs) if i]
    return arms + further
