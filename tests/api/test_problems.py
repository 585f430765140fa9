"""Every error, of whatever origin, is a problem document that says what to do."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from api.problems import PROBLEMS, Code
from store import jobs
from store.database import Database
from store.settings import Settings
from store.tables import Base

Refused = Callable[..., dict[str, Any]]


def test_a_wrong_key_opens_nothing(anonymous: TestClient, refused: Refused, subtests: pytest.Subtests) -> None:
    for header in ["Bearer esp_wrong", "Bearer ", "Bearer", "Basic abc", "esp_wrong", "Bearer ü"]:
        with subtests.test(header=header):
            response = anonymous.get("/v1/jobs", headers={"Authorization": header.encode("latin-1")})
            refused(response, 401, "unauthorized", "header:authorization")


def test_an_expired_key_opens_nothing(client: TestClient, database: Database, refused: Refused) -> None:
    assert client.get("/v1/jobs").status_code == 200
    with database.transaction() as session:
        session.execute(text("update api_keys set expires_at = 1"))
    refused(client.get("/v1/jobs"), 401, "unauthorized", "header:authorization")


def test_the_key_is_nowhere_in_the_data(
    client: TestClient, settings: Settings, database: Database, dialect: str
) -> None:
    client.post("/v1/models?format=architecture&architecture=lenet5")
    assert settings.api_key is not None
    secret = settings.api_key.get_secret_value().encode()
    files = [path for path in settings.data_dir.rglob("*") if path.is_file()]
    assert (dialect == "sqlite") == any(path.name == "espalier.db" for path in files)
    assert not [path for path in files if secret in path.read_bytes()]
    with database.reading() as session:
        rows = [row for table in Base.metadata.sorted_tables for row in session.execute(table.select())]
    assert len(rows) >= 3
    assert settings.api_key.get_secret_value() not in str(rows)


def test_unknown_places(client: TestClient, refused: Refused, subtests: pytest.Subtests) -> None:
    for path in ["/nope", "/v1/nope", "/v1/jobs/", "/docs/assets/nope.js", "/v1", "/v1/jobs/a/b/c"]:
        with subtests.test(path=path):
            refused(client.get(path), 404, "not_found")


def test_other_methods(client: TestClient, refused: Refused) -> None:
    response = client.put("/v1/models")
    refused(response, 405, "method_not_allowed")
    assert response.headers["allow"]


def test_what_cannot_be_an_id_is_not_found(client: TestClient, refused: Refused, subtests: pytest.Subtests) -> None:
    for path in ["/v1/jobs/%00", "/v1/jobs/job_%F0%9F%8E%84", "/v1/models/x", "/v1/artifacts/JOB_1/content"]:
        with subtests.test(path=path):
            refused(client.get(path), 404, "not_found")


def test_wrong_parameters(client: TestClient, refused: Refused, subtests: pytest.Subtests) -> None:
    for query, param in [
        ("limit=0", "query:limit"),
        ("limit=101", "query:limit"),
        ("limit=x", "query:limit"),
        ("status=odd", "query:status"),
        ("after=%00", "query:after"),
        ("model=%00", "query:model"),
    ]:
        with subtests.test(query=query, param=param):
            refused(client.get(f"/v1/jobs?{query}"), 422, "invalid_request", param)


JSON = {"Content-Type": "application/json"}


def test_what_is_not_json(client: TestClient, refused: Refused, subtests: pytest.Subtests) -> None:
    for content in [
        b"{",
        b"\xff",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 200_000,
        b'{"a":' * 150_000,
        "{}".encode("utf-16"),
    ]:
        with subtests.test(content=content):
            refused(client.post("/v1/jobs", content=content, headers=JSON), 400, "invalid_json", "")


def test_json_that_is_no_object(client: TestClient, refused: Refused, subtests: pytest.Subtests) -> None:
    for content in [b"[]", b"null", b"1", b'"x"', b""]:
        with subtests.test(content=content):
            refused(client.post("/v1/jobs", content=content, headers=JSON), 422, "invalid_request", "")


def test_json_has_a_limit(client: TestClient, refused: Refused) -> None:
    content = json.dumps({"metadata": {"a": "x" * (1 << 20)}}).encode()
    refused(client.post("/v1/jobs", content=content, headers=JSON), 413, "too_large", "")

    def in_chunks() -> Iterator[bytes]:
        yield from (content[i : i + 1000] for i in range(0, len(content), 1000))

    refused(client.post("/v1/jobs", content=in_chunks(), headers=JSON), 413, "too_large", "")


def test_a_body_says_that_it_is_json(client: TestClient, refused: Refused, subtests: pytest.Subtests) -> None:
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "json", None]:
        with subtests.test(content_type=content_type):
            headers = {"Content-Type": content_type} if content_type else {}
            response = client.post("/v1/jobs", content=b"{}", headers=headers)
            refused(response, 415, "unsupported_media_type", "header:content-type")


def test_odd_characters_are_refused_and_told_back(
    client: TestClient, refused: Refused, body: dict[str, Any], subtests: pytest.Subtests
) -> None:
    for odd, param in [
        ({"metadata": {"a": "\ud800"}}, "/metadata/a"),
        ({"metadata": {"\ud800": "a"}}, "/metadata/\ufffd\ufffd\ufffd"),
        ({"\ud800": 1}, ""),
        ({"metadata": {"a": "\x00"}}, "/metadata/a"),
        ({"metadata": {"\x00": "a"}}, "/metadata/\x00"),
        ({"a/b~c": 1}, "/a~1b~0c"),
    ]:
        with subtests.test(odd=odd, param=param):
            content = json.dumps({**body, **odd}).encode()
            refused(client.post("/v1/jobs", content=content, headers=JSON), 422, "invalid_request", param)


def test_request_ids_are_echoed_where_they_are_sane(anonymous: TestClient) -> None:
    def request_id(given: bytes) -> str:
        return str(anonymous.get("/healthz", headers={"X-Request-Id": given}).headers["x-request-id"])

    assert request_id(b"run-7/step.2") == "run-7/step.2"
    for given in (b"a" * 129, b"a b", b"\xff", b"<script>"):
        assert request_id(given).startswith("req_")
    assert request_id(b"") != request_id(b"")


def test_a_failure_is_logged_and_leaks_nothing(
    client: TestClient, refused: Refused, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(jobs, "order", explode)
    with caplog.at_level(logging.ERROR):
        response = client.post("/v1/jobs/job_1/cancel")
    problem = refused(response, 500, "internal_error")
    assert "hunter2" not in response.text
    assert "RuntimeError" not in response.text
    assert problem["request_id"] in caplog.text
    assert "hunter2" in caplog.text


def test_a_database_that_is_away_is_503(client: TestClient, database: Database, refused: Refused) -> None:
    with database.transaction() as session:
        session.execute(text("alter table jobs rename to elsewhere"))
    response = client.get("/v1/jobs")
    assert refused(response, 503, "unavailable")["retryable"] is True
    assert response.headers["retry-after"] == "1"


def test_every_code_has_its_row() -> None:
    assert set(PROBLEMS) == set(Code.__args__)  # type: ignore[attr-defined]
