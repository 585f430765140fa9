"""The dashboard's own files, read once. An address holds a part of the content's digest: a changed file has another."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.conditional import is_current
from api.problems import Problem

router = APIRouter(include_in_schema=False)

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


class Asset(NamedTuple):
    content: bytes
    media_type: str
    digest: str


@cache
def _assets() -> dict[str, Asset]:
    """By name. What is not among them cannot be asked for, however a path is written."""
    found = {}
    for file in (files("api.web") / "static").iterdir():
        content = file.read_bytes()
        media_type = _TYPES[file.name.rpartition(".")[2]]
        found[file.name] = Asset(content, media_type, hashlib.sha256(content).hexdigest()[:16])
    return found


def address_of(name: str) -> str:
    return f"/static/{name}?v={_assets()[name].digest}"


@router.get("/static/{name}")
async def get_asset(request: Request, name: str) -> Response:
    asset = _assets().get(name)
    if asset is None:
        raise Problem("not_found", "there is no such file")
    etag = f'"{asset.digest}"'
    # Modules name each other without a digest: those are asked about each time.
    is_named = request.query_params.get("v") == asset.digest
    headers = {
        "ETag": etag,
        "Cache-Control": "public, max-age=31536000, immutable" if is_named else "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    if is_current(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
