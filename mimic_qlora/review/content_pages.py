"""The pages of the review site on which clinicians edit, approve and reject the content."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from fastapi import APIRouter, HTTPException
from fastapi.responses import HTMLResponse, Response

from mimic_qlora.clinical import content, schema
from mimic_qlora.clinical.levels import LEVELS
from mimic_qlora.clinical.schema import Caution, Entry, Symptom
from mimic_qlora.display import text as terminal
from mimic_qlora.review import changes
from mimic_qlora.review import content as content_review
from mimic_qlora.review.content import Wording
from mimic_qlora.review.decisions import VERDICTS, Decision
from mimic_qlora.review.marks import LONGEST
from mimic_qlora.review.requests import Fields, Rater, Site, TheSite, goto, page
from mimic_qlora.review.yaml_edit import Place

_PATTERNS = ("pattern", "forbid", "red_flags", "key_points")
_SHOWN_APART = {
    "id",
    "ideal",
    "say",
    "try",
    "urgent",
    "track",
    "sources",
    "reviewed_by",
    "reviewed_on",
}
_FIELD_NAMES = schema.SECTIONS | {
    "say": "What a good answer says",
    "ideal": "The ideal response",
    "when": "Which chart calls for it",
    "severity": "How bad it is to leave it out (3 = serious harm)",
    "section": "Section of the answer",
    "symptoms": "For which symptoms",
    "held_out": "Kept out of the training",
    "level": "How soon to be seen",
    "signs": "Warning signs that it is about",
    "tells": "What it tells somebody to do",
    "asks": "What an answer must and must not say",
    "needs": "Who has it, or is asked",
    "question": "The question",
}
router = APIRouter()


class Located(NamedTuple):
    """An entry among all: their keys ("kind/id") in order, and its place in them."""

    found: Wording
    keys: list[str]
    place: int


class Typed(NamedTuple):
    """The texts typed into the form of an entry, kept so that a problem loses none of them."""

    texts: Sequence[str] = ()
    comment: str = ""
    signs_as: str = ""


class Box(NamedTuple):
    """A text that may be edited: its name, the text in the box, its rows, the text as it stands."""

    name: str
    text: str
    rows: int
    stands: str


class Readable(NamedTuple):
    """A field that is read and not edited on the page."""

    name: str
    lines: list[str]


@router.get("/content")
def overview(site: TheSite, rater: Rater) -> HTMLResponse:
    """Show the list of all entries, the most serious first, and what was decided about them."""
    found = _by_severity(site)
    undecided = [key for key, entry in found.items() if not _decided(entry, rater)]
    changed = changes.by_entry(changes.load())
    return page(
        "content",
        rater=rater,
        entries=found,
        open=undecided,
        kinds=content_review.KINDS,
        changed={key: changed[key] for key in found if key in changed},
    )


def _by_severity(site: Site) -> dict[str, Wording]:
    """Return "kind/id" -> wording: what changed to mend the worst first, then the worst rules."""
    found = content_review.current(site.run_files, site.store.decisions.all())
    changed = changes.by_entry(changes.load())

    def rank(key: str) -> tuple[int, ...]:
        return tuple(-n for n in changes.severity(key, found[key].entry, changed))

    return {key: found[key] for key in sorted(found, key=rank)}


@router.get("/content/{kind}/{name}")
def entry(kind: str, name: str, site: TheSite, rater: Rater) -> HTMLResponse:
    """Show an entry."""
    return _shown(site, _find(site, f"{kind}/{name}"), rater, Typed())


@router.post("/content/{kind}/{name}")
def decide(kind: str, name: str, site: TheSite, rater: Rater, fields: Fields) -> Response:
    """Keep an edit and a verdict, and go on to the next entry after an approval or rejection."""
    at = _find(site, f"{kind}/{name}")
    given = {field: values[0] for field, values in fields.items()}
    texts = [content_review.normal(text) for text in fields.get("text", [])]
    signs_as = terminal.folded(given.get("signs_as", ""))[:200]
    typed = Typed(fields.get("text", []), given.get("comment", "")[:LONGEST].strip(), signs_as)
    if given.get("fingerprint") != at.found.fingerprint:
        problem = (
            "somebody changed this entry while you read it. "
            "How it reads now stands below your words."
        )
        return _shown(site, at, rater, typed, f"Nothing was kept: {problem}", 409)
    verdict = next((v for v in VERDICTS if v == given.get("verdict")), None)
    if verdict is None or len(texts) != len(at.found.texts) or not all(texts):
        problem = "Nothing was kept: a text must not be empty."
        return _shown(site, at, rater, typed, problem, 400)
    if verdict == "approve" and not signs_as:
        problem = "Nothing was kept: an approval needs your name and profession."
        return _shown(site, at, rater, typed, problem, 400)
    _keep(
        site,
        at.found,
        Decision(rater, at.keys[at.place], verdict, texts, texts, "", signs_as, typed.comment),
    )
    onwards = verdict != "edit" and at.place + 1 < len(at.keys)
    return goto(f"/content/{at.keys[at.place + onwards]}")


def _keep(site: Site, found: Wording, decision: Decision) -> None:
    """Keep a decision; where its texts differ from those that stand, an edit before it."""
    now, was = found.fingerprint, list(found.texts.values())
    is_edit = decision.verdict == "edit"
    if decision.texts != was or (is_edit and decision.comment):
        comment = decision.comment if is_edit else ""
        made = decision._replace(
            verdict="edit", was=was, fingerprint=found.in_file, comment=comment
        )
        site.store.decisions.add(made)
        now = content_review.fingerprint(content_review.with_texts(found.entry, decision.texts))
    if not is_edit:
        site.store.decisions.add(decision._replace(fingerprint=now))


def _find(site: Site, key: str) -> Located:
    """Return an entry by its key. Raises 404."""
    found = _by_severity(site)
    if key not in found:
        raise HTTPException(404)
    keys = list(found)
    return Located(found[key], keys, keys.index(key))


def _shown(
    site: Site, at: Located, rater: str, typed: Typed, problem: str = "", status: int = 200
) -> HTMLResponse:
    """Return the page of an entry; after a problem, with what was typed."""
    values = at.found.entry.as_in_file()
    patterns = [name for name in _PATTERNS if name in values]
    rest = [name for name in values if name not in _PATTERNS and name not in _SHOWN_APART]
    return page(
        "entry",
        status,
        rater=rater,
        found=at.found,
        place=at.place,
        keys=at.keys,
        problem=problem,
        comment=typed.comment,
        signs_as=typed.signs_as or site.store.decisions.signs_as(rater),
        lost=content_review.lost(at.found.entry),
        rows=_readable(at.found.entry, rest),
        patterns=_readable(at.found.entry, patterns),
        texts=_boxes(at.found, typed.texts),
        mine=_decided(at.found, rater),
        kind_name=content_review.KINDS[at.found.kind],
        changes=changes.by_entry(changes.load()).get(at.keys[at.place], []),
    )


def _decided(found: Wording, rater: str) -> list[Decision]:
    """Return the rater's decision on the present wording of an entry, if there is one."""
    return [d for d in found.approved + found.rejected if d.rater == rater]


