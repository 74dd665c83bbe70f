"""What an audit leaves: one page, one CSV, the lines of the adapter's card."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from mimic_qlora.display import csv_files, html, plots
from mimic_qlora.display.cells import Cell
from mimic_qlora.display.html import Section
from mimic_qlora.privacy import exposure, membership, planted
from mimic_qlora.privacy.audit import Found, Settings
from mimic_qlora.privacy.cohort import FEWEST, MEMBER, OTHER
from mimic_qlora.privacy.controls import FAILED, Controls
from mimic_qlora.privacy.extraction import continuing
from mimic_qlora.privacy.extraction.extract import Extracted
from mimic_qlora.privacy.planted import Planted
from mimic_qlora.privacy.rule import EXCEEDED
from mimic_qlora.privacy.separation import FEWEST_FOR_TPR, Separation, auc
from mimic_qlora.summary import disclosure
from mimic_qlora.training.memorisation.audited import PAGE, Audited

FIGURES = "figures.csv"
QUOTE = (
    "PhysioNet: “Any derived datasets or models should be treated as containing sensitive "
    "information. If you wish to share these resources, they should be shared on PhysioNet under "
    "the same agreement as the source data.” No result of an audit changes that."
)
BELOW = (
    "This audit bounds what these attacks find from below; a better attack may find more. It says "
    "nothing of what the base model itself holds, nor of people outside the data."
)
THREATS = (
    "somebody has the adapter, the public base and a candidate's chart, and asks whether the "
    "patient was trained on (membership)",
    "somebody has the adapter and part of a patient's chart, and asks for the rest (extraction)",
    "somebody has the adapter alone, and asks for whatever it holds (free samples)",
)
# the 8B model of the README, computed: 16 GFLOP a token forward, at 40% of an H100's peak
EIGHT_B = 16e9 / (0.4 * 990e12)
Row = dict[str, Cell]
_Key = tuple[tuple[str, ...], int]  # a group and its side


def lines(found: Found, settings: Settings) -> list[str]:
    """Return the result in sentences, for the page and the terminal."""
    one, other = found.n(MEMBER), found.n(OTHER)
    decision = found.decision
    part, attack = found.worst
    area = found.separations[part, attack].auc
    told = [
        f"Memorisation: {decision.verdict}, since {decision.why}.",
        f"{one:,} patients trained on against {other:,} never seen, who chose nothing; one "
        "training seed.",
        f"Strongest attack: {membership.name_of(part, attack)}, AUC {area.value:.3f} (95% "
        f"{area.low:.3f} to {area.high:.3f}; 0.5 where nothing leaks).",
    ]
    if other < FEWEST_FOR_TPR:
        told.append(
            f"TPR at 1% FPR cannot be measured with {other:,} patients never seen (from "
            f"{FEWEST_FOR_TPR:,} on)."
        )
    blind = found.blind.auc
    told.append(
        f"Blind baseline, without the model: AUC {blind.value:.3f} ({blind.low:.3f} to "
        f"{blind.high:.3f}); it must not lie above 0.5."
    )
    told += _of_extraction(found.extracted)
    if found.planted is not None:
        kept = {s: exposure.mean(found.planted.exposures[s, 1]) for s in planted.SECRETS}
        told += [
            f"Canaries in one record, {what}: {kept[secret].mean:.2f} bits of {exposure.MOST:.2f} "
            f"({kept[secret].low:.2f} to {kept[secret].high:.2f}; {exposure.NULL:.2f} where "
            "nothing leaks)."
            for secret, what in planted.SECRETS.items()
        ]
    return [*told, BELOW]


def _of_extraction(found: Extracted) -> list[str]:
    told = [
        f"Told of {sides[MEMBER].found:,} of {sides[MEMBER].n:,} patients trained on and of "
        f"{sides[OTHER].found:,} of {sides[OTHER].n:,} never seen: {what}."
        for what, sides in found.shares.items()
    ]
    if found.missing:
        few = f"fewer than {FEWEST} patients of a side have what it needs"
        told.append(f"Not measured, as {few}: {'; '.join(found.missing)}.")
    return told


def verdict_of(found: Found, control: Controls | None) -> str:
    """Return the verdict as card, ledger, report and status tell it: none without its controls."""
    failed = control is not None and not control.are_passed
    return found.decision.verdict + f", but {FAILED}" * failed


def card_lines(found: Found, date: str, control: Controls | None = None) -> tuple[str, ...]:
    """Return the four lines of an adapter's card."""
    worst, missing = found.decision.worst, len(found.extracted.missing)
    # a verdict without them looks like one with them
    left_out = f" Of too few patients to measure: {missing} of 4 figures of extraction." * bool(
        missing
    )
    return (
        f"Memorisation: {verdict_of(found, control)} (audited {date}; limits are the authors' "
        "own).",
        f"Patients: {found.n(MEMBER):,} trained on, {found.n(OTHER):,} never seen; one seed."
        f"{left_out}",
        f"Worst: {worst.name} {worst.value:.3f}, 95% {worst.low:.3f} to {worst.high:.3f}, upper "
        f"bound {worst.upper:.3f}, limit {worst.limit:g}.",
        "It bounds what these attacks find from below and permits nothing: PhysioNet's terms hold.",
    )


