"""The review page: which address answers with what. Addresses hold a place in the rater's order or the name of a rule,
never anything of a patient; what is shown is rendered here, and works without JavaScript but for the link's token.
"""

import sys
import traceback
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs

import jinja2
import starlette.exceptions
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.requests import ClientDisconnect

from mimic_qlora.clinical import schema
from mimic_qlora.display import text as terminal
from mimic_qlora.review import content as content_review
from mimic_qlora.review import guard
from mimic_qlora.review import items as review_items
from mimic_qlora.review import store as ratings

PAGES = Path(__file__).parent / "pages"
STATIC = {"review.css": "text/css", "review.js": "text/javascript"}
COOKIE_DAYS = 30
SHOWN_APART = (
    "id",
    "ideal",
    "say",
    "try",
    "urgent",
    "track",
    "sources",
    "reviewed_by",
    "reviewed_on",
)
PATTERNS = ("pattern", "forbid", "red_flags", "key_points")
FIELDS_OF_ENTRIES = schema.SECTIONS | {
    "say": "What a good answer says",
    "ideal": "The ideal response",
    "when": "Which chart calls for it",
    "severity": "How bad it is to leave it out (3 = serious harm)",
    "section": "Section of the answer",
    "symptoms": "For which symptoms",
    "held_out": "Kept out of the training",
    "question": "The question",
}
FIELD_NAMES = {
    **{
        f"{side}_{n}": f"{words[0]} of answer {side.upper()}"
        for side in "ab"
        for n, words in ratings.CRITERIA.items()
    },
    "better": "Which answer is better",
    "comment": "Comment",
    "a_harm": "Harmful sentences of answer A",
    "b_harm": "Harmful sentences of answer B",
}


