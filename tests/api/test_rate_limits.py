"""So many requests of a key, counted in the broker by all processes together; without it, by each on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from api.app import create_app
from store.settings import Settings

Refused = Callable[..., dict[str, Any]]
DEAD = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize("is_broker_there", [True, False])
def test_a_key_has_its_share(
    client: TestClient, settings: Settings, other: dict[str, str], refused: Refused, is_broker_there: bool
) -> None:
    update = {"rate_limit": "3/hour"} | ({} if is_broker_there else {"broker_url": DEAD})
    limited = settings.model_copy(update=update)
    with (
        TestClient(create_app(limited), headers=client.headers) as first,
        TestClient(create_app(limited), headers=client.headers) as second,
    ):
        for remaining in (2, 1):
            response = first.get("/v1/jobs")
            assert response.headers["ratelimit-policy"] == '"key";q=3;w=3600'
            assert response.headers["ratelimit"].startswith(f'"key";r={remaining};t=')
        response = second.get("/v1/jobs/job_none")  # what is refused counts, and is told the same
        assert response.status_code == 404
        assert response.headers["ratelimit"].startswith(f'"key";r={0 if is_broker_there else 2};t=')
        if not is_broker_there:
            first.get("/v1/jobs")
        response = first.get("/v1/jobs")
        assert refused(response, 429, "rate_limited")["retryable"] is True
        assert 1 <= int(response.headers["retry-after"]) <= 3600
        assert first.get("/v1/jobs", headers=other).status_code == 200, "each key has its own"
        assert first.get("/healthz").headers.get("ratelimit") is None
    assert "ratelimit" not in client.get("/v1/jobs").headers, "off where nobody set it"


def test_tokens_are_offered_so_often_by_one_address(anonymous: TestClient, refused: Refused) -> None:
    answers = [anonymous.post("/v1/auth/token", json={"token": "a.b.c"}) for _ in range(61)]
    refused(answers[59], 403, "token_refused", "/token")
    refused(answers[60], 429, "rate_limited")


def test_a_rate_is_one(tmp_path: Any) -> None:
    with pytest.raises(ValidationError):
        Settings(data_dir=tmp_path, rate_limit="often")
