"""The parts that handlers of the review site share: site, rater, form, answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect

from mimic_qlora.display import html
from mimic_qlora.review import guard
from mimic_qlora.review.items import PAGES, Item
from mimic_qlora.review.store import Store


class Position(Convertor[int]):
    """The number of an item in an address, `{position:position}`. A longer number is no page.

    Python reads no number of over 4,300 digits, and SQLite none of over 18.
    """

    regex = "[0-9]{1,9}"

    def convert(self, value: str) -> int:
        """Read the part of an address."""
        return int(value)

    def to_string(self, value: int) -> str:
        """Return the part of an address."""
        return str(value)


register_url_convertor("position", Position())


@dataclass(frozen=True)
class Site:
    """The things under review.

    `items` are by number; `run_files` holds questions.yaml; `cookie` names the session's cookie.
    """

    store: Store
    items: Mapping[int, Item]
    run_files: Path
    cookie: str


def the_site(request: Request) -> Site:
    """Return the site that answers this request."""
    site: Site = request.app.state.site
    return site


TheSite = Annotated[Site, Depends(the_site)]


def signed_in(request: Request, site: TheSite) -> str:
    """Return the rater whose session the browser has. Raises 401."""
    rater = site.store.sessions.rater_of(request.cookies.get(site.cookie))
    if rater is None:
        raise HTTPException(
            401,
            "Open the link that review.py printed for you. It works once: start review.py again "
            "for a new one.",
        )
    return rater


async def form(request: Request) -> dict[str, list[str]]:
    """Return field -> values of the request's form.

    A body that is too long is refused with 413 before it is read whole; raises 400 for others.
    """
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
Form = Annotated[dict[str, list[str]], Depends(form)]


def own_form(rater: Rater, fields: Form) -> dict[str, list[str]]:
    """Return the form. Raises 409 if this browser showed it to another rater, whose page may still
    be open beside this one's.
    """
    if fields.pop("rater", [rater]) != [rater]:
        raise HTTPException(409, f"Nothing was kept: this browser is now signed in as {rater}.")
    return fields


Fields = Annotated[dict[str, list[str]], Depends(own_form)]


def page(name: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return the page of a template in pages/."""
    return HTMLResponse(html.render(f"{name}.html", PAGES, here=f"/{name}", **values), status)


def goto(path: str) -> RedirectResponse:
    """Return a redirect that the browser follows with GET."""
    return RedirectResponse(path, 303)
