"""What requests and problems look like, for the OpenAPI document: one example of each body, and of each code."""

from __future__ import annotations

from typing import Any

from api.problems import PROBLEMS, Code

BODIES: dict[str, dict[str, Any]] = {
    "TokenRequest": {"token": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJyZXBvOm8vciJ9.c2lnbmF0dXJl"},
    "JobRequest": {
        "model": "mdl_06h0z5t89s5ksfwq8zv410bhfp",
        "dataset": "ds_06h0z5tbwk1amdbeqx66smnmrv",
        "recipe": {"strategy": "lottery_ticket_reset", "stop": {"rounds": 5, "sparsity": 0.6}, "seed": 0},
        "gates": [{"metric": "accuracy", "op": ">=", "value": 0.95}],
        "metadata": {"sha": "1a2b3c"},
    },
    "JobChange": {"metadata": {"branch": "main", "draft": None}, "priority": 10},
    "LinkRequest": {"expires_in_seconds": 600},
    "ProjectRequest": {"name": "vision", "quotas": {"live_jobs": 10, "stored_bytes": 50_000_000_000}},
    "ProjectChange": {"quotas": {"live_jobs": 20, "stored_bytes": None}},
    "KeyRequest": {"name": "ci", "scopes": ["read", "write"], "expires_at": "2035-01-31T12:00:00Z"},
    "KeyChange": {"scopes": ["read"]},
    "RotationRequest": {"overlap_seconds": 86400},
    "TrustRuleRequest": {
        "name": "main branch",
        "issuer": "https://token.actions.githubusercontent.com",
        "audience": "https://espalier.example.com",
        "conditions": {"repository": "octo-org/network", "ref": "refs/heads/main"},
        "scopes": ["read", "write"],
    },
    "TrustRuleChange": {"conditions": {"repository": "octo-org/network", "ref": "refs/tags/*"}},
    "WebhookRequest": {"url": "https://ci.example.com/espalier", "events": ["job.succeeded", "job.failed"]},
    "WebhookChange": {"enabled": True},
}
"""By the name of the body's schema."""

_SAID: dict[Code, tuple[str, str | None]] = {
    "bad_request": ("There was an error parsing the body", None),
    "invalid_json": ("the body is not JSON: Expecting value: line 1 column 2 (char 1)", ""),
    "unauthorized": ("the key is unknown, expired or revoked", None),
    "insufficient_scope": (
        "this needs a key with the scope write; GET /v1/keys lists the project's, for its admin",
        None,
    ),
    "quota_exceeded": ("the project may have 10 live jobs; wait until one ends, or cancel one", None),
    "token_refused": ("no trust rule takes this token; the project's audit log says why", None),
    "invalid_link": ("the link was not made here, or was changed", "query:token"),
    "not_found": ("there is no job_06h0z5t89s5ksfwq8zv410bhfp in this project", None),
    "method_not_allowed": ("PUT is not allowed here; the header Allow lists what is", None),
    "invalid_transition": ("the job is succeeded, and cannot be paused", None),
    "not_ready": ("the model is still being validated; try again when its status is ready", "/model"),
    "no_sensitivity": (
        "the recipe of job_06h0z5t89s5ksfwq8zv410bhfp asks for none; post one with sensitivity: true",
        None,
    ),
    "not_measured_yet": ("round 0 of job_06h0z5t89s5ksfwq8zv410bhfp is not stored yet; ask again when it is", None),
    "in_use": ("a job refers to it; delete the job first", None),
    "idempotency_in_progress": ("the first request with this key is not answered yet", "header:idempotency-key"),
    "link_expired": ("the link has expired; make another", "query:token"),
    "mismatching_upload_offset": (
        "the upload waits for byte 4096, and this content begins at 0; go on from 4096",
        "header:upload-offset",
    ),
    "superseded": ("a later request took the upload over; ask with HEAD where it is", None),
    "incomplete_upload": ("the upload is not complete; send the rest first", "query:upload"),
    "completed_upload": ("the upload is complete already", None),
    "inconsistent_upload_length": ("the length of the whole is said to be 9 and 12", "header:upload-length"),
    "too_many_webhooks": ("the project has as many webhooks as it may; delete one", None),
    "webhook_disabled": ("the webhook is disabled; enable it first", None),
    "too_large": ("a JSON body may have 1048576 bytes, this one has more", ""),
    "unsupported_media_type": ("send JSON, with Content-Type: application/json", "header:content-type"),
    "range_not_satisfiable": ("the content has 4096 bytes", "header:range"),
    "invalid_request": ("Input should be less than or equal to 100", "/priority"),
    "unsupported_format": ("a pickle runs code when it is read; write it with torch.export.save", ""),
    "invalid_content": ("this is no npz file, which begins as a zip does; write it with numpy.savez", ""),
    "digest_mismatch": ("the content is not what its digest promises; send it again", "header:content-digest"),
    "invalid_reference": ("the model was found invalid; its error says why", "/model"),
    "dataset_mismatch": ("the dataset has 10 classes, and the model 100 outputs", "/dataset"),
    "recipe_refused": ("no layer of the model has units that can be pruned", "/recipe/granularity"),
    "rate_limited": ("the key may make 1200 requests in 1 minute; go on in 7 seconds", None),
    "idempotency_mismatch": ("the key came before, with another body", "header:idempotency-key"),
    "too_many_uploads": ("64 uploads of this project are not complete; end one, or delete one", None),
    "internal_error": ("the service failed; its log names this request_id", None),
    "unavailable": ("the store does not answer at the moment; try again", None),
    "insufficient_storage": ("the service has no room left; try again when its operator has made some", None),
}
_MEMBERS: dict[Code, dict[str, Any]] = {
    "insufficient_scope": {"scope": "write"},
    "quota_exceeded": {"quota": "live_jobs", "limit": 10, "used": 11},
    "invalid_transition": {"allowed": ["retry"]},
}


def _problem(code: Code) -> dict[str, Any]:
    kind, (detail, param) = PROBLEMS[code], _SAID[code]
    return {
        "type": f"urn:espalier:problem:{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "code": code,
        "param": param,
        "errors": [] if param is None else [{"code": code, "param": param, "message": detail}],
        "request_id": "req_06h0z5x0qz30r16n9hjagjjk2d",
        "retryable": kind.retryable,
        **_MEMBERS.get(code, {}),
    }


EXAMPLES: dict[Code, dict[str, Any]] = {code: _problem(code) for code in PROBLEMS}
"""A whole problem document of each code."""


def show(document: dict[str, Any]) -> None:
    """Put them into the OpenAPI document, where they belong."""
    document["components"]["examples"] = {code: {"value": example} for code, example in EXAMPLES.items()}
    for item in document["paths"].values():
        for operation in item.values():
            for answer in operation["responses"].values():
                if (problem := answer.get("content", {}).get("application/problem+json")) is not None:
                    codes = [code for code in PROBLEMS if f"`{code}`:" in answer["description"]]
                    problem["examples"] = {code: {"$ref": f"#/components/examples/{code}"} for code in codes}
            for body in operation.get("requestBody", {}).get("content", {}).values():
                for branch in (body["schema"], *body["schema"].get("anyOf", ())):
                    if (name := branch.get("$ref", "").rpartition("/")[2]) in BODIES:
                        body["example"] = BODIES[name]
