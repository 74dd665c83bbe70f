"""What is told of an adapter's memorisation audit: in its card, in step 7's report, by status.

The audit itself is `mimic_qlora/privacy`, which stands above the steps that tell of it.
"""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mimic_qlora.display import html
from mimic_qlora.step import files
from mimic_qlora.step.step_commands import command_for

NOT_AUDITED = "not audited for memorisation"
PAGE, SUMMARY = "audit.html", "summary.json"
LIMITS = "limits.yaml"  # the frozen ones, in `privacy/`
READINGS = ".readings"  # journals of what audits read, beside them
CONTROL = ".control-"  # begins the names of the folders in which they train controls
BEGIN, END = "<!-- memorisation -->", "<!-- end of memorisation -->"


@dataclass(frozen=True)
class Audited:
    """The result of an audit; `weights` is the SHA-256 of the adapter that was audited.

    `limits` is that of the frozen limits which decided; earlier versions noted none.
    """

    verdict: str
    date: str
    weights: str
    lines: tuple[str, ...]  # of the card
    limits: str = ""

    def write(self, folder: Path) -> None:
        """Write it beside the page."""
        files.write_json(folder / SUMMARY, asdict(self))


def folder_of(store: Path, run: str) -> Path:
    """Return the folder of a run's audit."""
    return store / "privacy" / run


def read(store: Path, run: str) -> Audited | None:
    """Return the audit of an adapter; None where there is none of these weights.

    The verdict says so where other limits were frozen since, or the frozen ones are gone.
    """
    try:
        raw: dict[str, Any] = files.read_json(folder_of(store, run) / SUMMARY)
        found = Audited(raw["verdict"], raw["date"], raw["weights"], tuple(raw["lines"]))
        weights = store / "adapters" / run / "adapter_model.safetensors"
        if files.unchanged_sha256(weights) != found.weights:
            return None
        frozen = store / "privacy" / LIMITS
        now = files.file_sha256(frozen) if frozen.is_file() else ""
        if (limits := raw.get("limits", "")) and limits != now:
            which = "earlier limits" if now else "limits that are gone"
            return replace(found, verdict=f"{found.verdict} by {which}")
        return found
    except (OSError, ValueError, KeyError, TypeError):
        return None


def sentence(store: Path, run: str) -> Markup:
    """Return what a report says of an adapter's audit, with a link to its page."""
    found = read(store, run)
    if found is None:
        command = command_for(f"privacy/{run}")
        return html.with_commands(f"Adapter {run}: {NOT_AUDITED} (`{command}`).")
    page = (folder_of(store, run) / PAGE).resolve().as_uri()
    return Markup('<a href="{}">Memorisation audit</a> of adapter {}, {}: {}.').format(
        page, run, found.date, found.verdict
    )


def in_card(lines: tuple[str, ...] = ()) -> list[str]:
    """Return the lines of a card on the audit, or that there was none."""
    return [BEGIN, *(lines or (f"{NOT_AUDITED.capitalize()}.",)), END]


def tell_card(card: Path, lines: tuple[str, ...]) -> None:
    """Put the audit's lines into an adapter's card, in the place of those before."""
    text = files.read_kept(card)
    told = "\n".join(in_card(lines))
    found = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    new = found.sub(lambda _: told, text, count=1) if found.search(text) else f"{text}\n{told}\n"
    files.rewrite(card, new)
