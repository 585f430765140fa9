"""A CI's token for a short key: by a rule of the project, from its issuer, once; and every token that is not right."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from issuer import KEYS, RSA, Issuer, running_issuer, send
from joserfc import jwe, jwt
from joserfc.jwk import OctKey, RSAKey
from starlette.testclient import TestClient

from api import issuers
from api.app import create_app
from api.exchange import matches
from store.settings import Settings

Refused = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"oidc_addresses": "loopback"})


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture
def rule(client: TestClient, issuer: Issuer) -> dict[str, Any]:
    return add_rule(client, issuer)


def add_rule(
    client: TestClient, issuer: Issuer, headers: dict[str, str] | None = None, **changes: Any
) -> dict[str, Any]:
    body = {
        "name": "ci",
        "issuer": issuer.url,
        "audience": "espalier",
        "conditions": {"repository": "octo-org/network", "ref": "refs/heads/*"},
        "scopes": ["read", "write"],
        **changes,
    }
    response = client.post("/v1/trust_rules", json=body, headers=headers)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


def offer(client: TestClient, token: str, **more: Any) -> Any:
    return client.post("/v1/auth/token", json={"token": token, **more}, headers={"Authorization": ""})


def reasons(client: TestClient) -> list[str]:
    """Of refused tokens, newest first."""
    entries = client.get("/v1/audit_log?action=token.exchange&limit=100").json()["data"]
    return [entry["detail"]["reason"] for entry in entries if entry["outcome"] == "refused"]


def test_a_token_becomes_a_short_key(client: TestClient, issuer: Issuer, rule: dict[str, Any]) -> None:
    for algorithm in KEYS:
        response = offer(client, issuer.token(algorithm))
        assert response.status_code == 200, (algorithm, response.text, reasons(client))
        given = response.json()
        assert (given["token_type"], given["expires_in"], given["scope"]) == ("Bearer", 900, "read write")
        assert response.headers["cache-control"] == "no-store"
        headers = {"Authorization": f"Bearer {given['access_token']}"}
        assert client.get("/v1/jobs", headers=headers).status_code == 200
        assert client.get("/v1/keys", headers=headers).status_code == 403
    key = client.get(f"/v1/keys/{given['key']}").json()
    assert 0 < datetime.fromisoformat(key["expires_at"]).timestamp() - time.time() <= 901
    assert (key["trust_rule"], key["name"]) == (rule["id"], "ci: repo:octo-org/network:ref:refs/heads/main")
    longer = client.post(f"/v1/keys/{key['id']}/rotate", json={})
    assert longer.status_code == 422, "nor does it get longer by rotation"
    entry = client.get("/v1/audit_log?action=token.exchange&limit=1").json()["data"][0]
    assert (entry["key"], entry["target"], entry["outcome"]) == (key["id"], rule["id"], "done")
    assert issuer.asked == {"/.well-known/openid-configuration": 1, "/keys": 1}, "its keys are kept"


def part(document: Any) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def forged(issuer: Issuer, **header: Any) -> str:
    """Signed by a stranger's key, in the name of the issuer's."""
    return issuer.token(key=STRANGER, header={"kid": "rsa", **header})


STRANGER = RSAKey.generate_key(2048, {"kid": "stranger"})


def test_every_bad_token_is_refused_and_the_log_says_why(
    client: TestClient, issuer: Issuer, rule: dict[str, Any], refused: Refused, subtests: pytest.Subtests
) -> None:
    at = int(time.time())
    good = issuer.token()
    head, _, signature = good.split(".")
    secret = OctKey.import_key(RSA.as_pem(private=False).decode().replace("-----", "-"))
    with running_issuer() as stranger:
        stranger.keys = [{**STRANGER.as_dict(private=False), "kid": "rsa"}]
        bad = {
            "another audience": (issuer.token(aud="elsewhere"), "aud"),
            "no audience": (issuer.token(aud=None), "aud"),
            "expired": (issuer.token(exp=at - 61), "expired_token"),
            "no expiry": (issuer.token(exp=None), "missing_claim"),
            "an endless expiry": (issuer.token(exp=math.inf), "invalid_claim"),
            "an expiry that is no number": (issuer.token(exp=math.nan), "invalid_claim"),
            "an expiry of text": (issuer.token(exp="2099"), "invalid_claim"),
            "too long a life": (issuer.token(exp=at + 90_000), "it lives"),
            "not yet": (issuer.token(nbf=at + 120), "invalid_claim"),
            "issued in the future": (issuer.token(iat=at + 120), "invalid_claim"),
            "issued at no time": (issuer.token(iat=None), "missing_claim"),
            "another repository": (issuer.token(repository="octo-org/network-2"), "repository"),
            "no repository": (issuer.token(repository=None), "repository"),
            "a list of repositories": (issuer.token(repository=["octo-org/network"]), "repository"),
            "a tag": (issuer.token(ref="refs/tags/v1"), "ref"),
            "unsigned": (f"{part({'alg': 'none', 'kid': 'rsa'})}.{part(issuer.claims())}.", "unsupported_algorithm"),
            "the public key as a secret": (
                jwt.encode({"alg": "HS256", "kid": "rsa"}, issuer.claims(), secret, ["HS256"]),
                "unsupported_algorithm",
            ),
            "a stranger's signature": (forged(issuer), "bad_signature"),
            "a stranger's key by jku": (forged(issuer, jku=f"{stranger.url}/keys"), "bad_signature"),
            "a stranger's key inside": (forged(issuer, jwk=STRANGER.as_dict(private=False)), "bad_signature"),
            "an unknown key": (issuer.token(key=STRANGER), "invalid_key_id"),
            "a key id that is no text": (f"{part({'alg': 'RS256', 'kid': {}})}.{part(issuer.claims())}.AAAA", ""),
            "another kind of key": (issuer.token(header={"kid": "ec"}), ""),
            "changed claims": (f"{head}.{part(issuer.claims())}.{signature}", "bad_signature"),
            "no signature": (f"{head}.{good.split('.')[1]}.", "bad_signature"),
            "a header that must be understood": (
                f"{part({'alg': 'RS256', 'kid': 'rsa', 'crit': ['odd'], 'odd': 1})}.{part(issuer.claims())}.AAAA",
                "",
            ),
            "deep claims": (f"{head}.{part('[' * 6000)}.{signature}", None),
            "claims that are a list": (f"{head}.{part([1])}.{signature}", None),
            "no token": ("abc", None),
            "encrypted": (
                jwe.encrypt_compact({"alg": "RSA-OAEP", "enc": "A256GCM"}, b"{}", RSA, ["RSA-OAEP", "A256GCM"]),
                None,
            ),
            "another issuer": (issuer.token(iss=stranger.url), None),
            "an issuer that is a list": (issuer.token(iss=[issuer.url]), None),
            "an issuer with a slash more": (issuer.token(iss=f"{issuer.url}/"), None),
        }
        for what, (token, why) in bad.items():
            with subtests.test(what=what):
                before = len(reasons(client))
                refused(offer(client, token), 403, "token_refused", "/token")
                told = reasons(client)
                assert len(told) == before + (why is not None), told[0]
                assert why is None or told[0].startswith(why)
        assert not stranger.asked
    assert offer(client, good).status_code == 200, "the very one that the bad ones were made of"
    assert good not in client.get("/v1/audit_log?limit=100").text


def test_a_token_is_exchanged_once(client: TestClient, issuer: Issuer, rule: dict[str, Any], refused: Refused) -> None:
    token, nameless = issuer.token(jti="run-1"), issuer.token(jti=None)
    assert offer(client, token).status_code == offer(client, nameless).status_code == 200
    for again in (token, issuer.token("ES256", jti="run-1"), nameless):
        refused(offer(client, again), 403, "token_refused", "/token")
        assert reasons(client)[0] == "jti: it was exchanged before"
    at_once = issuer.token()
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: offer(client, at_once).status_code, range(4)))
    assert sorted(answers) == [200, 403, 403, 403]


def test_a_new_key_is_fetched_and_invented_ones_are_not_asked_for_again(
    client: TestClient, issuer: Issuer, rule: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert offer(client, issuer.token()).status_code == 200
    new = RSAKey.generate_key(2048, {"kid": "new"})
    issuer.keys.append(new.as_dict(private=False))
    assert offer(client, issuer.token(key=new)).status_code == 403, "a minute has not passed"
    for _ in range(3):
        assert offer(client, issuer.token(key=STRANGER)).status_code == 403
    assert issuer.asked["/keys"] == 1
    monkeypatch.setattr(issuers, "REFETCH_SECONDS", 0.0)
    assert offer(client, issuer.token(key=new)).status_code == 200
    assert issuer.asked["/keys"] == 2
    issuer.answers["/keys"] = lambda handler: handler.send_error(500)
    assert offer(client, issuer.token(key=STRANGER)).status_code == 403
    assert offer(client, issuer.token(key=new)).status_code == 200, "what is fresh serves while the issuer is away"
    monkeypatch.setattr(issuers, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(issuers, "RETRY_SECONDS", 0.0)
    assert offer(client, issuer.token(key=new)).status_code == 503, "and what is not does not"


def test_an_issuer_that_does_not_answer_as_it_should(
    client: TestClient,
    issuer: Issuer,
    rule: dict[str, Any],
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    monkeypatch.setattr(issuers, "RETRY_SECONDS", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    small = RSA.as_dict(private=False) | {"n": part("n" * 128)}

    def redirect(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"{issuer.url}/real")
        handler.end_headers()

    found = "/.well-known/openid-configuration"
    issuer.answers["/real"] = lambda handler: send(handler, {"keys": issuer.keys})
    for place, answer in [
        (found, {"issuer": f"{issuer.url}/", "jwks_uri": f"{issuer.url}/keys"}),
        (found, {"issuer": issuer.url, "jwks_uri": "file:///etc/passwd"}),
        (found, {"issuer": issuer.url, "jwks_uri": "http://127.0.0.1:99999/"}),
        (found, {"issuer": issuer.url, "jwks_uri": "http://169.254.169.254/"}),
        (found, {"issuer": issuer.url}),
        ("/keys", redirect),
        ("/keys", b"x" * (300 * 1024)),
        ("/keys", b"not JSON"),
        ("/keys", b"[" * 5000),
        ("/keys", []),
        ("/keys", {"keys": {}}),
        ("/keys", {"keys": [small, {"kty": "oct", "k": "AAAA"}, {"kty": "RSA", "n": 7}, "key", {"use": "enc"}]}),
    ]:
        with subtests.test(place=place, answer=str(answer)[:100]):
            issuer.answers[place] = answer if callable(answer) else lambda handler, answer=answer: send(handler, answer)
            response = offer(client, issuer.token())
            assert refused(response, 503, "unavailable")["retryable"] is True
            assert "could not be fetched" in reasons(client)[0]
            del issuer.answers[place]
    assert offer(client, issuer.token()).status_code == 200, "and then it does"
    assert "/real" not in issuer.asked


def test_which_rule_takes_it(
    client: TestClient, issuer: Issuer, rule: dict[str, Any], other: dict[str, str], refused: Refused
) -> None:
    theirs = add_rule(client, issuer, headers=other, scopes=["read"], key_seconds=60, jwks_url=f"{issuer.url}/keys")
    refused(offer(client, issuer.token()), 403, "token_refused", "/token")
    assert reasons(client)[0].startswith("several rules")
    given = offer(client, issuer.token(), trust_rule=theirs["id"]).json()
    assert (given["project"], given["scope"], given["expires_in"]) == ("prj_other", "read", 60)
    refused(offer(client, issuer.token(), trust_rule="tr_none"), 403, "token_refused", "/token")
    changed = client.patch(f"/v1/trust_rules/{theirs['id']}", json={"audience": "team"}, headers=other)
    assert changed.json()["audience"] == "team"
    mine = offer(client, issuer.token()).json()
    assert mine["scope"] == "read write"
    assert client.delete(f"/v1/trust_rules/{rule['id']}").status_code == 204
    opened = client.get("/v1/jobs", headers={"Authorization": f"Bearer {mine['access_token']}"})
    refused(opened, 401, "unauthorized", "header:authorization")


def test_what_is_wrong_with_a_rule(client: TestClient, refused: Refused, subtests: pytest.Subtests) -> None:
    good = {
        "name": "ci",
        "issuer": "https://issuer.example",
        "audience": "espalier",
        "conditions": {"repository": "a/b"},
        "scopes": ["read"],
    }
    for changes, param in [
        ({"issuer": "ftp://issuer.example"}, "/issuer"),
        ({"issuer": "https://user@issuer.example"}, "/issuer"),
        ({"jwks_url": "https://[::1/"}, "/jwks_url"),
        ({"jwks_url": "https://issuer.example/#a"}, "/jwks_url"),
        ({"conditions": {}}, "/conditions"),
        ({"conditions": {"sub": "*", "repository": "**"}}, "/conditions"),
        ({"scopes": ["admin"]}, "/scopes/0"),
        ({"key_seconds": 901}, "/key_seconds"),
    ]:
        with subtests.test(changes=changes):
            refused(client.post("/v1/trust_rules", json=good | changes), 422, "invalid_request", param)


def test_plain_http_is_for_tests_alone(
    client: TestClient, settings: Settings, refused: Refused, issuer: Issuer
) -> None:
    body = {"name": "ci", "issuer": issuer.url, "audience": "a", "conditions": {"sub": "b"}, "scopes": ["read"]}
    usual = settings.model_copy(update={"oidc_addresses": "private"})
    with TestClient(create_app(usual), headers=client.headers) as strict:
        refused(strict.post("/v1/trust_rules", json=body), 422, "invalid_request", "/issuer")
        add_rule(client, issuer)  # made while it was allowed
        refused(offer(strict, issuer.token()), 503, "unavailable")
    assert not issuer.asked


def test_a_pattern_matches_the_whole_and_stars_are_all_it_knows() -> None:
    for pattern, value in [("a/b", "a/b"), ("refs/*", "refs/heads/a/b"), ("*", ""), ("a*b*c", "a-b-b-c"), ("*x", "xx")]:
        assert matches(pattern, value), (pattern, value)
    for pattern, value in [
        ("a/b", "a/b2"),
        ("a/b", "xa/b"),
        ("a?", "ab"),
        ("[ab]", "a"),
        ("ab*ba", "aba"),
    ]:
        assert not matches(pattern, value), (pattern, value)
    begun = time.monotonic()
    assert not matches("*a" * 200 + "b", "a" * 10_000)
    assert time.monotonic() - begun < 1
