"""Requests made from the OpenAPI document, valid and not: every answer is one that the document promises.

`make contract` runs the same with more examples (CONTRACT_EXAMPLES). Real rows are in reach: half of the ids in paths
are theirs. Every failure is collected before the test fails, each once, with the curl command that shows it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from hypothesis.errors import FlakyStrategyDefinition, Unsatisfiable
from issuer import running_issuer
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.python.asgi import shutdown_lifespans
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from starlette.testclient import TestClient

from api.app import create_app
from api.examples import BODIES
from store.database import Database
from store.settings import Settings

EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "3"))
pytestmark = pytest.mark.timeout(600 if EXAMPLES < 10 else 6 * 3600)

HOW = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # what one request left behind, the next one meets: there is nothing to shrink
    suppress_health_check=list(HealthCheck),
)


NOT_IN_A_SCHEMA = {
    "GET /links": "its token is signed",
    "POST /v1/auth/token": "its token is signed",
    "POST /v1/jobs": "a recipe's fields depend on each other, and on the strategy that fills them in",
    "POST /v1/comparisons": "the same, of each recipe; and either recipes or a grid",
    "POST /v1/models": "what a format needs beside it, or forbids",
    "POST /v1/datasets": "no body beside upload=",
    "POST /v1/keys": "expires_at is to come",
    "PATCH /v1/keys/{key_id}": "expires_at is to come; and the key must be alive",
    "POST /v1/keys/{key_id}/rotate": "expires_at is to come; a key is rotated once",
}
"""Where a request that fits the document may be refused as invalid, and which rule the document has no words for."""
PASSED_OVER = {"POST /v1/uploads", "PATCH /v1/uploads/{upload_id}"}
"""Where a head that is wrong counts as absent, as the draft of resumable uploads and RFC 9530 ask."""

MALFORMED = {"bad_request", "invalid_json", "invalid_request", "method_not_allowed", "unsupported_media_type"}


@schemathesis.serializer("application/partial-upload")
def as_it_is(ctx: schemathesis.SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else bytes(getattr(value, "data", b""))


class Found:
    def __init__(self) -> None:
        self.failures: dict[tuple[str, str, int], str] = {}
        self.statuses: dict[str, set[int]] = {}

    def check(self, case: Case, **call: Any) -> None:
        self.judge(case.call(**call), case, **call)

    def judge(self, response: Any, case: Case, **call: Any) -> None:
        label = case.operation.label
        self.statuses.setdefault(label, set()).add(response.status_code)
        excluded = [negative_data_rejection] if label in PASSED_OVER else []
        if 400 <= response.status_code < 500 and case.method != "HEAD":
            code = response.json()["code"]
            # Another code says what a file holds, or how it is with a row: not the schema's to know.
            if code not in MALFORMED or (code == "invalid_request" and label in NOT_IN_A_SCHEMA):
                excluded.append(positive_data_acceptance)
        try:
            case.validate_response(response, transport_kwargs=call, excluded_checks=excluded)
        except FailureGroup as group:
            for failure in group.exceptions:
                key = (case.operation.label, failure.title, response.status_code)
                self.failures.setdefault(key, str(group)[:3000] + repr(case))

    def report(self) -> None:
        for label in sorted(self.statuses):
            print(label, sorted(self.statuses[label]))
        assert not self.failures, "\n\n".join(f"## {key}\n{text}" for key, text in sorted(self.failures.items()))


@pytest.fixture
def headers(settings: Settings) -> dict[str, str]:
    assert settings.api_key is not None
    return {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}


@pytest.fixture
def ids(job_id: str, client: TestClient) -> dict[str, str]:
    """A real row for every name of a path."""

    def made(path: str, **body: Any) -> str:
        response = client.post(f"/v1/{path}", json=body)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    job = client.get(f"/v1/jobs/{job_id}").json()
    artifacts = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    webhook = made("webhooks", url="https://example.com/hook", events=["job.succeeded"])
    client.post(f"/v1/webhooks/{webhook}/ping")
    [delivery] = client.get(f"/v1/webhooks/{webhook}/deliveries").json()["data"]
    upload = client.post("/v1/uploads", headers={"Upload-Complete": "?0", "Upload-Length": "9"})
    assert upload.status_code == 201, upload.text
    return {
        "job_id": job_id,
        "model_id": job["model"],
        "dataset_id": job["dataset"],
        "artifact_id": artifacts[0]["id"],
        "number": "1",
        "upload_id": upload.headers["location"].rpartition("/")[2],
        "webhook_id": webhook,
        "delivery_id": delivery["id"],
        "key_id": made("keys", name="spare", scopes=["read"]),
        "project_id": made("projects", name="spare"),
        "comparison_id": made(
            "comparisons",
            model=job["model"],
            dataset=job["dataset"],
            recipes=[{"recipe": {"strategy": "lottery_ticket_reset"}}],
        ),
        "trust_rule_id": made(
            "trust_rules",
            name="ci",
            issuer="https://token.actions.githubusercontent.com",
            audience="espalier",
            conditions={"repository": "o/r"},
            scopes=["write"],
        ),
    }


@pytest.fixture
def schema(settings: Settings, database: Database, ids: dict[str, str]) -> Iterator[Any]:
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(settings))
    schema.config.generation.update(with_security_parameters=False)  # every request here bears a key
    yield schema
    shutdown_lifespans()


def test_every_operation_answers_as_documented(schema: Any, ids: dict[str, str], headers: dict[str, str]) -> None:
    found = Found()
    operations: list[APIOperation] = [result.ok() for result in schema.get_all_operations()]
    for operation in sorted(operations, key=lambda operation: operation.method == "delete"):
        for mode in GenerationMode:
            if mode.is_negative and not (operation.query or operation.headers or operation.body):
                continue  # any text may be an id: nothing of it can be wrong
            try:
                strategy = operation.as_strategy(mode)

                @HOW
                @given(case=strategy, real=strategies.booleans())
                def check(case: Case, real: bool) -> None:
                    if real:
                        for name in case.path_parameters or {}:
                            case.path_parameters[name] = ids[name]
                    found.check(case, headers=headers)

                check()
            except Unsatisfiable:
                pass  # nothing of this operation can be wrong
            except Exception as error:
                found.failures[operation.label, f"{mode} {type(error)}", 0] = str(error)[:500]
    found.report()


def test_every_operation_takes_the_requests_that_it_is_for(
    settings: Settings, database: Database, ids: dict[str, str], posted: Any, headers: dict[str, str]
) -> None:
    """One right request for each, with the document's own example for its body: no wrong guess of a fuzzer reaches what
    lies behind all checks."""
    app = create_app(settings.model_copy(update={"oidc_addresses": "loopback"}))
    with running_issuer() as issuer, TestClient(app, headers=headers) as client:

        def made(path: str, **call: Any) -> str:
            return str(client.post(f"/v1/{path}", **call).raise_for_status().json()["id"])

        github = client.get(f"/v1/trust_rules/{ids['trust_rule_id']}").json()
        rule = {name: github[name] for name in ("name", "audience", "conditions", "scopes")}
        made("trust_rules", json=rule | {"issuer": issuer.url, "conditions": {"ref": "refs/heads/*"}})
        model, dataset = ids["model_id"], ids["dataset_id"]
        queued, canceled = posted()["id"], posted()["id"]
        seeded = {"format": "architecture", "architecture": "lenet5"}
        archive: dict[str, Any] = {"params": {"format": "npz"}, "content": b"PK\x03\x04"}
        whole = {"Upload-Complete": "?1"}
        token = client.post(f"/v1/artifacts/{ids['artifact_id']}/links").json()["url"].partition("token=")[2]
        comparison = BODIES["ComparisonRequest"] | {"model": model, "dataset": dataset}
        to_pause, to_end, to_delete = ({"comparison_id": made("comparisons", json=comparison)} for _ in range(3))
        client.post(f"/v1/comparisons/{to_delete['comparison_id']}/cancel").raise_for_status()
        special: dict[str, dict[str, Any]] = {
            "GET /links": {"params": {"token": token}},
            "POST /v1/auth/token": {"json": {"token": issuer.token()}},
            "POST /v1/uploads": {"headers": whole, "content": b"content"},
            "PATCH /v1/uploads/{upload_id}": {
                "headers": whole | {"Upload-Offset": "0", "Content-Type": "application/partial-upload"},
                "content": b"123456789",
            },
            "POST /v1/models": {"params": seeded},
            "POST /v1/datasets": archive,
            "POST /v1/jobs": {"json": BODIES["JobRequest"] | {"model": model, "dataset": dataset}},
            "POST /v1/comparisons": {"json": comparison},
        }
        rows: dict[str, dict[str, str]] = {
            "PATCH /v1/jobs/{job_id}": {"job_id": queued},
            "POST /v1/jobs/{job_id}/pause": {"job_id": queued},
            "POST /v1/jobs/{job_id}/resume": {"job_id": queued},
            "POST /v1/jobs/{job_id}/cancel": {"job_id": canceled},
            **{
                f"POST /v1/comparisons/{{comparison_id}}/{verb}": to_end if verb in ("cancel", "retry") else to_pause
                for verb in ("pause", "resume", "cancel", "retry")
            },
            "DELETE /v1/comparisons/{comparison_id}": to_delete,
            "DELETE /v1/models/{model_id}": {"model_id": made("models", params=seeded)},
            "DELETE /v1/datasets/{dataset_id}": {"dataset_id": made("datasets", **archive)},
        }
        refused = {}
        for label, operation in sorted(_operations(app.openapi()), key=lambda pair: pair[0].startswith("DELETE")):
            method, path = label.split(" ")
            if "/sensitivity" in path:
                continue  # of a job whose recipe asks for it: test_sensitivity
            call = special.get(label, {})
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is not None and not call:
                call = {"json": body["example"]}
            response = client.request(method, path.format(**ids | rows.get(label, {})), **call)
            if str(response.status_code) not in operation["responses"] or response.status_code >= 300:
                refused[label] = response.text
        assert not refused


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def test_what_one_operation_answers_fits_the_next(schema: Any, headers: dict[str, str]) -> None:
    """Sequences: an id of one answer goes into the path of the next request, before and after it is deleted."""
    found = Found()

    class Machine(schema.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return {"headers": headers}

        def validate_response(self, response: Any, case: Case, *args: Any, **kwargs: Any) -> None:
            found.judge(response, case, headers=headers)

    # The rows of one sequence are there in the next: Hypothesis may end when it finds out that it is not alone.
    with suppress(FlakyStrategyDefinition):
        Machine.run(settings=settings(HOW, max_examples=EXAMPLES * 4, stateful_step_count=12))
    found.report()
    assert {200, 204, 404} <= set().union(*found.statuses.values())