def write(
    folder: Path, found: Found, settings: Settings, weights: str, control: Controls | None
) -> Audited:
    """Write page, CSV and summary into a folder."""
    date = time.strftime("%Y-%m-%d")
    figures = _figures(found)
    doses = [_of_dose(row) for row in _doses(found.planted)]
    groups = _groups(found, settings.min_cell)
    csv_files.write(folder / FIGURES, [*figures, *doses, *_of_controls(control), *groups])
    sections = [
        *_canaries(found.planted),
        *_extraction(found.extracted),
        Section("What the rule looked at", [html.table(figures, _CAPTION)]),
        Section("Near-duplicates", [html.paragraph(_doubles(found))]),
        Section(
            "By task, rarity and condition",
            [html.table(groups, "Described, not tested.")],
        ),
        Section("What is asked", [html.listed(THREATS), html.paragraph(BELOW)]),
        Section("Controls", _controls(control, found.run)),
        Section("What it cost", [html.paragraph(_cost(found))]),
    ]
    if found.decision.verdict == EXCEEDED:
        sections.insert(1, Section("What to change", [html.listed(REMEDIES)]))
    headline, *lead = lines(found, settings)
    if control is not None and not control.are_passed:
        lead.insert(0, f"Not to be used: {FAILED}.")
    html.write_page(
        folder / PAGE,
        f"What the adapter {found.run} gives away",
        [headline, *lead],
        sections,
        headline=QUOTE,
    )
    told = Audited(
        verdict_of(found, control),
        date,
        weights,
        card_lines(found, date, control),
        settings.limits_sha256,
    )
    told.write(folder)
    return told


_CAPTION = (
    "upper: one-sided 95% bound, to be under the limit; p: one-sided, membership shuffled, after "
    "Holm over all lines"
)
REMEDIES = (
    "fewer epochs (`--epochs`)",
    "LoRA dropout of 0.05 to 0.1 (`--dropout`)",
    "fewer records a patient (step 4's `--pairs-per-subject`)",
    "a lower rank (`--rank`)",
)


def _figures(found: Found) -> list[Row]:
    return [
        {
            "figure": one.name,
            "value": round(one.value, 4),
            "low": round(one.low, 4),
            "high": round(one.high, 4),
            "upper": round(one.upper, 4),
            "limit": one.limit,
            "no leak": one.no_leak,
            "p": round(found.decision.adjusted[one.name], 4),
        }
        for one in found.criteria
    ]


def _doubles(found: Found) -> str:
    n = sum(p.subject_id in found.cohort.doubles for p in found.table.patients)
    part, attack = found.worst
    with_all = found.separations[part, attack].auc
    text = (
        f"{membership.name_of(part, attack)}, AUC with all patients: {_interval(with_all)}. "
        "The rule takes all."
    )
    if found.apart is None:
        return f"{text} Without charts that are nearly another's, fewer than {FEWEST} a side stay."
    told = "none was found" if not n else "taken out on both sides"
    return f"{text} Near-duplicate charts, {told}: {_interval(found.apart[part, attack].auc)}."


def _interval(of: "Separation | tuple[float, ...]") -> str:
    value, low, high = of[0], of[1], of[2]
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def _groups(found: Found, min_cell: int) -> list[Row]:
    """Return the AUC within groups; where a count could tell of few patients, that it is hidden."""
    groups = membership.groups(found.table, *found.worst)
    counts: dict[_Key, int] = {
        (key, side): len(groups[key][side]) for key in groups for side in (0, 1)
    }
    sums: list[list[_Key]] = [
        [(key, side) for key in groups if key[0] == kind]
        for kind in membership.EXHAUSTIVE
        for side in (0, 1)
    ]
    for key in groups:
        if key[0] not in membership.EXHAUSTIVE:  # the page tells of how many patients they are
            for side, name in enumerate((MEMBER, OTHER)):
                others = (*key, "the others"), side
                counts[others] = found.n(name) - counts[key, side]
                sums.append([(key, side), others])
    hidden = disclosure.hidden_cells(counts, sums, min_cell)
    rows: list[Row] = []
    for key, sides in groups.items():
        shown: list[Cell] = [hidden.get((key, side), len(sides[side])) for side in (0, 1)]
        is_told = not any(isinstance(cell, str) for cell in shown) and all(map(len, sides))
        rows.append(
            {
                "figure": ": ".join(key),
                "value": round(auc(*sides), 3) if is_told else None,
                "trained on": shown[0],
                "never seen": shown[1],
            }
        )
    return rows


