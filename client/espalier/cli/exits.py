"""What the process ends with, so that a script knows without reading."""

from __future__ import annotations

from enum import IntEnum

from espalier.errors import (
    ApiError,
    DigestMismatch,
    EspalierError,
    JobFailed,
    NotAllowed,
    NotVerified,
    RateLimited,
    ServiceFailed,
    Unreachable,
    WaitTimedOut,
)


class Exit(IntEnum):
    PASSED = 0
    GATE_FAILED = 1
    USAGE = 2
    JOB_FAILED = 3
    CANCELED = 4
    GAVE_UP = 5
    SERVICE = 6
    INTERRUPTED = 130


_CONCLUSIONS = {
    "passed": Exit.PASSED,
    "gate_failed": Exit.GATE_FAILED,
    "error": Exit.JOB_FAILED,
    "canceled": Exit.CANCELED,
    "timed_out": Exit.CANCELED,
}


def of_conclusion(conclusion: str | None) -> Exit:
    """Of a job or a comparison that has ended."""
    return _CONCLUSIONS[conclusion or "error"]


def of_error(error: EspalierError | OSError) -> Exit:
    if isinstance(error, JobFailed):
        return of_conclusion(error.job["conclusion"])
    if isinstance(error, WaitTimedOut):
        return Exit.GAVE_UP
    if isinstance(error, NotVerified):
        return Exit.GATE_FAILED
    if isinstance(error, (Unreachable, NotAllowed, RateLimited, ServiceFailed, DigestMismatch)):
        return Exit.SERVICE
    return Exit.USAGE


def advice(error: EspalierError | OSError) -> str | None:
    """What to do next."""
    if isinstance(error, Unreachable):
        return (
            "is the service running, and is this its URL? See --url, ESPALIER_URL, `espalier login`, `espalier serve`"
        )
    if isinstance(error, ApiError) and error.status == 401:
        return "give a key: --api-key, ESPALIER_API_KEY or `espalier login`"
    if isinstance(error, ApiError) and error.status == 403:
        return "this key may not do that; docs/access.md says which scopes there are"
    if isinstance(error, ServiceFailed):
        return "try again later; the service's log names the request" + _request(error)
    if isinstance(error, ApiError) and (allowed := error.problem.get("allowed")):
        return f"as things stand, this can be done: {', '.join(allowed)}"
    return None


def _request(error: ApiError) -> str:
    return f" {error.problem['request_id']}" if "request_id" in error.problem else ""