def _readable(entry: Entry, names: Sequence[str]) -> list[Readable]:
    """Return these fields of an entry in words, but for empty ones."""
    values = entry.as_in_file()
    return [
        Readable(_field_name(name), _lines(entry, name, values[name]))
        for name in names
        if values[name] not in ([], None)
    ]


def _boxes(found: Wording, typed: Sequence[str]) -> list[Box]:
    """Return the texts of an entry that are edited on the page."""
    texts = typed if len(typed) == len(found.texts) else list(found.texts.values())
    return [
        Box(_place_name(place, found.entry), text, _rows(text), stands)
        for text, (place, stands) in zip(texts, found.texts.items(), strict=True)
    ]


def _rows(text: str) -> int:
    """Return the rows that a text takes in a box of 95 columns."""
    return sum(1 + len(line) // 95 for line in text.split("\n"))


def _field_name(field: str) -> str:
    return _FIELD_NAMES.get(field, field.replace("_", " ").capitalize())


def _place_name(place: Place, entry: Entry) -> str:
    """Return the name of a text, and the rules that leave a sentence of advice out."""
    name = _field_name(str(place[0]))
    if len(place) == 1:
        return name
    number = int(place[1])
    about = f": {'; '.join(_about(_line_at(entry, place)))}" if isinstance(entry, Symptom) else ""
    return f"{name}, sentence {number + 1}{about.rstrip(': ')}"


def _line_at(entry: Symptom, place: Place) -> schema.Line:
    lines = {"try": entry.self_care, "urgent": entry.urgent, "track": entry.track}
    line: schema.Line = lines[str(place[0])][int(place[1])]
    return line


def _about(line: schema.Line) -> list[str]:
    """Return in words when a sentence of general advice is said, how soon it asks to be seen."""
    about = [LEVELS[line.level].name] if line.level else []
    if line.when is not None:
        about.append(f"only for {line.when.in_words(content.names())}")
    if line.unless:
        about.append(
            f"left out where a rule holds: {', '.join(map(terminal.name_of, line.unless))}"
        )
    return about


def _lines(entry: Entry, field: str, value: Any) -> list[str]:
    """Return a field's value in words."""
    condition = getattr(entry, field) if field in ("when", "needs") else None
    if condition is not None:
        return [condition.in_words(content.names())]
    if field == "level":
        return [LEVELS[value].name] if value else []
    if field == "asks" and isinstance(entry, Caution) and entry.asks:
        return _asked(entry.asks)
    if isinstance(entry, Caution) and field == "section":
        return [schema.SECTIONS[entry.section]]
    if field == "signs":
        return ["; ".join(content.load().signs[sign].name for sign in value)]
    if field == "tells":
        return ["; ".join(map(_meaning, value))]
    if field in ("symptoms", "tags"):
        return [", ".join(map(terminal.name_of, value))]
    return [_line(item) for item in (value if isinstance(value, list) else [value])]


def _meaning(tag: str) -> str:
    """Return in words what a tag tells somebody to do, with its class of drugs."""
    kind, _, drugs = tag.partition(":")
    return content.load().tells[kind].means + (f" ({terminal.name_of(drugs)})" if drugs else "")


def _asked(asks: schema.Asks) -> list[str]:
    """Return in words what a caution asks of an answer."""
    forbidden = [
        f"Not: {act.act}" + (f" ({', '.join(act.drugs)})" if act.drugs else "")
        for act in asks.forbidden
    ]
    return [f"To do: {asks.action}", f"Reason: {asks.reason}", *forbidden]


def _line(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {part}" for name, part in value.items())
    return str(value)