def _extraction(found: Extracted) -> list[Section]:
    """Return the section on what was told of charts, never what it was; none if not measured."""
    rows: list[Row] = [
        {
            "what was told": what,
            **{f"{side}, told of": sides[side].found for side in (MEMBER, OTHER)},
            **{f"{side}, patients": sides[side].n for side in (MEMBER, OTHER)},
        }
        for what, sides in found.shares.items()
    ]
    caption = (
        "Told of the patient's own chart, and by no other chart nor by the half that was given. "
        "What is told of patients never seen is chance, or a template."
    )
    return [Section("Extraction", [html.table(rows, caption)])] if rows else []


def _doses(found: Planted | None) -> list[Row]:
    """Return the exposure of each secret by records in training; none without canaries."""
    rows: list[Row] = []
    for (secret, n), bits in (found.exposures if found else {}).items():
        one = exposure.mean(bits)
        rows.append(
            {
                "secret": planted.SECRETS[secret],
                "records in training": n,
                "canaries": one.n,
                "exposure, bits": round(one.mean, 2),
                "low": round(one.low, 2),
                "high": round(one.high, 2),
            }
        )
    return rows


def _of_dose(row: Row) -> Row:
    """Return a line of the CSV."""
    name = f"exposure of {row['secret']}, {row['records in training']} records, bits"
    return {"figure": name, "value": row[_DRAWN[0]], "low": row["low"], "high": row["high"]}


def _canaries(found: Planted | None) -> list[Section]:
    """Return the section on canaries: exposure against records in training, and epsilon."""
    if found is None:
        return []
    rows = _doses(found)
    told = [
        f"Records of a canary: {dose}. Epsilon is at least {one.at_least:.2f} (delta "
        f"{one.delta:g}): {one.correct} of {one.guesses} coins guessed right, the middle third "
        f"left out. {one.canaries} canaries can show {one.most:.2f} at most."
        for dose, one in found.epsilons.items()
    ]
    told += [
        f"Ranks of canaries that were never put in, {planted.SECRETS[secret]}: Kolmogorov-Smirnov "
        f"p {p:.2f} against all as likely (small: the ranking itself is not fair)."
        for secret, p in found.uniform_p.items()
    ]
    caption = f"{exposure.NULL:.2f} bits where nothing leaks, {exposure.MOST:.2f} at most"
    return [Section("Canaries", [_plot(rows), html.table(rows, caption), html.listed(told)])]


def _plot(rows: Sequence[Row]) -> Markup:
    """Return exposure against records in training, a line a secret."""
    fig, axes = plots.figure(2.8, 5.6)
    for what, colour, moved in zip(
        planted.SECRETS.values(), (plots.BLUE, plots.ORANGE), (-0.05, 0.05), strict=True
    ):
        own = [[float(str(row[c])) for c in _DRAWN] for row in rows if row["secret"] == what]
        bits, low, high = np.array(own).T
        at = np.arange(len(own)) + moved
        error = np.clip([bits - low, high - bits], 0, None)
        axes.errorbar(at, bits, yerr=error, fmt="o-", color=colour, capsize=3, label=what)
    axes.axhline(exposure.NULL, color=plots.GREY, linestyle=":", label="where nothing leaks")
    axes.set_xticks(range(3), ["none", "1", "10"])
    axes.set(xlabel="records of a canary in training", ylabel="exposure, bits")
    axes.set_ylim(0, exposure.MOST)
    axes.legend(frameon=False, fontsize=8)
    return plots.image(fig, "Mean exposure of the secrets against records in training")


_DRAWN = ("exposure, bits", "low", "high")


def _controls(control: Controls | None, run: str) -> Sequence[Markup]:
    if control is None:
        return [
            html.paragraph(
                "Not run: `--controls` trains an adapter that must be found, and shuffles "
                "membership."
            )
        ]
    return [html.paragraph(line) for line in control.lines()]


def _of_controls(control: Controls | None) -> list[Row]:
    """Return the lines of the CSV on controls."""
    if control is None:
        return []
    long = control.positive
    area = long.separations[long.worst].auc
    return [
        {
            "figure": f"control, trained long: {membership.name_of(*long.worst)}: AUC",
            "value": round(area.value, 4),
            "low": round(area.low, 4),
            "high": round(area.high, 4),
            "upper": round(area.upper, 4),
        },
        {"figure": "control, share of shuffles called at 5%", "value": control.called},
    ]


def _cost(found: Found) -> str:
    seconds = 2 * found.tokens * EIGHT_B
    return (
        f"{found.tokens:,} tokens scored, by base and by adapter. Computed for an 8B model on an "
        f"H100 at 40% of its peak: {seconds:.0f} s of forward passes; not measured. "
        f"{found.extracted.n_texts:,} texts of at most {continuing.TOKENS} tokens were generated."
    )
