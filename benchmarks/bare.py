"""What the API's requests are held against: Starlette, one route, a constant body. uvicorn runs it by `made`."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def made() -> Starlette:
    body = b"x" * int(os.environ["BENCH_BODY_BYTES"])

    async def constant(_request: Request) -> Response:
        return Response(body, media_type="application/json")

    return Starlette(routes=[Route("/v1/jobs/{job_id}", constant), Route("/healthz", constant)])
