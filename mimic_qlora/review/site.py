"""The review site: its application, who may enter, and the pages on which answers are judged.

Addresses hold a place in the rater's order or the name of a rule, never anything of a patient. The
pages are rendered here, and work without JavaScript but for the link's token.
"""

import sqlite3
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from mimic_qlora.display import html
from mimic_qlora.review import content_pages, guard
from mimic_qlora.review import items as review_items
from mimic_qlora.review.database import FILE
from mimic_qlora.review.items import PAGES, Item
from mimic_qlora.review.marks import CRITERIA, HARM, SCALE, SIDES
from mimic_qlora.review.requests import Fields, Form, Rater, Site, TheSite, goto, own_form, page
from mimic_qlora.review.store import Store
from mimic_qlora.step import faults

COOKIE_DAYS = 30
_STATIC = {  # name -> (file, media type)
    "page.css": (html.PAGES / "page.css", "text/css"),
    "review.js": (PAGES / "review.js", "text/javascript"),
}
_FIELD_NAMES = {
    **{
        f"{side}_{name}": f"{criterion.label} of answer {side.upper()}"
        for side in SIDES
        for name, criterion in CRITERIA.items()
    },
    "better": "Which answer is better",
    "comment": "Comment",
    "a_harm": "Harmful sentences of answer A",
    "b_harm": "Harmful sentences of answer B",
}
router = APIRouter()


class Side(NamedTuple):
    """One answer of an item as its page shows it.

    `sentences` are (sentence, what separates it from the next); `harmful` the numbers, from 1, of
    those marked so; `all_four` the mark that all criteria have in common, or "".
    """

    side: str
    sentences: list[tuple[str, str]]
    harmful: set[str]
    all_four: str


def build(store: Store, items: Mapping[int, Item], run_files: Path, port: int) -> guard.Guard:
    """Return the ASGI application behind its guard. `port` is the one in the browser."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # cookies are shared by all ports of a host
    app.state.site = Site(store, items, run_files, cookie=f"review_{port}")
    app.include_router(router)
    app.include_router(content_pages.router)
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    return guard.Guard(app, port)


def _refused(request: Request, error: Exception) -> HTMLResponse:
    """Answer a request that was refused with a page that says why."""
    assert isinstance(error, StarletteHTTPException)
    code = error.status_code
    text = "There is no such page." if code in (404, 405) else error.detail
    return page("message", code, title="Not possible", text=text)


def _failed(request: Request, error: Exception) -> HTMLResponse:
    """Answer an unforeseen failure. The message may hold what was typed, so it is not printed, but
    for those of the machine and of SQLite, which name no values.
    """
    place = traceback.extract_tb(error.__traceback__)[-1]
    cause = faults.sentence(error)
    if cause is None and isinstance(error, sqlite3.DatabaseError):
        cause = f"{FILE} cannot be used ({error})"
    where = f"{Path(place.filename).name}, line {place.lineno}"
    print(f"error: {cause or type(error).__name__} ({where})", file=sys.stderr, flush=True)
    text = "What you had marked before is kept. The terminal of review.py says what is wrong."
    return page("message", 500, title="Something went wrong", text=text)


# ---- entering


@router.get("/")
def door(request: Request, site: TheSite) -> HTMLResponse:
    """Show the page that takes a link."""
    return page("door", known=site.store.sessions.rater_of(request.cookies.get(site.cookie)))


@router.post("/enter")
def enter(site: TheSite, fields: Form) -> RedirectResponse:
    """Start a session for the holder of a link's token."""
    token = fields.get("token", [""])[0].rpartition("#")[2].strip()
    session = site.store.sessions.enter(token)
    if session is None:
        raise HTTPException(
            403, "This link has been used or replaced. Start review.py again for a new one."
        )
    response = goto("/next")
    age = COOKIE_DAYS * 86_400
    response.set_cookie(site.cookie, session, age, httponly=True, samesite="strict")
    return response