def build(store: ratings.Ratings, items: dict, run_files: Path, port: int):
    """The ASGI application, behind its guard. `items` maps a number to its Item; `port` is the one in the browser."""
    site = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    static = {name: (PAGES / name).read_bytes() for name in STATIC}
    cookie = f"review_{port}"  # cookies are shared by all ports of a host

    def page(name: str, status: int = 200, **values) -> HTMLResponse:
        return HTMLResponse(
            templates.get_template(f"{name}.html").render(here=f"/{name}", **values), status
        )

    def goto(path: str) -> RedirectResponse:
        return RedirectResponse(path, 303)

    def signed_in(request: Request) -> str:
        rater = store.rater_of(request.cookies.get(cookie))
        if rater is None:
            text = "Open the link that review.py printed for you. It works once: start review.py again for a new one."
            raise HTTPException(401, text)
        return rater

    async def form(request: Request) -> dict:
        """field -> values of the request's form. A body that is too long is refused before it is read whole."""
        body = b""
        try:
            async for part in request.stream():
                body += part
                if len(body) > guard.LARGEST:
                    raise HTTPException(413, "That is too long to be kept: shorten it.")
            return parse_qs(
                body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=500
            )
        except (ValueError, ClientDisconnect):
            raise HTTPException(400, "The form could not be read.") from None

    Rater = Annotated[str, Depends(signed_in)]

    def own_form(rater: Rater, fields: Annotated[dict, Depends(form)]) -> dict:
        """The form, unless this browser showed it to another rater, whose page may still be open beside this one's."""
        if fields.pop("rater", [rater]) != [rater]:
            raise HTTPException(409, f"Nothing was kept: this browser is now signed in as {rater}.")
        return fields

    Fields = Annotated[dict, Depends(own_form)]

    @site.exception_handler(starlette.exceptions.HTTPException)
    def refused(request: Request, error) -> HTMLResponse:
        texts = {404: "There is no such page.", 405: "There is no such page."}
        return page(
            "message",
            error.status_code,
            title="Not possible",
            text=texts.get(error.status_code, error.detail),
        )

    @site.exception_handler(Exception)
    def failed(request: Request, error) -> HTMLResponse:
        place = traceback.extract_tb(error.__traceback__)[
            -1
        ]  # the message may hold what was typed, so it is not shown
        print(
            f"error: {type(error).__name__} in {Path(place.filename).name}, line {place.lineno}",
            file=sys.stderr,
        )
        return page(
            "message", 500, title="Something went wrong", text="What you had marked before is kept."
        )

    @site.get("/")
    def door(request: Request):
        return page("door", known=store.rater_of(request.cookies.get(cookie)))

    @site.post("/enter")
    def enter(fields: Annotated[dict, Depends(form)]):
        session = store.enter(fields.get("token", [""])[0].rpartition("#")[2].strip())
        if session is None:
            raise HTTPException(
                403, "This link has been used or replaced. Start review.py again for a new one."
            )
        response = goto("/next")
        response.set_cookie(cookie, session, COOKIE_DAYS * 86_400, httponly=True, samesite="strict")
        return response

    @site.get("/static/{name}")
    def asset(name: str):
        if name not in static:
            raise HTTPException(404)
        return Response(static[name], media_type=STATIC[name])

    @site.get("/next")
    def next_item(rater: Rater, after: str = ""):
        position = store.first_open(
            rater, int(after) if after.isdecimal() and len(after) < 9 else 0
        )
        return goto(f"/items/{position}" if position else "/items")

    @site.get("/items")
    def overview(rater: Rater):
        answered = store.answered(rater)
        states = {
            **dict.fromkeys(store.begun(rater), "begun"),
            **dict.fromkeys(answered, "answered"),
        }
        rows = [
            (t.position, items[t.item].question, states.get(t.position, "open"))
            for t in store.tasks(rater)
        ]
        return page("items", rater=rater, rows=rows, answered=len(answered), total=len(rows))

    @site.get("/items/{position:int}")
    def item(position: int, rater: Rater, undone: str = ""):
        task = store.task(rater, position)
        if task is None:
            raise HTTPException(404)
        shown, marks = (
            items[task.item],
            dict.fromkeys(FIELD_NAMES, "") | store.marks(rater, position),
        )
        sides = [
            (
                side,
                review_items.sentences(answer),
                set(marks[f"{side}_harm"].split()),
                _all_four(side, marks),
            )
            for side, answer in zip(
                ratings.SIDES, review_items.shown(shown, task.swapped), strict=True
            )
        ]
        answered, total = store.progress(rater)
        return page(
            "item",
            rater=rater,
            position=position,
            total=total,
            answered=answered,
            item=shown,
            sides=sides,
            marks=marks,
            criteria=ratings.CRITERIA,
            scale=ratings.MARKS,
            undone=FIELD_NAMES.get(undone, ""),
        )

    @site.post("/items/{position:int}")
    def save(position: int, fields: Fields, rater: Rater):
        if store.task(rater, position) is None:
            raise HTTPException(404)
        at_once = fields.pop(
            "marking", None
        )  # sent by the script: one click, which stays on the page
        if not at_once:
            fields = {
                **dict.fromkeys(ratings.HARM, []),
                **fields,
            }  # a form leaves out boxes that are not ticked
        try:
            store.save(
                rater, position, {field: " ".join(values) for field, values in fields.items()}
            )
        except ValueError:
            raise HTTPException(400, "There is no such mark.") from None
        if at_once:
            return JSONResponse(
                {"answered": store.progress(rater)[0], "marks": store.marks(rater, position)}
            )
        return goto(f"/next?after={position}")

    @site.post("/undo", dependencies=[Depends(own_form)])
    def undo(rater: Rater):
        taken_back = store.undo(rater)
        return goto(f"/items/{taken_back[0]}?undone={taken_back[1][0]}" if taken_back else "/items")

    @site.get("/content")
    def content(rater: Rater):
        found = content_review.current(run_files, store.decisions())
        undecided = [key for key, entry in found.items() if not _decided(entry, rater)]
        return page(
            "content", rater=rater, entries=found, open=undecided, kinds=content_review.KINDS
        )

    def entry_of(kind: str, name: str):
        """The entry, its neighbours' addresses included. Raises 404."""
        found = content_review.current(run_files, store.decisions())
        if (key := f"{kind}/{name}") not in found:
            raise HTTPException(404)
        keys = list(found)
        return found[key], keys, keys.index(key)

    @site.get("/content/{kind}/{name}")
    def entry(kind: str, name: str, rater: Rater):
        return shown_entry(kind, name, rater)

    def shown_entry(
        kind: str,
        name: str,
        rater: str,
        problem: str = "",
        status: int = 200,
        typed: tuple = ((), "", ""),
    ):
        """The page of an entry; after a problem with what was `typed` (texts, comment, signature), so none is lost."""
        found, keys, place = entry_of(kind, name)
        texts, comment, signs_as = typed
        return page(
            "entry",
            status,
            rater=rater,
            found=found,
            place=place,
            keys=keys,
            problem=problem,
            comment=comment,
            signs_as=signs_as or store.signs_as(rater),
            lost=content_review.lost(kind, found.entry),
            rows=_readable(found.entry),
            patterns=_readable(found.entry, PATTERNS),
            texts=_editable(found, texts),
            mine=_decided(found, rater),
            kind_name=content_review.KINDS[kind],
        )

    @site.post("/content/{kind}/{name}")
    def decide(kind: str, name: str, fields: Fields, rater: Rater):
        found, keys, place = entry_of(kind, name)
        given = {field: values[0] for field, values in fields.items()}
        texts = [content_review.normal(text) for text in fields.get("text", [])]
        verdict, signs_as = given.get("verdict"), terminal.folded(given.get("signs_as", ""))[:200]
        comment, typed = given.get("comment", "")[: ratings.LONGEST].strip(), fields.get("text", [])

        def again(status: int, problem: str):
            return shown_entry(
                kind,
                name,
                rater,
                f"Nothing was kept: {problem}",
                status,
                (typed, comment, signs_as),
            )

        if given.get("fingerprint") != found.fingerprint:
            return again(
                409,
                "somebody changed this entry while you read it. How it reads now stands below your words.",
            )
        if (
            verdict not in ("edit", "approve", "reject")
            or len(texts) != len(found.texts)
            or not all(texts)
        ):
            return again(400, "a text must not be empty.")
        if verdict == "approve" and not signs_as:
            return again(400, "an approval needs your name and profession.")
        key, now, was = f"{kind}/{name}", found.fingerprint, list(found.texts.values())
        if texts != was or (verdict == "edit" and comment):
            said = comment if verdict == "edit" else ""
            store.decide(rater, key, "edit", texts, was, found.in_file, signs_as, said)
            now = content_review.fingerprint(content_review.with_texts(kind, found.entry, texts))
        if verdict != "edit":
            store.decide(rater, key, verdict, texts, texts, now, signs_as, comment)
        onwards = keys[place + 1] if verdict != "edit" and place + 1 < len(keys) else keys[place]
        return goto(f"/content/{onwards}")

    return guard.Guard(site, port)


def _all_four(side: str, marks: dict) -> str:
    """The mark that all four criteria of an answer have in common, or an empty text."""
    given = {marks[f"{side}_{name}"] for name in ratings.CRITERIA}
    return given.pop() if len(given) == 1 else ""


def _decided(found, rater: str) -> list:
    """The rater's decision on the present wording of an entry, if there is one."""
    return [decision for decision in found.approved + found.rejected if decision["rater"] == rater]


def _readable(entry: dict, names: tuple = ()) -> list:
    """The fields of an entry that are read and not edited here, as (name, [lines]): those named, else all but these."""
    names = names or [name for name in entry if name not in (*PATTERNS, *SHOWN_APART)]
    return [
        (_name((name,)), _lines(name, value))
        for name in names
        if (value := entry.get(name)) not in ([], None)
    ]


def _editable(found, typed: list) -> list:
    """The texts of an entry that are edited here, as (name, text in the box, rows that it takes, text as it stands)."""
    typed = typed if len(typed) == len(found.texts) else found.texts.values()
    return [
        (
            _name(path, found.entry),
            text,
            sum(1 + len(line) // 95 for line in text.split("\n")),
            stands,
        )
        for text, (path, stands) in zip(typed, found.texts.items(), strict=True)
    ]


def _name(path: tuple, entry: dict | None = None) -> str:
    """What a field of an entry is called on the page, and in which answers a sentence is left out."""
    name = FIELDS_OF_ENTRIES.get(path[0], path[0].replace("_", " ").capitalize())
    if len(path) == 1:
        return name
    rules = entry[path[0]][path[1]].get("unless", []) if path[0] == "try" and len(path) > 2 else []
    but = f", left out where a rule holds: {', '.join(rules).replace('_', ' ')}" if rules else ""
    return f"{name}, sentence {path[1] + 1}{but}"


def _lines(name: str, value) -> list:
    """A field's value in words."""
    if name == "when":
        return [content_review.in_words(value)]
    if name == "section":
        return [schema.SECTIONS[value]]
    if name in ("symptoms", "tags"):
        return [", ".join(value).replace("_", " ")]
    return [_line(item) for item in (value if isinstance(value, list) else [value])]


def _line(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        "; ".join(f"{name}: {part}" for name, part in value.items())
        if isinstance(value, dict)
        else str(value)
    )
