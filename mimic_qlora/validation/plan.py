"""The plan that is frozen before the test patients are opened, the ledger of openings, and what n trials can show."""

import hashlib
from pathlib import Path

from mimic_qlora.step import command_line, files
from mimic_qlora.step.errors import UserError
from mimic_qlora.validation import arms, statistics
from mimic_qlora.validation.ledger import enter, ledger
from mimic_qlora.validation.scoring import rubric

TEMPLATE = Path(__file__).parents[2] / "run_files" / "plan.yaml"
DEFAULTS = {"n": 20, "seed": 0, "run": "default", "arms": "base,adapter", "max_new_tokens": 512}


# ---------------------------------------------------------------- the plan


def load(path: Path) -> dict:
    """A plan, checked field by field. Raises UserError that names the field."""
    import yaml

    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} is no plan that can be read ({type(error).__name__}): start from {TEMPLATE}"
        ) from None
    fields = {"endpoints", "margins", "n", "seed", "runs", "arms", "max_new_tokens"}
    if not isinstance(plan, dict) or set(plan) != fields:
        raise UserError(
            f"{path} must have the fields {', '.join(sorted(fields))}: start from {TEMPLATE}"
        )

    def names(value, known=None) -> bool:
        return isinstance(value, list) and all(
            isinstance(v, str) and (known is None or v in known) for v in value
        )

    def whole(value, least) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    ends, known = plan["endpoints"], rubric.METRICS
    checks = {
        "endpoints": isinstance(ends, dict)
        and set(ends) == {"primary", "secondary"}
        and names([ends["primary"]], known)
        and names(ends["secondary"], known),
        "margins": isinstance(plan["margins"], dict)
        and names(list(plan["margins"]), known)
        and all(isinstance(m, (int, float)) and m > 0 for m in plan["margins"].values()),
        "n": whole(plan["n"], 1),
        "seed": whole(plan["seed"], 0),
        "runs": names(plan["runs"]) and plan["runs"],
        "arms": names(plan["arms"], arms.KINDS),
        "max_new_tokens": whole(plan["max_new_tokens"], 1),
    }
    if wrong := [field for field, right in checks.items() if not right]:
        raise UserError(f"{path}: the field '{wrong[0]}' is not as in {TEMPLATE}")
    return plan


def freeze(store: Path, path: Path) -> str:
    """Keep a copy of the plan as the frozen one and write its hash into the ledger; the hash."""
    load(path)
    folder = files.private_folder(store / "validation")
    data = path.read_bytes()
    frozen = folder / "plan.yaml"
    frozen.unlink(missing_ok=True)
    frozen.write_bytes(data)
    frozen.chmod(0o400)
    sha256 = hashlib.sha256(data).hexdigest()
    enter(store, "frozen", plan_sha256=sha256)
    return sha256


def frozen(store: Path) -> tuple:
    """The frozen plan and its hash. Raises UserError when there is none, or when it was edited since."""
    path = store / "validation" / "plan.yaml"
    if not path.is_file():
        raise UserError(
            f"--final opens the test patients and needs a plan made before: edit a copy of {TEMPLATE} and run "
            "`./run.sh --freeze copy.yaml`"
        )
    sha256 = files.file_sha256(path)
    if sha256 not in {
        entry["plan_sha256"] for entry in ledger(store) if entry["event"] == "frozen"
    }:
        raise UserError(
            f"{path} was edited after it was frozen: freeze it anew with `./run.sh --freeze FILE`"
        )
    return load(path), sha256


def settle(args, plan: dict | None) -> list:
    """Fill in what was not given, from the plan or the defaults, with what will be claimed: `primary` and `claimed`
    endpoints and `margins`. Returns the runs. Raises UserError where plan and arguments differ."""
    planned = plan and {
        **{name: plan[name] for name in ("n", "seed", "max_new_tokens")},
        "run": ",".join(plan["runs"]),
        "arms": ",".join(plan["arms"]),
    }
    for name, value in (planned or DEFAULTS).items():
        given = getattr(args, name)
        if plan and given not in (None, value):
            raise UserError(
                f"the frozen plan says {name.replace('_', '-')} {value}, not {given}: leave it out"
            )
        setattr(args, name, value if given is None else given)
    ends = plan["endpoints"] if plan else {"primary": rubric.PRIMARY, "secondary": rubric.HEADLINE}
    args.primary, args.claimed = (
        ends["primary"],
        [*dict.fromkeys([ends["primary"], *ends["secondary"]])],
    )
    args.margins = plan["margins"] if plan else dict.fromkeys(rubric.SAFETY, statistics.MARGIN)
    runs = args.run.split(",")
    for run in runs:
        command_line.check_run(run)
    if len(set(runs)) < len(runs):
        raise UserError(f"--run {args.run} names an adapter twice: one run counts once")
    return runs


# ---------------------------------------------------------------- the ledger


# ---------------------------------------------------------------- what n trials can show