@router.get("/static/{name}")
def asset(name: str) -> Response:
    """Return the style sheet or the script."""
    if name not in _STATIC:
        raise HTTPException(404)
    path, media_type = _STATIC[name]
    return Response(path.read_bytes(), media_type=media_type)


# ---- items


@router.get("/next")
def next_item(site: TheSite, rater: Rater, after: str = "") -> RedirectResponse:
    """Go to the first open item after a position."""
    place = int(after) if after.isdecimal() and len(after) < 9 else 0
    position = site.store.marks.first_open(rater, place)
    return goto(f"/items/{position}" if position else "/items")


@router.get("/items")
def overview(site: TheSite, rater: Rater) -> HTMLResponse:
    """Show the list of all items and their states."""
    marks = site.store.marks
    answered = marks.answered(rater)
    states = dict.fromkeys(marks.begun(rater), "begun") | dict.fromkeys(answered, "answered")
    rows = [
        (task.position, site.items[task.item].question, states.get(task.position, "open"))
        for task in site.store.tasks.of(rater)
    ]
    return page("items", rater=rater, rows=rows, answered=len(answered), total=len(rows))


@router.get("/items/{position:position}")
def item(position: int, site: TheSite, rater: Rater, undone: str = "") -> HTMLResponse:
    """Show an item with its marks."""
    task = site.store.tasks.at(rater, position)
    if task is None:
        raise HTTPException(404)
    shown = site.items[task.item]
    marks = dict.fromkeys(_FIELD_NAMES, "") | site.store.marks.of(rater, position)
    answers = zip(SIDES, review_items.shown(shown, task.swapped), strict=True)
    progress = site.store.marks.progress(rater)
    return page(
        "item",
        rater=rater,
        position=position,
        total=progress.total,
        answered=progress.answered,
        item=shown,
        sides=[_side(side, answer, marks) for side, answer in answers],
        marks=marks,
        criteria=CRITERIA,
        scale=SCALE,
        undone=_FIELD_NAMES.get(undone, ""),
    )


def _side(side: str, answer: str, marks: Mapping[str, str]) -> Side:
    given = {marks[f"{side}_{name}"] for name in CRITERIA}
    all_four = given.pop() if len(given) == 1 else ""
    return Side(side, review_items.sentences(answer), set(marks[f"{side}_harm"].split()), all_four)


@router.post("/items/{position:position}")
def save(position: int, site: TheSite, rater: Rater, fields: Fields) -> Response:
    """Keep the marks of an item.

    The script sends one click, named "marking", and stays on the page. A form is a whole item; it
    leaves out boxes that are not ticked.
    """
    task = site.store.tasks.at(rater, position)
    if task is None:
        raise HTTPException(404)
    answers = zip(HARM, review_items.shown(site.items[task.item], task.swapped), strict=True)
    marks = site.store.marks
    is_click = bool(fields.pop("marking", None))
    given = fields if is_click else dict.fromkeys(HARM, [""]) | fields
    try:
        for field, answer in answers:
            _check_sentences(given.get(field, []), answer)
        marks.save(rater, position, {name: " ".join(values) for name, values in given.items()})
    except ValueError:
        raise HTTPException(400, "There is no such mark.") from None
    if is_click:
        answered = marks.progress(rater).answered
        return JSONResponse({"answered": answered, "marks": marks.of(rater, position)})
    return goto(f"/next?after={position}")


def _check_sentences(numbers: Sequence[str], answer: str) -> None:
    """Raise ValueError for the number of a sentence that the answer does not have.

    It would count as harm in the report, with no sentence beside it.
    """
    said = review_items.sentences(answer)
    there = {str(n) for n, (text, _) in enumerate(said, 1) if text.strip()}
    if not there.issuperset(" ".join(numbers).split()):
        raise ValueError("no such sentence")


@router.post("/undo", dependencies=[Depends(own_form)])
def undo(site: TheSite, rater: Rater) -> RedirectResponse:
    """Take the rater's last step back, and go to its item."""
    taken_back = site.store.marks.undo(rater)
    if taken_back is None:
        return goto("/items")
    return goto(f"/items/{taken_back.position}?undone={taken_back.fields[0]}")
