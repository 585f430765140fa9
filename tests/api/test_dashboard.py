"""The dashboard's sessions and pages over HTTP; a browser's part is in end_to_end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from api import sessions
from store.database import Database
from store.keys import add_key
from store.settings import Settings
from store.tables import Dataset, Job, Model

Posted = Callable[..., dict[str, Any]]
Refused = Callable[..., dict[str, Any]]
HERE = {"Origin": "http://testserver"}
HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"


@pytest.fixture
def key_of(database: Database, project: str) -> Callable[..., tuple[str, str]]:
    """(its id, the key), with these scopes."""

    def make(*scopes: str, **columns: Any) -> tuple[str, str]:
        with database.transaction() as session:
            row, key = add_key(session, project_id=project, name="k", scopes=scopes, **columns)
            return row.id, key

    return make


def log_in(client: TestClient, key: str, leads_to: str = "/", headers: dict[str, str] = HERE) -> Any:
    client.headers.pop("Authorization", None)
    return client.post("/login", data={"key": key, "next": leads_to}, headers=headers, follow_redirects=False)


@pytest.fixture
def browser(anonymous: TestClient, settings: Settings) -> TestClient:
    """With the cookie of a session that the first key opened."""
    assert settings.api_key is not None
    assert log_in(anonymous, settings.api_key.get_secret_value()).status_code == 303
    return anonymous


def test_without_a_session_there_is_the_login(anonymous: TestClient, subtests: pytest.Subtests) -> None:
    first = anonymous.get("/", follow_redirects=False)
    assert (first.status_code, "Log in" in first.text) == (200, True)
    for path in ("/jobs", "/jobs/new", "/jobs/job_0", "/models", "/models/mdl_0", "/datasets", "/compare?job=job_0"):
        with subtests.test(path=path):
            answer = anonymous.get(path, follow_redirects=False)
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/login")
            assert path.replace("?job=", "%3Fjob%3D").replace("/", "%2F") in answer.headers["location"]


def test_every_page_says_what_it_may_load(browser: TestClient, posted: Posted, subtests: pytest.Subtests) -> None:
    job = posted_by_key(browser, posted)
    pages = ["/", "/login", "/jobs", "/jobs/new", f"/jobs/{job['id']}", "/models", f"/models/{job['model']}"]
    for path in [*pages, "/datasets", f"/datasets/{job['dataset']}", f"/compare?job={job['id']}", "/jobs/job_0"]:
        with subtests.test(path=path):
            page = browser.get(path)
            assert page.status_code == (404 if path == "/jobs/job_0" else 200), page.text
            policy = page.headers["content-security-policy"]
            assert policy.startswith("default-src 'none';")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert page.headers["cache-control"] == "no-store"
            assert not re.search(r"<style|<script>| style=| on\w+=|javascript:|https?://", page.text)
            for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text):
                asset = browser.get(address)
                assert (asset.status_code, "immutable" in asset.headers["cache-control"]) == (200, True)


def posted_by_key(browser: TestClient, posted: Posted, **more: Any) -> dict[str, Any]:
    browser.headers["Authorization"] = "Bearer esp_a-key-for-tests-only"
    job = posted(**more)
    del browser.headers["Authorization"]
    return job


def test_the_cookie_is_the_browsers_alone(anonymous: TestClient, settings: Settings) -> None:
    assert settings.api_key is not None
    key = settings.api_key.get_secret_value()
    plain = log_in(anonymous, key).headers["set-cookie"].lower()
    assert plain.startswith("espalier=")
    assert all(part in plain for part in ("httponly", "samesite=strict", "path=/", "max-age=43200"))
    assert "secure" not in plain
    assert key not in plain
    anonymous.base_url = "https://testserver"
    encrypted = log_in(anonymous, key, headers={"Origin": "https://testserver"}).headers["set-cookie"]
    assert encrypted.startswith("__Host-espalier=")
    assert "secure" in encrypted.lower()


def test_a_session_does_what_its_key_may_and_never_administers(
    anonymous: TestClient, key_of: Callable[..., tuple[str, str]], posted: Posted, refused: Refused
) -> None:
    job = posted_by_key(anonymous, posted)
    page = f"/jobs/{job['id']}"
    log_in(anonymous, key_of("read")[1])
    assert anonymous.get("/v1/jobs").json()["data"][0]["id"] == job["id"]
    assert "data-post" not in anonymous.get(page).text
    assert "New job" not in anonymous.get("/").text
    assert "Workers and queues" not in anonymous.get("/").text
    assert anonymous.get("/jobs/new").status_code == 403
    refused(anonymous.post(f"/v1{page}/cancel", headers=HERE), 403, "insufficient_scope")
    log_in(anonymous, key_of("admin")[1])
    assert "data-post" in anonymous.get(page).text
    assert "Workers and queues" in anonymous.get("/").text
    refused(anonymous.get("/v1/keys"), 403, "insufficient_scope")
    refused(anonymous.post("/v1/keys", json={"name": "k", "scopes": ["read"]}, headers=HERE), 403, "insufficient_scope")
    log_in(anonymous, key_of("write")[1])
    assert anonymous.post("/logout", headers=HERE, follow_redirects=False).status_code == 303
    refused(anonymous.get("/v1/jobs"), 401, "unauthorized", "header:authorization")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://testserver:81"},
        {"Origin": "http://testserver.evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_another_sites_page_changes_nothing(
    browser: TestClient, posted: Posted, refused: Refused, headers: dict[str, str]
) -> None:
    job = posted_by_key(browser, posted)
    refused(browser.post(f"/v1/jobs/{job['id']}/cancel", headers=headers), 403, "cross_site", "header:origin")
    refused(browser.delete(f"/v1/jobs/{job['id']}", headers=headers), 403, "cross_site", "header:origin")
    refused(browser.post("/logout", headers=headers), 403, "cross_site", "header:origin")
    assert log_in(browser, "esp_a-key-for-tests-only", headers=headers).status_code == 403
    assert browser.get(f"/v1/jobs/{job['id']}").json()["status"] == "queued"
    same = {"Sec-Fetch-Site": "same-origin", "Origin": "http://inside:8000"}  # as behind a proxy
    assert browser.post(f"/v1/jobs/{job['id']}/cancel", headers=same).json()["status"] == "canceled"


def test_a_key_in_the_header_goes_before_the_cookie(browser: TestClient, refused: Refused) -> None:
    refused(
        browser.get("/v1/jobs", headers={"Authorization": "Bearer esp_wrong"}),
        401,
        "unauthorized",
        "header:authorization",
    )


def test_a_session_ends_with_its_key(
    anonymous: TestClient, client: TestClient, key_of: Callable[..., tuple[str, str]], database: Database
) -> None:
    key_id, key = key_of("read")
    log_in(anonymous, key)
    assert anonymous.get("/v1/jobs").status_code == 200
    headers = {"Authorization": "Bearer esp_a-key-for-tests-only"}
    assert anonymous.delete(f"/v1/keys/{key_id}", headers=headers).status_code == 204
    assert anonymous.get("/v1/jobs").status_code == 401
    assert anonymous.get("/jobs", follow_redirects=False).status_code == 303


def test_a_session_ends_by_itself_and_cannot_be_made(browser: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    good = browser.cookies["espalier"]
    named, _, signature = good.rpartition(".")
    other_bits = ("A" if signature[0] != "A" else "B") + signature[1:]  # the last letter holds bits that do not count
    for bad in (f"{named}.{other_bits}", f"x{good}", f"{named}.", f".{signature}", named, signature, "", "." * 5000):
        browser.cookies.clear()
        browser.cookies.set("espalier", bad)
        assert browser.get("/v1/jobs").status_code == 401, bad
    browser.cookies.clear()
    browser.cookies.set("espalier", good)
    assert browser.get("/v1/jobs").status_code == 200
    later = time.time() + sessions.SESSION_SECONDS + 1
    monkeypatch.setattr(sessions.time, "time", lambda: later)
    assert browser.get("/v1/jobs").status_code == 401


def test_a_login_leads_to_pages_of_the_dashboard_alone(anonymous: TestClient, subtests: pytest.Subtests) -> None:
    good = ["/", "/jobs", "/jobs/job_0?x=1", "/compare?job=job_1&job=job_2"]
    bad = ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "/jobs//evil", "/logout"]
    for asked in [*good, *bad, "/jobs\r\nX: y", "/v1/keys", ""]:
        with subtests.test(asked=asked):
            answer = log_in(anonymous, "esp_a-key-for-tests-only", asked)
            assert (answer.status_code, answer.headers["location"]) == (303, asked if asked in good else "/")
            anonymous.app.state.services.logins._own.storage.reset()  # type: ignore[attr-defined]


def test_keys_are_not_to_be_guessed(anonymous: TestClient, key_of: Callable[..., tuple[str, str]]) -> None:
    assert log_in(anonymous, key_of("write")[1]).status_code == 403, "what may not read sees no page"
    tried = [log_in(anonymous, f"esp_{number}") for number in range(25)]
    assert tried[0].status_code == 401
    assert "esp_0" not in tried[0].text
    assert (tried[-1].status_code, int(tried[-1].headers["retry-after"]) > 0) == (429, True)
    assert log_in(anonymous, "esp_a-key-for-tests-only").status_code == 429, "nor does a right one help"
    assert log_in(anonymous, "x" * 5000).status_code == 403


def test_what_others_wrote_is_text(
    browser: TestClient, posted: Posted, database: Database, bench: Any, subtests: pytest.Subtests
) -> None:
    job = posted_by_key(browser, posted, metadata={HOSTILE[:64]: HOSTILE})
    claimed = bench.claim()
    bench.store_round(claimed, 0, 0.9, 0.0, layers=[{"name": HOSTILE, "density": HOSTILE}], size_bytes=HOSTILE)
    with database.transaction() as session:
        session.get_one(Model, job["model"]).name = HOSTILE
        session.get_one(Dataset, job["dataset"]).name = HOSTILE
        session.get_one(Job, job["id"]).error = {"code": HOSTILE, "message": HOSTILE, "retryable": False}
    pages = ["/", "/jobs", "/jobs/new", f"/jobs/{job['id']}", "/models", f"/models/{job['model']}", "/datasets"]
    for path in [*pages, f"/datasets/{job['dataset']}", f"/compare?job={job['id']}"]:
        with subtests.test(path=path):
            page = browser.get(path)
            assert page.status_code == 200
            assert "&lt;img src=x onerror=alert(1)&gt;" in page.text
            assert "<img src=x" not in page.text
    asked = browser.get(f"/jobs?model={HOSTILE}")
    assert (asked.status_code, HOSTILE[:10] in asked.text) == (422, False)


def test_a_page_that_is_the_same_is_not_sent_again(browser: TestClient, posted: Posted) -> None:
    job = posted_by_key(browser, posted)
    first = browser.get(f"/jobs/{job['id']}")
    same = browser.get(f"/jobs/{job['id']}", headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    browser.post(f"/v1/jobs/{job['id']}/cancel", headers=HERE)
    assert browser.get(f"/jobs/{job['id']}", headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_another_projects_pages_are_none(anonymous: TestClient, posted: Posted, other: dict[str, str]) -> None:
    job = posted_by_key(anonymous, posted)
    log_in(anonymous, other["Authorization"].removeprefix("Bearer "))
    for path in (f"/jobs/{job['id']}", f"/models/{job['model']}", f"/datasets/{job['dataset']}"):
        assert anonymous.get(path).status_code == 404
    assert anonymous.get(f"/compare?job={job['id']}").status_code == 404
    assert job["id"] not in anonymous.get("/").text + anonymous.get("/jobs").text


def test_no_other_file_is_to_be_had(anonymous: TestClient) -> None:
    for name in ("..%2frendering.py", "%2e%2e/app.py", "nothing.js", "app.css%00"):
        assert anonymous.get(f"/static/{name}").status_code == 404
