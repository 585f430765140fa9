"""Bodies before they are read, and JSON ones as they are: small, UTF-8, and only what RFC 8259 knows."""

from __future__ import annotations

import json
import math
from email.message import Message
from typing import Any, NoReturn

from fastapi import Request

from api.problems import Problem

MAX_JSON_BYTES = 1 << 20


def declared_bytes(request: Request) -> int | None:
    """What `Content-Length` says; None where the body comes in chunks."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdigit() else None


def require_json(request: Request, optional: bool = False) -> None:
    """Refuse a body that does not say it is JSON: a form or a plain text is a caller's mistake, told as such."""
    if optional and not declared_bytes(request) and "transfer-encoding" not in request.headers:
        return
    message = Message()
    message["content-type"] = request.headers.get("content-type", "text/plain")
    subtype = message.get_content_subtype()
    if message.get_content_maintype() != "application" or not (subtype == "json" or subtype.endswith("+json")):
        raise Problem(
            "unsupported_media_type", "send JSON, with Content-Type: application/json", param="header:content-type"
        )


class JsonRequest(Request):
    """The request as FastAPI reads it, with its two reading methods made strict."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            if (declared_bytes(self) or 0) > MAX_JSON_BYTES:
                raise _too_large()
            received = bytearray()
            async for chunk in self.stream():
                received += chunk
                if len(received) > MAX_JSON_BYTES:
                    raise _too_large()
            self._body = bytes(received)
        return self._body

    async def json(self) -> Any:
        try:
            text = (await self.body()).decode()
            return json.loads(text, parse_constant=_refuse, parse_float=_finite)
        except RecursionError:
            raise Problem("invalid_json", "the body is nested too deeply", param="") from None
        except ValueError as error:
            raise Problem("invalid_json", f"the body is not JSON: {error}", param="") from None


def _too_large() -> Problem:
    return Problem("too_large", f"a JSON body may have {MAX_JSON_BYTES} bytes, this one has more", param="")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    """`1e999` is JSON, but no number that we could store or send back. And 5.0 is an integer in JSON Schema."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is out of range")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
