"""The plan that is frozen before the test patients are opened, the ledger of openings, and what n trials can show."""

import csv
import hashlib
import json
import math
import time
from pathlib import Path

from mimic_qlora import arms, command_line, comparison, scoring, storage
from mimic_qlora.storage import UserError

TEMPLATE = Path(__file__).parents[1] / "run_files" / "plan.yaml"
DEFAULTS = {"n": 20, "seed": 0, "run": "default", "arms": "base,adapter", "max_new_tokens": 512}
POWER = 0.8
# Spread of (adapter - base) on a score from 0 to 1, where no results are at hand to take it from: between the means of
# questions, and between trials of one question.
ASSUMED = (0.10, 0.25)


# ---------------------------------------------------------------- the plan


def load(path: Path) -> dict:
    """A plan, checked field by field. Raises UserError that names the field."""
    import yaml

    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no plan that can be read ({type(error).__name__}): start from {TEMPLATE}") from None
    fields = {"endpoints", "margins", "n", "seed", "runs", "arms", "max_new_tokens"}
    if not isinstance(plan, dict) or set(plan) != fields:
        raise UserError(f"{path} must have the fields {', '.join(sorted(fields))}: start from {TEMPLATE}")

    def names(value, known=None) -> bool:
        return isinstance(value, list) and all(isinstance(v, str) and (known is None or v in known) for v in value)

    def whole(value, least) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    ends, known = plan["endpoints"], scoring.METRICS
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
    folder = storage.private_folder(store / "validation")
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
    sha256 = storage.file_sha256(path)
    if sha256 not in {entry["plan_sha256"] for entry in ledger(store) if entry["event"] == "frozen"}:
        raise UserError(f"{path} was edited after it was frozen: freeze it anew with `./run.sh --freeze FILE`")
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
            raise UserError(f"the frozen plan says {name.replace('_', '-')} {value}, not {given}: leave it out")
        setattr(args, name, value if given is None else given)
    ends = plan["endpoints"] if plan else {"primary": scoring.PRIMARY, "secondary": scoring.HEADLINE}
    args.primary, args.claimed = ends["primary"], [*dict.fromkeys([ends["primary"], *ends["secondary"]])]
    args.margins = plan["margins"] if plan else dict.fromkeys(scoring.SAFETY, comparison.MARGIN)
    runs = args.run.split(",")
    for run in runs:
        command_line.check_run(run)
    if len(set(runs)) < len(runs):
        raise UserError(f"--run {args.run} names an adapter twice: one run counts once")
    return runs


# ---------------------------------------------------------------- the ledger


def ledger(store: Path) -> list:
    """What was frozen and opened when, oldest first. Each line holds the hash of the one before, so edits show."""
    path, before, entries = store / "validation" / "ledger.jsonl", "", []
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {}
        if entry.get("before") != before:
            raise UserError(f"{path} was edited at line {number}: put the original back, or say so in your report")
        entries.append(entry)
        before = hashlib.sha256(line).hexdigest()
    return entries


def enter(store: Path, event: str, **facts) -> None:
    """Add a line to the ledger."""
    ledger(store)
    path = storage.private_folder(store / "validation") / "ledger.jsonl"
    lines = path.read_bytes().splitlines() if path.is_file() else []
    before = hashlib.sha256(lines[-1]).hexdigest() if lines else ""
    entry = {"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts, "before": before}
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def opening(store: Path, sha256: str, adapters: list) -> str:
    """Enter that the test patients are opened under this plan; a sentence for the results that says how often before.

    The same plan with the same adapters, gone on with or done again, opens nothing new.
    """
    before = [e for e in ledger(store) if e["event"] == "opened"]
    this = {"plan_sha256": sha256, "adapters": adapters}
    if not any(e.items() >= this.items() for e in before):
        enter(store, "opened", **this)
    others = [e for e in before if not e.items() >= this.items()]
    plan = f"Test patients, by the plan {sha256[:12]} frozen before"
    if not others:
        return f"{plan}; they were not opened under another plan or for another adapter."
    return (
        f"{plan}, but they had been opened before under another plan or for another adapter ({len(others)} in the "
        f"ledger, first on {others[0]['time'][:10]}): read this as exploration, not as a test."
    )


# ---------------------------------------------------------------- what n trials can show


def detectable(n: int, questions: int, between: float, within: float) -> float | None:
    """The true difference that a two-sided t test on question means finds four times out of five.

    `between` and `within` are the standard deviations of the paired difference between questions and between the
    trials of one question. The power is that of the noncentral t distribution. None for fewer than two questions.
    """
    from scipy import optimize, stats

    k = min(n, questions)
    if k < 2:
        return None
    error = math.sqrt((between**2 + within**2 * k / n) / k)
    critical = stats.t.ppf(1 - 0.05 / 2, k - 1)

    def lack(effect):
        return stats.nct.sf(critical, k - 1, effect) - POWER

    return float(optimize.brentq(lack, 0.01, 200)) * error


def spread(rows: list, metric: str) -> tuple | None:
    """(between, within) of `detectable` from the rows of an earlier output.csv; None when they do not tell.

    The usual estimates of a one-way analysis of variance with questions as groups.
    """
    groups = {}
    for row in rows:
        if row.get(f"{metric}_base") and row.get(f"{metric}_qlora"):
            groups.setdefault(row["question_id"], []).append(
                float(row[f"{metric}_qlora"]) - float(row[f"{metric}_base"])
            )
    n, k = sum(map(len, groups.values())), len(groups)
    if k < 2 or n <= k:
        return None
    means = {q: sum(g) / len(g) for q, g in groups.items()}
    whole = sum(map(sum, groups.values())) / n
    inside = sum((x - means[q]) ** 2 for q, g in groups.items() for x in g) / (n - k)
    outside = sum(len(g) * (means[q] - whole) ** 2 for q, g in groups.items()) / (k - 1)
    size = (n - sum(len(g) ** 2 for g in groups.values()) / n) / (k - 1)
    return math.sqrt(max(0.0, outside - inside) / size), math.sqrt(inside)


def what_can_be_shown(store: Path, questions: int, n: int) -> str:
    """The smallest true difference in the rubric that would be found four times out of five, for n trials and more."""
    earlier, found = sorted((store / "validation").glob("*/output.csv")), None
    if earlier:
        with open(earlier[-1], newline="", encoding="utf-8") as file:
            found = spread(list(csv.DictReader(file)), "rubric")
    between, within = found or ASSUMED
    pools = sorted({8, 16, questions})
    lines = [f"{'trials':>8}" + "".join(f"{k:>5} questions" for k in pools)]
    for trials in (n, 2 * n, 4 * n, 20 * n):
        cells = [detectable(trials, k, between, within) for k in pools]
        lines.append(f"{trials:>8}" + "".join(f"{'-' if c is None else f'{c:.3f}':>15}" for c in cells))
    basis = f"taken from {earlier[-1].parent.name}" if found else "assumed, until a run asks questions more than once"
    return "\n".join([
        "The smallest true difference in the rubric (0 to 1) found four times out of five (5%, two-sided):",
        "",
        *lines,
        "",
        f"Standard deviation of the difference: {between:.2f} between questions, {within:.2f} within them",
        f"({basis}).",
        "Where each question is asked often already, more questions help and more trials hardly do.",
    ])  # fmt: skip
