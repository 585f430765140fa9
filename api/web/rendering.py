"""A page of the dashboard: a template, what it may load, and how numbers are written in it.

Every value is escaped by the templates themselves. The policy lets a page load this service's own files alone, and no
script or style that stands in the page.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeGuard

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import Response

from api.conditional import is_current
from api.web.assets import address_of
from store.version import VERSION

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",  # a page of a session that has ended is not to be had by going back
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


_LARGEST = 1e300


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """The ETag is the page's digest: what looks for changes is told that there are none."""
    caller = getattr(request.state, "caller", None)
    text = _environment.get_template(template).render(caller=caller, path=request.url.path, **values)
    body = text.encode(errors="replace")  # half a surrogate pair, which a name may hold
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = HEADERS | {"ETag": etag}
    if status == 200 and is_current(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, status, headers, "text/html; charset=utf-8")


def percent(fraction: float | None, digits: int = 1) -> str:
    """Three nines are not 100%."""
    if not _is_number(fraction):
        return "–"
    while 0 < abs(1 - fraction) * 100 < 0.5 * 10**-digits and digits < 4:
        digits += 1
    return f"{fraction * 100:.{digits}f}%"


def number(value: float | None) -> str:
    if not _is_number(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def signed(value: float | None) -> str:
    return f"{value:+.4f}" if _is_number(value) else "–"


def amount(size_bytes: float | None) -> str:
    if not _is_number(size_bytes):
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024 or unit == "GiB":
            break
        size_bytes /= 1024
    return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"


def duration(seconds: float | None) -> str:
    if not _is_number(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"


def moment(at: datetime | None) -> str:
    return "–" if at is None else at.strftime("%Y-%m-%d %H:%M:%S UTC")


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def words(name: str) -> str:
    return name.replace("_", " ")


def at(values: Any, *names: str) -> Any:
    """What a report holds there; None where it has no such thing, for it comes from a process that is not trusted."""
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _is_number(value: Any) -> TypeGuard[float]:
    """None that a float does not reach: no such thing was measured, and Python cannot format it as one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


_environment = Environment(
    loader=PackageLoader("api.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals |= {"asset": address_of, "version": VERSION, "at": at}
_environment.filters |= {
    each.__name__: each for each in (percent, number, signed, amount, duration, moment, pretty, words)
}
