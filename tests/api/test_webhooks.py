"""Webhooks over HTTP: registered, changed, tried, and what was sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from api.app import create_app
from store import deliveries, webhooks
from store.database import Database
from store.deliveries import Outcome
from store.settings import Settings
from store.tables import Webhook

Refused = Callable[..., dict[str, Any]]
Posted = Callable[..., dict[str, Any]]
URL = "https://example.com/hook"


@pytest.fixture
def webhook(client: TestClient) -> dict[str, Any]:
    response = client.post("/v1/webhooks", json={"url": URL, "events": ["job.queued", "job.canceled"]})
    assert response.status_code == 201
    document: dict[str, Any] = response.json()
    assert response.headers["location"] == path(document)
    return document


def path(webhook: dict[str, Any], *more: str) -> str:
    return "/".join(["/v1/webhooks", webhook["id"], *more])


def test_its_secret_is_shown_once(client: TestClient, webhook: dict[str, Any]) -> None:
    secret = webhook.pop("secret")
    assert secret.startswith("whsec_")
    assert webhook["id"].startswith("wh_")
    assert webhook["events"] == ["job.queued", "job.canceled"]
    assert client.get(path(webhook)).json() == webhook
    assert client.get("/v1/webhooks").json()["data"] == [webhook]
    rotated = client.post(path(webhook, "rotate")).json()
    assert rotated.pop("secret") not in (None, secret)
    assert datetime.fromisoformat(rotated["rotated_at"]) > datetime.now(UTC) - timedelta(minutes=1)
    assert client.get(path(webhook)).json() == rotated == {**webhook, "rotated_at": rotated["rotated_at"]}


def test_change_and_delete(client: TestClient, webhook: dict[str, Any], database: Database, refused: Refused) -> None:
    del webhook["secret"]
    with database.transaction() as session:
        session.execute(update(Webhook).values(failing_since=1.0, disabled_reason="it answered 410 Gone"))
    held = client.patch(path(webhook), json={}).json()
    assert held["disabled_reason"] == "it answered 410 Gone"
    for given, shown in (
        ({"enabled": False}, {"enabled": False}),
        ({"url": "https://EXAMPLE.com", "events": ["*"]}, {"url": "https://example.com/", "events": ["*"]}),
        ({"description": "mine", "enabled": None}, {"description": "mine"}),
    ):
        webhook |= shown
        assert client.patch(path(webhook), json=given).json() == webhook
        assert client.get(path(webhook)).json() == webhook
    assert client.delete(path(webhook)).status_code == 204
    refused(client.delete(path(webhook)), 404, "not_found")


def test_what_is_refused(
    client: TestClient, refused: Refused, webhook: dict[str, Any], subtests: pytest.Subtests
) -> None:
    for changes, param in (
        ({"url": "ftp://example.com"}, "/url"),
        ({"url": "http://example.com"}, "/url"),
        ({"url": "https://user:secret@example.com"}, "/url"),
        ({"url": "https://example.com/#here"}, "/url"),
        ({"url": "https://"}, "/url"),
        ({"url": "https://example.com/" + "\u00e9" * 500}, "/url"),
        ({"url": "https://localhost"}, "/url"),
        ({"url": "https://127.1"}, "/url"),
        ({"url": "https://169.254.169.254/latest"}, "/url"),
        ({"url": "https://[::ffff:10.0.0.1]"}, "/url"),
        ({"events": []}, "/events"),
        ({"events": ["job.exploded"]}, "/events/0"),
        ({"description": "\0"}, "/description"),
        ({"secret": "whsec_mine"}, "/secret"),
    ):
        with subtests.test(**changes):
            body = {"url": URL, "events": ["*"], **changes}
            refused(client.post("/v1/webhooks", json=body), 422, "invalid_request", param)
            refused(client.patch(path(webhook), json=changes), 422, "invalid_request", param)


def test_private_addresses_where_they_are_allowed(client: TestClient, settings: Settings, database: Database) -> None:
    allowing = settings.model_copy(update={"webhook_allow_private": True})
    with TestClient(create_app(allowing), headers=client.headers) as trusting:
        response = trusting.post("/v1/webhooks", json={"url": "http://10.0.0.1:8080/x", "events": ["*"]})
    assert response.json()["url"] == "http://10.0.0.1:8080/x"


def test_a_project_has_so_many(client: TestClient, refused: Refused) -> None:
    for _ in range(webhooks.MAX_WEBHOOKS):
        assert client.post("/v1/webhooks", json={"url": URL, "events": ["*"]}).status_code == 201
    refused(client.post("/v1/webhooks", json={"url": URL, "events": ["*"]}), 409, "too_many_webhooks")


def test_deliveries(
    client: TestClient, webhook: dict[str, Any], posted: Posted, database: Database, refused: Refused
) -> None:
    job = posted()
    client.post(f"/v1/jobs/{job['id']}/cancel")
    ping = client.post(path(webhook, "ping")).json()
    with database.transaction() as session:
        claimed = deliveries.claim(session, ())
        assert claimed is not None
        deliveries.settle(session, claimed, Outcome(503, 12, "it answered 503"))
    page = client.get(path(webhook, "deliveries"), params={"limit": 2}).json()
    rest = client.get(path(webhook, "deliveries"), params={"after": page["next_cursor"]}).json()
    assert not rest["has_more"]
    found = page["data"] + rest["data"]
    assert sorted(each["type"] for each in found) == ["job.canceled", "job.queued", "webhook.ping"]
    assert ping in found
    [tried] = [each for each in found if each["attempts"]]
    assert (tried["type"], tried["status"], tried["data"]["job"]) == ("job.queued", "pending", job["id"])
    [attempt] = tried["attempts"]
    assert (attempt["status_code"], attempt["milliseconds"], attempt["error"]) == (503, 12, "it answered 503")
    assert tried["next_attempt_at"] > attempt["at"]

    again = client.post(path(webhook, "deliveries", tried["id"], "redeliver")).json()
    assert again["next_attempt_at"] < tried["next_attempt_at"]
    assert again | {"next_attempt_at": None} == tried | {"next_attempt_at": None}
    client.patch(path(webhook), json={"enabled": False})
    refused(client.post(path(webhook, "ping")), 409, "webhook_disabled")
    refused(client.post(path(webhook, "deliveries", tried["id"], "redeliver")), 409, "webhook_disabled")
