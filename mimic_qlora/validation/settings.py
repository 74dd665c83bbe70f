"""The settings of one run of step 7, from the frozen plan or the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from mimic_qlora.clinical.schema import Question
from mimic_qlora.qa.session import Session
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import statistics
from mimic_qlora.validation.arms import Arm
from mimic_qlora.validation.judge.judge import Judge
from mimic_qlora.validation.labelling.corrected import FEWEST
from mimic_qlora.validation.plan import Endpoints, Frozen
from mimic_qlora.validation.scoring import rubric

DEFAULT_N = 20
T = TypeVar("T")


class Asked(NamedTuple):
    """The settings that the command line gives; None where the plan or a default decides."""

    n: int | None = None
    seed: int | None = None
    runs: tuple[str, ...] | None = None
    arms: str | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Settings:
    """The settings of one run: which trials, which adapters and arms, and what is claimed.

    `arms` are names as of --arms. Claims are made about the metrics `claimed`, `primary` first;
    `margins` as in ValidationPlan. `plan_sha256` is that of the frozen plan, under which test
    patients are asked; None for a run on validation patients. `assumed` are the fields of
    power.Design that the plan states.
    """

    n: int
    seed: int
    runs: tuple[str, ...]
    arms: str
    max_new_tokens: int
    primary: str
    claimed: tuple[str, ...]
    margins: Mapping[str, float]
    plan_sha256: str | None = None
    assumed: Mapping[str, float] = field(default_factory=dict)

    @property
    def trials(self) -> dict[str, object]:
        """Return what chooses the trials and who answers them, as the ledger tells looks apart."""
        return {"n": self.n, "seed": self.seed, "arms": self.arms, "tokens": self.max_new_tokens}

    @property
    def read(self) -> int:
        """Return how many answers of each arm, within the population, people are given to read."""
        return int(self.assumed.get("read", FEWEST))

    @property
    def is_final(self) -> bool:
        """Return whether test patients are asked, by a frozen plan."""
        return self.plan_sha256 is not None

    @property
    def split(self) -> str:
        """Return the split whose patients are asked."""
        return "test" if self.is_final else "validation"


class _Planned(NamedTuple):
    """The settings of a plan, or the defaults, in the order of Asked."""

    n: int = DEFAULT_N
    seed: int = 0
    runs: tuple[str, ...] = ("default",)
    arms: str = "base,adapter"
    max_new_tokens: int = 512


def settle(asked: Asked, frozen: Frozen | None) -> Settings:
    """Return the settings of a run: by the frozen plan, else as asked, else the defaults.

    Raises UserError where the plan and the command line differ, and for a run that is no folder
    name or comes twice.
    """
    planned = _Planned()
    endpoints = Endpoints(primary=rubric.PRIMARY, secondary=[*rubric.HEADLINE])
    margins = dict.fromkeys(rubric.SAFETY, statistics.MARGIN)
    if frozen is not None:
        plan = frozen.plan
        endpoints, margins = plan.endpoints, plan.margins
        names = ",".join(plan.arms)
        planned = _Planned(plan.n, plan.seed, tuple(plan.runs), names, plan.max_new_tokens)
        _check_against(planned, asked)
    runs = _or(asked.runs, planned.runs)
    _check_runs(runs)
    return Settings(
        n=_or(asked.n, planned.n),
        seed=_or(asked.seed, planned.seed),
        runs=runs,
        arms=_or(asked.arms, planned.arms),
        max_new_tokens=_or(asked.max_new_tokens, planned.max_new_tokens),
        primary=endpoints.primary,
        claimed=tuple(dict.fromkeys([endpoints.primary, *endpoints.secondary])),
        margins=margins,
        plan_sha256=frozen.sha256 if frozen else None,
        assumed=frozen.plan.assumed if frozen else {},
    )


def _or(given: T | None, planned: T) -> T:
    return planned if given is None else given


def _check_against(planned: _Planned, asked: Asked) -> None:
    for name, says, given in zip(Asked._fields, planned, asked, strict=True):
        if given not in (None, says):
            option = "run" if name == "runs" else name.replace("_", "-")
            plan = ",".join(says) if isinstance(says, tuple) else says
            but = ",".join(given) if isinstance(given, tuple) else given
            raise UserError(f"the frozen plan says {option} {plan}, not {but}: leave it out")


def _check_runs(runs: tuple[str, ...]) -> None:
    for run in runs:
        if not files.is_folder_name(run):
            raise UserError(f"--run must be {files.FOLDER_NAME}, not {run!r}")
    if len(set(runs)) < len(runs):
        raise UserError(f"--run {','.join(runs)} names an adapter twice: one run counts once")


@dataclass(frozen=True)
class Run:
    """One run of step 7: the session, its settings, the arms that answer, the curated questions.

    `opened` is the ledger's sentence on the opening of the test patients, or on this look at
    validation patients. `judge` reads the answers; without one the patterns do. `differ` are the
    settings in which the adapters' recipes differ; where there are any, nothing is pooled.
    `adapters` has the SHA-256 of the weights that answer, by run, `replaced` are the runs whose
    adapter was trained again, or removed, since.
    """

    session: Session
    settings: Settings
    arms: Sequence[Arm]
    questions: Sequence[Question]
    opened: str = ""
    judge: Judge | None = None
    differ: Sequence[str] = ()
    adapters: Mapping[str, str] = field(default_factory=dict)
    replaced: Sequence[str] = ()
