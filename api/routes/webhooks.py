"""Webhooks: where a project hears of its jobs, and what was sent there."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, TypeAdapter, ValidationError

from api.auth import KeyedRoute, ProjectId
from api.idempotency import ShownOnce
from api.pages import After, Limit, Page, RowId, found, missing
from api.problems import EVERYWHERE, Problem, documented
from api.services import Here, Services
from store import deliveries, listing, webhooks
from store.addresses import is_private_literal
from store.settings import Settings
from store.tables import Delivery, Webhook
from store.webhooks import EventType

router = APIRouter(tags=["webhooks"], route_class=KeyedRoute)

MAX_URL_CHARACTERS = 2000
_HTTP = TypeAdapter(HttpUrl)


def _http_url(given: str) -> str:
    """As the standard writes it: lower case, punycode, percent signs."""
    try:
        url = _HTTP.validate_python(given)
    except ValidationError:
        raise ValueError("it is no URL; use https://host/path") from None
    if url.username or url.password or url.fragment is not None:
        raise ValueError("it may have neither user, password nor fragment; the signature says who calls")
    if len(str(url)) > MAX_URL_CHARACTERS:
        raise ValueError(f"it may have {MAX_URL_CHARACTERS} characters")
    return str(url)


Url = Annotated[
    str,
    Field(
        max_length=MAX_URL_CHARACTERS,
        json_schema_extra={"format": "uri", "pattern": "^https?://"},
        description="https, a public address",
    ),
    AfterValidator(_http_url),
]
Events = Annotated[
    list[EventType | Literal["*"]], Field(min_length=1, max_length=20, description="types; `*` stands for all")
]
Description = Annotated[str, Field(max_length=400, pattern=r"^[^\x00]*$")]


class WebhookRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    url: Url
    events: Events
    description: Description = ""
    enabled: bool = True


class WebhookChange(BaseModel):
    """What is left out (or null) stays as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: bool | None = None


class WebhookDocument(BaseModel):
    id: str
    object: Literal["webhook"] = "webhook"
    url: str
    events: list[str]
    description: str
    enabled: bool
    disabled_reason: str | None = Field(description="why the service disabled it; any change by PATCH clears it")
    failing_since: datetime | None = Field(description="every attempt since then failed")
    rotated_at: datetime | None = Field(description="when the secret was last replaced")
    created_at: datetime


class WebhookWithSecret(WebhookDocument):
    secret: ShownOnce = Field(description="`whsec_...`, shown this once; the key of the signatures")


class DeliveryAttempt(BaseModel):
    at: datetime
    status_code: int | None = Field(description="null: there was no answer")
    milliseconds: int
    error: str | None = Field(description="null: it was taken in")


class DeliveryDocument(BaseModel):
    id: str = Field(description="the header `webhook-id`, the same at every attempt")
    object: Literal["delivery"] = "delivery"
    webhook: str
    type: str
    data: dict[str, Any] = Field(description="of the message")
    status: Literal["pending", "delivered", "failed"]
    attempts: list[DeliveryAttempt] = Field(description="the latest 20, oldest first")
    next_attempt_at: datetime | None
    created_at: datetime


@router.post(
    "/webhooks",
    status_code=201,
    responses=documented(
        *EVERYWHERE, "invalid_json", "too_large", "unsupported_media_type", "too_many_webhooks", "insufficient_storage"
    ),
)
def create_webhook(
    given: WebhookRequest, response: Response, services: Here, project_id: ProjectId
) -> WebhookWithSecret:
    """Messages follow the Standard Webhooks specification. The secret is shown in this answer and never again."""
    _refuse_private(given.url, services.settings)
    try:
        with services.database.transaction() as session:
            row = webhooks.add(session, project_id, given.url, given.events, given.description, given.enabled)
    except webhooks.TooMany:
        limit = webhooks.MAX_WEBHOOKS
        raise Problem("too_many_webhooks", f"a project may have {limit} webhooks; delete one") from None
    response.headers["Location"] = f"/v1/webhooks/{row.id}"
    return _with_secret(row, services)


def _refuse_private(url: str, settings: Settings) -> None:
    """Early, so that it is told; what counts is done at every connection (`worker.outgoing`)."""
    if settings.webhook_allow_private:
        return
    parsed = _HTTP.validate_python(url)
    if parsed.scheme != "https":
        raise Problem("invalid_request", "use https://: messages do not go in the clear", param="/url")
    if is_private_literal(parsed.host or ""):
        raise Problem("invalid_request", f"{parsed.host} is no public address; use one that is", param="/url")


@router.get("/webhooks")
def list_webhooks(
    services: Here, project_id: ProjectId, limit: Limit = 20, after: After = None
) -> Page[WebhookDocument]:
    with services.database.reading() as session:
        rows, has_more = listing.page(session, Webhook, project_id, after, limit)
    data = [WebhookDocument(**_fields(row)) for row in rows]
    return Page(data=data, has_more=has_more, next_cursor=rows[-1].id if has_more else None)


