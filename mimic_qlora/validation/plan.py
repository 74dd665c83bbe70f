"""The plan that is frozen before the test patients are opened."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mimic_qlora.clinical import content
from mimic_qlora.clinical.schema import Question
from mimic_qlora.step import files, yaml_files
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.step_commands import command_for, storage_option
from mimic_qlora.validation import arms, power, side_by_side
from mimic_qlora.validation.labelling.corrected import FEWEST
from mimic_qlora.validation.ledger import enter, ledger
from mimic_qlora.validation.scoring import rubric
from mimic_qlora.validation.statistics import FEWEST_RUNS

TEMPLATE = Path(__file__).parents[2] / "run_files" / "plan.yaml"


def _metric(name: str) -> str:
    if name not in rubric.METRICS:
        raise ValueError(f"'{name}' is not a metric: choose from {', '.join(rubric.METRICS)}")
    return name


def _arm(name: str) -> str:
    if name not in arms.ARMS:
        raise ValueError(f"'{name}' is not an arm: choose from {', '.join(arms.ARMS)}")
    return name


Metric = Annotated[str, AfterValidator(_metric)]
Positive = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Endpoints(_Strict):
    """The metrics that claims are made about, by the names of their columns."""

    primary: Metric
    secondary: list[Metric]


Share = Annotated[float, Field(ge=0, le=1)]


class Reader(_Strict):
    """How a reader hears cautions: of those said, and of those not said, each a share."""

    sensitivity: Share
    false_alarm: Share


class ValidationPlan(_Strict):
    """The content of plan.yaml.

    `margins` maps a safety endpoint to its margin of non-inferiority, a share of trials. `n` is the
    number of (patient, question) pairs, `runs` are adapters of step 5, `max_new_tokens` is the
    budget of an answer. The power rests on `useful`, the smallest difference of the primary
    endpoint worth showing, `read`, the answers of its population that people read of each arm (the
    adapters share them), and the `reader`.
    """

    endpoints: Endpoints
    margins: dict[Metric, Positive]
    n: int = Field(ge=1)
    seed: int = Field(ge=0)
    runs: list[str] = Field(min_length=1)
    arms: list[Annotated[str, AfterValidator(_arm)]]
    max_new_tokens: int = Field(ge=1)
    useful: Positive = power.Design.useful
    read: int = Field(default=FEWEST, ge=FEWEST)
    reader: Reader = Reader(
        sensitivity=power.Design.sensitivity, false_alarm=power.Design.false_alarm
    )

    @property
    def assumed(self) -> dict[str, float]:
        """Return what its power rests on, as fields of power.Design."""
        claims = len({self.endpoints.primary, *self.endpoints.secondary})
        stated = {"read": self.read, "useful": self.useful, "claims": claims}
        return {**stated, **self.reader.model_dump()}


def load(path: Path) -> ValidationPlan:
    """Read a plan. Raises UserError, in one sentence, that names the field that is wrong."""
    try:
        return ValidationPlan.model_validate(yaml_files.loads(files.read_text(path), str(path)))
    except ValidationError as error:
        # a field that is missing may be the unknown one, misspelt
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        place = [str(part) for part in first["loc"]]
        if not place:
            fields = ", ".join(sorted(ValidationPlan.model_fields))
            raise UserError(
                f"{path} must have the fields {fields}: start from {TEMPLATE}"
            ) from None
        within = f" ({'.'.join(place)})" if len(place) > 1 else ""
        reason = first["msg"].removeprefix("Value error, ").replace("\n", " ")
        raise UserError(
            f"{path}: the field '{place[0]}' is not as in {TEMPLATE}{within}: {reason}"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} cannot be read as a plan ({type(error).__name__}): start from {TEMPLATE}"
        ) from None


def check_runs(path: Path, plan: ValidationPlan) -> None:
    """Raise UserError for a plan with too few adapters to tell how training seeds differ."""
    if len(set(plan.runs)) < FEWEST_RUNS:
        raise UserError(
            f"{path} names {', '.join(plan.runs)}: a test takes {FEWEST_RUNS} training seeds "
            f"or more, whose spread enters the interval (`{command_for('adapters')} --seeds 0,1,2`)"
        )


def check_power(path: Path, plan: ValidationPlan, questions: Sequence[Question]) -> None:
    """Raise UserError for a plan that could not show a useful difference, with the n that could."""
    design = power.assumed(questions, power.counted(plan.n), len(plan.runs), plan.assumed)
    if design.power < power.POWER:
        raise UserError(
            f"{path} would claim a true difference of {plan.useful:.2f} in {design.power:.0%} of "
            f"such studies, and {power.POWER:.0%} is the least: {design.what_is_enough()} "
            "`./run.sh n --plan` tells more"
        )


def freeze(store: Path, path: Path, questions: Sequence[Question]) -> str:
    """Keep a copy of the plan as the frozen one, and return its hash, which the ledger keeps.

    The one that was frozen before stays beside it, under its hash: the ledger names it still.
    Raises UserError for a plan that could not show what it is for.
    """
    plan = load(path)
    check_runs(path, plan)
    side_by_side.check_different(store, plan.runs)
    side_by_side.check_one_recipe(store, plan.runs)
    check_power(path, plan, questions)
    folder = files.private_folder(store / "validation")
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    # first: a plan without its line would look edited
    enter(store, "frozen", plan_sha256=sha256, content=content.asked_sha256(questions))
    files.freeze(folder / "plan.yaml", data)
    return sha256


class Frozen(NamedTuple):
    """The frozen plan and the SHA-256 of its file."""

    plan: ValidationPlan
    sha256: str


def frozen(store: Path, asked: str) -> Frozen:
    """Return the frozen plan. Raises UserError when there is none, or when it is not the last.

    `asked` is the hash of the questions and rules: test patients are opened for those alone that
    were there when the plan was frozen. An earlier version noted none.
    """
    path = store / "validation" / "plan.yaml"
    if not path.is_file():
        raise UserError(
            "--final opens the test patients and needs a plan made before: "
            f"edit a copy of {TEMPLATE} and run `./run.sh --freeze copy.yaml{storage_option()}`"
        )
    sha256 = files.file_sha256(path)
    lines = [entry for entry in ledger(store) if entry["event"] == "frozen"]
    if sha256 not in [line["plan_sha256"] for line in lines[-1:]]:
        raise UserError(
            f"{path} is not the plan that was frozen last (it was edited, or its freezing was "
            f"stopped): freeze it anew with `./run.sh --freeze FILE{storage_option()}`"
        )
    if lines[-1].get("content", asked) != asked:
        raise UserError(
            f"the questions or rules were edited since {path} was frozen: put them back, or freeze "
            f"the plan for these with `./run.sh --freeze FILE{storage_option()}`"
        )
    return Frozen(load(path), sha256)
