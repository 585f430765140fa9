"""What Prometheus scrapes. It sends a key as everybody does: what the service does is not for the whole network."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from api import auth
from api.auth import OpsRoute
from api.metrics import Scrape
from api.problems import documented
from api.services import Here

router = APIRouter(tags=["operations"], route_class=OpsRoute, dependencies=[auth.DOCUMENTED])


@router.get(
    "/metrics",
    response_class=Response,
    responses=documented("unauthorized", "insufficient_scope", "rate_limited", "internal_error", "unavailable")
    | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format"}},
)
def get_metrics(request: Request, services: Here) -> Response:
    """Of the whole service: queues, workers, attempts, rounds, with no ids. Of this API process: its HTTP requests."""
    scrape = Scrape(services.database, services.settings.heartbeat_seconds, request.app.state.metrics)
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(scrape), media_type=media_type)