@router.get("/webhooks/{webhook_id}", responses=documented(*EVERYWHERE, "not_found"))
def get_webhook(services: Here, project_id: ProjectId, webhook_id: RowId) -> WebhookDocument:
    with services.database.reading() as session:
        return WebhookDocument(**_fields(found(session, Webhook, project_id, webhook_id)))


@router.patch(
    "/webhooks/{webhook_id}",
    responses=documented(*EVERYWHERE, "not_found", "invalid_json", "too_large", "unsupported_media_type"),
)
def change_webhook(given: WebhookChange, services: Here, project_id: ProjectId, webhook_id: RowId) -> WebhookDocument:
    """`enabled: true` after the service disabled it: it is tried afresh. While it is disabled no message is made for
    it, and those that wait are given up when they are due."""
    values = given.model_dump(exclude_none=True)
    if given.url is not None:
        _refuse_private(given.url, services.settings)
    if given.events is not None:
        values["events"] = webhooks.joined(given.events)
    with services.database.transaction() as session:
        row = webhooks.change(session, project_id, webhook_id, **values)
    return WebhookDocument(**_fields(_there(row, webhook_id)))


@router.delete("/webhooks/{webhook_id}", status_code=204, responses=documented(*EVERYWHERE, "not_found"))
def delete_webhook(services: Here, project_id: ProjectId, webhook_id: RowId) -> None:
    """With its deliveries; what waits is not sent."""
    with services.database.transaction() as session:
        if not webhooks.remove(session, project_id, webhook_id):
            raise missing(webhook_id)


@router.post("/webhooks/{webhook_id}/rotate", responses=documented(*EVERYWHERE, "not_found"))
def rotate_secret(services: Here, project_id: ProjectId, webhook_id: RowId) -> WebhookWithSecret:
    """A new secret, shown this once. For 24 hours messages are signed with the one before, too. Twice in a row: the
    first of the three is of no use any more, at once."""
    with services.database.transaction() as session:
        row = webhooks.rotate(session, project_id, webhook_id)
    return _with_secret(_there(row, webhook_id), services)


@router.post("/webhooks/{webhook_id}/ping", responses=documented(*EVERYWHERE, "not_found", "webhook_disabled"))
def ping_webhook(services: Here, project_id: ProjectId, webhook_id: RowId) -> DeliveryDocument:
    """Send a message of type `webhook.ping`; its delivery tells how that went."""
    with services.database.transaction() as session:
        row = webhooks.ping(session, _enabled(found(session, Webhook, project_id, webhook_id)))
        return _delivery(row)


@router.get("/webhooks/{webhook_id}/deliveries", responses=documented(*EVERYWHERE, "not_found"))
def list_deliveries(
    services: Here, project_id: ProjectId, webhook_id: RowId, limit: Limit = 20, after: After = None
) -> Page[DeliveryDocument]:
    """Newest first; kept for 30 days."""
    with services.database.reading() as session:
        found(session, Webhook, project_id, webhook_id)
        rows, has_more = deliveries.page(session, webhook_id, after, limit)
    data = [_delivery(row) for row in rows]
    return Page(data=data, has_more=has_more, next_cursor=rows[-1].id if has_more else None)


@router.post(
    "/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
    responses=documented(*EVERYWHERE, "not_found", "webhook_disabled"),
)
def redeliver(services: Here, project_id: ProjectId, webhook_id: RowId, delivery_id: RowId) -> DeliveryDocument:
    """Send the same message now, whatever became of it; where that fails, by the schedule of retries from its start."""
    with services.database.transaction() as session:
        _enabled(found(session, Webhook, project_id, webhook_id))
        row = deliveries.redeliver(session, webhook_id, delivery_id)
        if row is None:
            raise missing(delivery_id)
        return _delivery(row)


def _enabled(row: Webhook) -> Webhook:
    if not row.enabled:
        raise Problem("webhook_disabled", f"{row.id} is disabled; PATCH it with enabled: true")
    return row


def _there(row: Webhook | None, webhook_id: str) -> Webhook:
    if row is None:
        raise missing(webhook_id)
    return row


def _with_secret(row: Webhook, services: Services) -> WebhookWithSecret:
    return WebhookWithSecret(**_fields(row), secret=webhooks.secret_of(services.settings.secret(), row))


def _fields(row: Webhook) -> dict[str, Any]:
    shown = (
        *("id", "url", "description", "enabled", "disabled_reason"),
        *("failing_since", "rotated_at", "created_at"),
    )
    return {name: getattr(row, name) for name in shown} | {"events": row.events.split()}


def _delivery(row: Delivery) -> DeliveryDocument:
    return DeliveryDocument(
        id=row.id,
        webhook=row.webhook_id,
        type=row.type,
        data=row.data,
        status=row.status,
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at,
        created_at=row.created_at,
    )
