"""Sessions of browsers: a key is shown once, and the cookie that it gives opens the same project for a while.

The cookie holds the key's id and when it ends, under the service's signature; nothing is stored. The key is looked up
at every request, so a session ends with its key. It never administers: what makes or revokes keys asks for a key.

Against requests that another site makes a browser send: the cookie is SameSite=Strict, and what changes something must
come from a page of this very origin, which browsers say in headers that no page can set.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from urllib.parse import urlsplit

from fastapi import Request
from itsdangerous import BadData, URLSafeSerializer
from starlette.responses import Response

from api.problems import Problem
from store.derived_keys import derived_key
from store.keys import Caller
from store.settings import Settings

SESSION_SECONDS = 12 * 3600
_SAFE = {"GET", "HEAD", "OPTIONS"}
_NO_ADMIN = frozenset({"read", "write", "ops"})


def start(request: Request, response: Response, settings: Settings, key_id: str) -> None:
    response.set_cookie(
        _name(request),
        _serializer(settings).dumps([key_id, int(time.time()) + SESSION_SECONDS]),
        max_age=SESSION_SECONDS,
        path="/",
        secure=_is_encrypted(request),
        httponly=True,
        samesite="strict",
    )


def end(request: Request, response: Response) -> None:
    response.delete_cookie(_name(request), path="/", secure=_is_encrypted(request), httponly=True, samesite="strict")


def key_id_of(request: Request, settings: Settings) -> str | None:
    """The id of the key that the session was opened with; None: there is none, it has ended, or it is not ours."""
    cookie = request.cookies.get(_name(request))
    if cookie is None:
        return None
    try:
        key_id, ends_at = _serializer(settings).loads(cookie)
    except BadData:
        return None
    return str(key_id) if time.time() < ends_at else None


def lessened(caller: Caller) -> Caller:
    """What a session may of what its key may."""
    return replace(caller, scopes=_NO_ADMIN if "admin" in caller.scopes else caller.scopes, is_operator=False)


def refuse_cross_site(request: Request) -> None:
    """Raises Problem where a page of another origin may have sent it. Another port is another origin, too."""
    if request.method in _SAFE:
        return
    fetched = request.headers.get("sec-fetch-site")
    if fetched is not None:  # where the connection is trusted: https, or this machine
        comes_from_here = fetched == "same-origin"
    else:
        comes_from_here = urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host")
    if not comes_from_here:
        raise Problem(
            "cross_site",
            "a session's cookie changes something only from the service's own pages; send Authorization: Bearer KEY",
            param="header:origin",
        )


def _name(request: Request) -> str:
    """A browser takes the prefix only by https and for this very host, and from nobody else."""
    return "__Host-espalier" if _is_encrypted(request) else "espalier"


def _is_encrypted(request: Request) -> bool:
    return request.url.scheme == "https"


def _serializer(settings: Settings) -> URLSafeSerializer:
    return URLSafeSerializer(
        derived_key(settings.secret(), "sessions"),
        salt="espalier.session",
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )
