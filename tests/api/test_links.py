"""Links that need no key: one artifact each, for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from api.links import make_token
from store import retention
from store.settings import Settings
from store.tables import Job

Refused = Callable[..., dict[str, Any]]


@pytest.fixture
def artifact(client: TestClient, job_id: str) -> dict[str, Any]:
    """With the content `model 0`."""
    artifact: dict[str, Any] = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"][0]
    return artifact


@pytest.fixture
def stranger(client: TestClient, artifact: dict[str, Any]) -> TestClient:
    """Who has no key. (The rows were made with one.)"""
    del client.headers["Authorization"]
    return client


def link_to(client: TestClient, artifact: dict[str, Any], **body: Any) -> dict[str, Any]:
    response = client.post(f"/v1/artifacts/{artifact['id']}/links", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    link: dict[str, Any] = response.json()
    return link


def test_a_link_opens_its_artifact_without_a_key(client: TestClient, artifact: dict[str, Any]) -> None:
    before = time.time()
    links = [link_to(client, artifact), client.post(f"/v1/artifacts/{artifact['id']}/links").json()]
    hour = link_to(client, artifact, expires_in_seconds=3600)
    for link, seconds in [*((link, 300) for link in links), (hour, 3600)]:
        assert (link["object"], link["artifact"]) == ("link", artifact["id"])
        assert before + seconds - 1 <= datetime.fromisoformat(link["expires_at"]).timestamp() <= time.time() + seconds
    del client.headers["Authorization"]
    url = links[0]["url"]
    assert url.startswith("http://testserver/links?token=")
    whole, head = client.get(url), client.head(url)
    assert (whole.status_code, whole.content, head.status_code, head.content) == (200, b"model 0", 200, b"")
    assert whole.headers["etag"] == f'"sha256:{artifact["sha256"]}"'
    assert whole.headers["content-disposition"] == 'attachment; filename="model.safetensors"'
    assert whole.headers["cache-control"] == "private, no-store"
    part = client.get(url, headers={"Range": "bytes=0-4"})
    assert (part.status_code, part.content) == (206, b"model")
    assert client.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304


def test_limits(client: TestClient, artifact: dict[str, Any], refused: Refused) -> None:
    for field, seconds in (("expires_in_seconds", 0), ("expires_in_seconds", 3601), ("expires_in", 5)):
        response = client.post(f"/v1/artifacts/{artifact['id']}/links", json={field: seconds})
        refused(response, 422, "invalid_request", f"/{field}")
    form = client.post(f"/v1/artifacts/{artifact['id']}/links", data={"expires_in_seconds": "5"})
    refused(form, 415, "unsupported_media_type", "header:content-type")


def test_it_dies_with_its_time(
    stranger: TestClient, artifact: dict[str, Any], settings: Settings, refused: Refused
) -> None:
    alive = make_token(settings, artifact["id"], time.time() + 60)
    assert stranger.get(f"/links?token={alive}").status_code == 200
    expired = make_token(settings, artifact["id"], time.time() - 0.001)
    refused(stranger.get(f"/links?token={expired}"), 410, "link_expired", "query:token")


def test_what_was_not_made_here_opens_nothing(
    stranger: TestClient, artifact: dict[str, Any], settings: Settings, refused: Refused
) -> None:
    soon = time.time() + 60
    good = make_token(settings, artifact["id"], soon)
    payload, _, signature = good.rpartition(".")
    of_another, _, _ = make_token(settings, "art_0", soon).rpartition(".")
    elsewhere = settings.model_copy(update={"secret_key": SecretStr("another service's secret, quite long")})
    changed = chr(ord(payload[0]) ^ 1) + payload[1:]
    for token in (
        f"{of_another}.{signature}",  # bound to its artifact
        f"{changed}.{signature}",
        f"{payload}.{signature[:-2]}",
        payload,
        f"{payload}.",
        make_token(elsewhere, artifact["id"], soon),
        artifact["id"],
        "." * 50,
        "%00%ff",
        "x" * 5000,
    ):
        refused(stranger.get(f"/links?token={token}"), 403, "invalid_link", "query:token")
    refused(stranger.get("/links"), 422, "invalid_request", "query:token")
    assert stranger.get(f"/links?token={good}").content == b"model 0"


def test_it_dies_with_the_artifact(
    client: TestClient, job_id: str, artifact: dict[str, Any], refused: Refused, bench: Any
) -> None:
    url = link_to(client, artifact)["url"]
    with bench.database.transaction() as session:
        retention.drop(session, session.get_one(Job, job_id), None, "expired")
    refused(client.get(url), 404, "not_found")
    refused(client.post(f"/v1/artifacts/{artifact['id']}/links"), 404, "not_found")
