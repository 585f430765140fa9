"""Into the dashboard and out of it: a key is shown once, and a cookie opens what it opens."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from api import sessions
from api.problems import Problem
from api.services import Services, services_of
from api.web.rendering import HEADERS, page
from store.keys import Caller, caller_of

router = APIRouter(include_in_schema=False)

_MAX_FORM_BYTES = 4096
_PAGE = re.compile(r"/(?:(?:jobs|comparisons|models|datasets|compare)(?:/[a-z0-9_]+)*)?(?:\?[A-Za-z0-9_=&%.-]*)?")
"""What a login may lead to: pages of the dashboard, and no other address."""


def login_page(request: Request, leads_to: str = "/", said: str | None = None, status: int = 200) -> Response:
    return page(request, "login.html", status, leads_to=leads_to, said=said)


def to_login(request: Request) -> Response:
    """Of a page that nobody may see without a session. The first one is the login itself."""
    if request.url.path == "/":
        return login_page(request)
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?next={quote(asked, safe='')}", 303, HEADERS)


@router.get("/login")
async def get_login(request: Request) -> Response:
    return login_page(request, _safe(request.query_params.get("next", "/")))


@router.post("/login")
async def log_in(request: Request) -> Response:
    services = await services_of(request)
    try:
        sessions.refuse_cross_site(request)
        form = parse_qs((await _body(request)).decode("utf-8", "replace"), max_num_fields=10)
    except (Problem, ValueError):
        return login_page(request, said="This form was not sent from the login page. Try again.", status=403)
    leads_to = _safe(form.get("next", ["/"])[0])
    standing = services.logins.hit(request.client.host if request.client else "")
    if not standing.is_within:
        said = f"Too many keys were tried. Wait {standing.reset_seconds} seconds."
        response = login_page(request, leads_to, said, 429)
        response.headers["Retry-After"] = str(standing.reset_seconds)
        return response
    caller = await run_in_threadpool(_look_up, services, form.get("key", [""])[0].strip())
    if caller is None:
        return login_page(request, leads_to, "This key is unknown, expired or revoked.", 401)
    if not caller.may("read"):
        return login_page(request, leads_to, "This key may not read. Use one with the scope read.", 403)
    response = RedirectResponse(leads_to, 303, HEADERS)
    sessions.start(request, response, services.settings, caller.key_id)
    return response


@router.post("/logout")
async def log_out(request: Request) -> Response:
    sessions.refuse_cross_site(request)
    response = RedirectResponse("/login", 303, HEADERS | {"Clear-Site-Data": '"cache"'})
    sessions.end(request, response)
    return response


def _look_up(services: Services, key: str) -> Caller | None:
    with services.database.reading() as session:
        return caller_of(session, key)


async def _body(request: Request) -> bytes:
    """Raises ValueError: longer than any key and address."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_FORM_BYTES:
            raise ValueError("the form is too long")
    return body


def _safe(asked: str) -> str:
    return asked if _PAGE.fullmatch(asked) else "/"
